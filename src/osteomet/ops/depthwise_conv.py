"""Depthwise 3D convolution: each channel has its own kernel, as ConvNeXt's 7 x 7 x 7.

torch's forward pass of this layer runs near the speed of a matrix product on a CPU, but its
backward pass takes 20 to 50 times as long, most of a training step. Of the two gradients,
that of the input is a forward pass with the kernel flipped, so only that of the weights
needs a loop of our own.

The loop works on blocks of 16 channels, which are one AVX-512 register (two of AVX2), side
by side in memory. For one row of voxels it holds the 7 taps of x and 6 voxels of the
gradient at once, so that 13 loads feed 42 multiplications.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from osteomet.ops.acceleration import (
    channels_last_array,
    compile_kernel,
    run_blocks,
    uses_numba,
)

Features = Float[Tensor, "batch channels depth height width"]

SIDE = 7
"""Side of the kernels that have a fast gradient."""
HALF = SIDE // 2
LANES = 16
"""Channels that one instruction multiplies."""
STEP = 6
"""Voxels of a row taken at once; rows of 3, 6, 12, 24 and 48 leave no or few empty places."""
TAPS = SIDE * SIDE * LANES
ROWS = 8
"""Rows whose products are summed in float32, before the sum joins one in float64."""

SMALL = 100_000
"""Values of ``x`` below which to wake a second thread takes longer than the work."""


def depthwise_conv3d(
    x: Features, weight: Float[Tensor, "channels 1 k k k"], bias: Float[Tensor, " channels"]
) -> Features:
    """Convolve each channel with its own cube, padded with zeros to keep the size.

    Under autocast it computes in autocast's dtype, as ``conv3d`` does.

    Args:
        x: features; contiguous or ``channels_last_3d``, and so is the result. The latter is
            faster.
        weight: one cube of odd side a channel.
        bias: one number a channel.

    Raises:
        ValueError: The side of the cube is even.
    """
    side = weight.shape[-1]
    if side % 2 == 0:
        raise ValueError(f"the kernel has side {side}; expected an odd one, which has a centre")
    kind = x.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    if side != SIDE or not uses_numba(x):
        return F.conv3d(x, weight, bias, padding=side // 2, groups=weight.shape[0])
    apply: Callable[..., Tensor] = _DepthwiseConv3d.apply
    return apply(x, weight, bias)


class _DepthwiseConv3d(torch.autograd.Function):
    """The convolution on the CPU, with a gradient of the weights that is as fast as it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        channels_last = x.contiguous(memory_format=torch.channels_last_3d)
        ctx.save_for_backward(channels_last, weight)
        ctx.is_plain = x.is_contiguous()
        y = F.conv3d(channels_last, weight, bias, padding=HALF, groups=len(weight))
        return y.contiguous() if ctx.is_plain else y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last_3d)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            flipped = weight.flip(2, 3, 4)
            grad_x = F.conv3d(grad, flipped, padding=HALF, groups=len(weight))
            grad_x = grad_x.contiguous() if ctx.is_plain else grad_x
        if ctx.needs_input_grad[1]:
            grad_weight = weight_gradient(x.float(), grad.float()).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(dim=(0, 2, 3, 4))
        return grad_x, grad_weight, grad_bias


