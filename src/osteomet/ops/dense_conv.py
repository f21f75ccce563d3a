"""Dense 3 x 3 x 3 convolution of few channels, as a mask head's.

On a CPU torch computes it and the gradient of its input at the speed of a matrix product, but the
gradient of its weights at less than half of that. With few outputs the loops here keep up.
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

from osteomet.ops.acceleration import compile_kernel, run_ranges, uses_numba

Features = Float[Tensor, "batch channels z y x"]
Output = Float[Tensor, "batch out z y x"]
Weight = Float[Tensor, "out channels 3 3 3"]

SIDE = 3
FEW, MOST = 16, 24
"""Outputs that a loop takes at once; more than the latter are torch's."""
STEP = 4
"""Voxels of a row that are taken at once."""


def dense_conv3d(x: Features, weight: Weight, bias: Float[Tensor, " out"]) -> Output:
    """Return ``F.conv3d(x, weight, bias, padding=1)``."""
    numbers = (x, weight, bias)
    fits = uses_numba(*numbers) and all(tensor.dtype == torch.float32 for tensor in numbers)
    if not fits or len(weight) > MOST or torch.is_autocast_enabled(x.device.type):
        return F.conv3d(x, weight, bias, padding=1)
    apply: Callable[..., Tensor] = _DenseConv3d.apply
    return apply(x, weight, bias)


class _DenseConv3d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv3d(x, weight, bias, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = F.conv3d(grad, weight.flip(2, 3, 4).transpose(0, 1), padding=1)
        if ctx.needs_input_grad[1]:
            grad_weight = weight_gradient(x, grad)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(dim=(0, 2, 3, 4))
        return grad_x, grad_weight, grad_bias


def weight_gradient(x: Features, grad: Output) -> Weight:
    """Return the gradient of the weights, given that of at most ``MOST`` outputs.

    The same for any number of threads. Sums over an image are float32, sums of those float64.
    """
    outputs, inputs, width = grad.shape[1], x.shape[1], x.shape[4]
    lanes = FEW if outputs <= FEW else MOST
    missing = -width % STEP
    rows = F.pad(x.detach().movedim(1, -1), (0, 0, 1, 1 + missing)).flatten(3)
    grads = F.pad(grad.detach().movedim(1, -1), (0, lanes - outputs, 0, missing)).flatten(3)
    sums = np.zeros((SIDE * SIDE, inputs, SIDE * lanes))
    arrays = rows.contiguous().numpy(), grads.contiguous().numpy(), sums
    run_ranges(_correlate, SIDE * SIDE, lanes, *arrays)
    gradient = torch.from_numpy(sums).view(SIDE, SIDE, inputs, SIDE, lanes)[..., :outputs]
    return gradient.permute(4, 2, 0, 1, 3).float().contiguous()


@compile_kernel
def _correlate(
    first: int, last: int, lanes: int, rows: np.ndarray, grads: np.ndarray, sums: np.ndarray
) -> None:
    """Sum the products of offsets in z and y of the kernel, of which each is a task."""
    batch, depth, height = grads.shape[:3]
    inputs = sums.shape[1]
    part = np.empty((inputs, sums.shape[2]), np.float32)
    for task in range(first, last):
        kz, ky = task // SIDE - 1, task % SIDE - 1
        for b in range(batch):
            part[:] = 0
            for z in range(max(0, -kz), min(depth, depth - kz)):
                for y in range(max(0, -ky), min(height, height - ky)):
                    _add_row(part, rows[b, z + kz, y + ky], grads[b, z, y], lanes)
            sums[task] += part


@compile_kernel
def _add_row(sums: np.ndarray, row: np.ndarray, grad: np.ndarray, lanes: int) -> None:
    inputs = len(sums)
    for start in range(0, len(grad) // lanes, STEP):
        for c in range(inputs):
            if lanes == FEW:  # a count known when compiling makes vectors of the outputs
                _add_step(sums[c], row[start * inputs + c :], grad[start * lanes :], inputs, FEW)
            else:
                _add_step(sums[c], row[start * inputs + c :], grad[start * lanes :], inputs, MOST)


@partial(compile_kernel, inline=True)
def _add_step(sums: np.ndarray, x: np.ndarray, grad: np.ndarray, inputs: int, lanes: int) -> None:
    """Add to 3 taps the products of 4 gradients and one input of the 6 voxels around them."""
    x0, x1, x2 = x[0], x[inputs], x[2 * inputs]
    x3, x4, x5 = x[3 * inputs], x[4 * inputs], x[5 * inputs]
    for i in range(lanes):
        g0, g1, g2, g3 = grad[i], grad[i + lanes], grad[i + 2 * lanes], grad[i + 3 * lanes]
        t0, t1, t2 = sums[i], sums[i + lanes], sums[i + 2 * lanes]
        t0 += g0 * x0 + g1 * x1 + g2 * x2 + g3 * x3
        t1 += g0 * x1 + g1 * x2 + g2 * x3 + g3 * x4
        t2 += g0 * x2 + g1 * x3 + g2 * x4 + g3 * x5
        sums[i], sums[i + lanes], sums[i + 2 * lanes] = t0, t1, t2