def weight_gradient(x: Features, grad: Features) -> Float[Tensor, "channels 1 7 7 7"]:
    """Return the gradient of the weights of a 7-cubed kernel, given that of the output.

    The same for any number of threads. Sums over a few rows are float32, sums of those
    float64, so the error does not grow with the size of the map.
    """
    batch, channels, depth, height, width = x.shape
    blocks, steps = -(-channels // LANES), -(-width // STEP)
    shape = (blocks, batch, depth, height)
    rows = np.empty((*shape, (steps * STEP + SIDE - 1) * LANES), np.float32)
    grads = np.empty((*shape, steps * STEP * LANES), np.float32)
    run = partial(run_blocks, max_threads=1 if x.numel() < SMALL else None)
    run(_pack, blocks, channels_last_array(x), rows, HALF)
    run(_pack, blocks, channels_last_array(grad), grads, 0)
    sums = np.empty((blocks, SIDE, SIDE, SIDE, LANES))
    run(_correlate, blocks * SIDE, rows, grads, sums.reshape(blocks * SIDE, TAPS))
    by_channel = torch.from_numpy(sums).permute(0, 4, 1, 2, 3).flatten(0, 1)[:channels, None]
    return by_channel.to(torch.float32, memory_format=torch.contiguous_format)


@compile_kernel
def _pack(block: int, features: np.ndarray, packed: np.ndarray, margin: int) -> None:
    """Copy one block of channels to where they lie side by side, with zeros around each row."""
    batch, depth, height, width, channels = features.shape
    first = block * LANES
    lanes = min(LANES, channels - first)
    for b in range(batch):
        for z in range(depth):
            for y in range(height):
                row = packed[block, b, z, y]
                row[: margin * LANES] = 0
                row[(margin + width) * LANES :] = 0
                for x in range(width):
                    start = (margin + x) * LANES
                    row[start : start + lanes] = features[b, z, y, x, first : first + lanes]
                    row[start + lanes : start + LANES] = 0


@compile_kernel
def _add_row(taps: np.ndarray, row: np.ndarray, grad_row: np.ndarray) -> None:
    """Add the products of a row of the gradient and a row of ``x`` to its 7 taps.

    A step multiplies 6 gradients with the 12 voxels around them. It is written out, because
    only so does LLVM keep all of them in registers: three times faster than as loops.
    """
    for start in range(0, len(grad_row), STEP * LANES):
        g = grad_row[start : start + STEP * LANES]
        x = row[start : start + (STEP + SIDE - 1) * LANES]
        for c in range(LANES):
            g0 = g[c]
            g1 = g[c + LANES]
            g2 = g[c + 2 * LANES]
            g3 = g[c + 3 * LANES]
            g4 = g[c + 4 * LANES]
            g5 = g[c + 5 * LANES]
            x0 = x[c]
            x1 = x[c + LANES]
            x2 = x[c + 2 * LANES]
            x3 = x[c + 3 * LANES]
            x4 = x[c + 4 * LANES]
            x5 = x[c + 5 * LANES]
            x6 = x[c + 6 * LANES]
            x7 = x[c + 7 * LANES]
            x8 = x[c + 8 * LANES]
            x9 = x[c + 9 * LANES]
            x10 = x[c + 10 * LANES]
            x11 = x[c + 11 * LANES]
            taps[c] += g0 * x0 + g1 * x1 + g2 * x2 + g3 * x3 + g4 * x4 + g5 * x5
            taps[c + LANES] += g0 * x1 + g1 * x2 + g2 * x3 + g3 * x4 + g4 * x5 + g5 * x6
            taps[c + 2 * LANES] += g0 * x2 + g1 * x3 + g2 * x4 + g3 * x5 + g4 * x6 + g5 * x7
            taps[c + 3 * LANES] += g0 * x3 + g1 * x4 + g2 * x5 + g3 * x6 + g4 * x7 + g5 * x8
            taps[c + 4 * LANES] += g0 * x4 + g1 * x5 + g2 * x6 + g3 * x7 + g4 * x8 + g5 * x9
            taps[c + 5 * LANES] += g0 * x5 + g1 * x6 + g2 * x7 + g3 * x8 + g4 * x9 + g5 * x10
            taps[c + 6 * LANES] += g0 * x6 + g1 * x7 + g2 * x8 + g3 * x9 + g4 * x10 + g5 * x11


@compile_kernel
def _correlate(task: int, rows: np.ndarray, grads: np.ndarray, sums: np.ndarray) -> None:
    """Sum the products for one block of channels and one offset in z of the kernel."""
    block, kz = task // SIDE, task % SIDE
    batch, depth, height = rows.shape[1:4]
    part = np.zeros(TAPS, np.float32)
    total = sums[task]
    total[:] = 0
    for b in range(batch):
        for z in range(max(0, HALF - kz), min(depth, depth + HALF - kz)):
            for y in range(height):
                grad_row = grads[block, b, z, y]
                for ky in range(max(0, HALF - y), min(SIDE, height + HALF - y)):
                    row = rows[block, b, z + kz - HALF, y + ky - HALF]
                    taps = part[ky * SIDE * LANES : (ky + 1) * SIDE * LANES]
                    _add_row(taps, row, grad_row)
                if y % ROWS == ROWS - 1 or y == height - 1:
                    for i in range(TAPS):
                        total[i] += part[i]
                        part[i] = 0
