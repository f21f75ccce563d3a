"""Depthwise 3D convolution: each channel has its own kernel, as ConvNeXt's 7 x 7 x 7.

torch's forward pass of this layer runs near the speed of a matrix product on a CPU, but its
backward pass takes 20 to 50 times as long, most of a training step. Of the two gradients,
that of the input is a forward pass with the kernel flipped, so only that of the weights
needs a loop of our own.
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

from osteomet.ops.acceleration import channels_last_array, run_ranges, uses_numba
from osteomet.ops.depthwise_kernels import (
    HALF,
    LANES,
    SIDE,
    STEPS,
    TAPS,
    collect,
    correlate,
    pack,
)

Features = Float[Tensor, "batch channels depth height width"]

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
    step = min(STEPS, key=lambda voxels: -width % voxels)
    blocks, places = -(-channels // LANES), width + -width % step
    shape = (blocks, batch, depth, height)
    rows = np.empty((*shape, (places + SIDE - 1) * LANES), np.float32)
    grads = np.empty((*shape, places * LANES), np.float32)
    run = partial(run_ranges, max_threads=1 if x.numel() < SMALL else None)
    run(pack, blocks, channels_last_array(x), rows, HALF)
    run(pack, blocks, channels_last_array(grad), grads, 0)
    sums = np.empty((blocks * SIDE, TAPS))
    run(correlate, blocks * SIDE, step, rows, grads, sums)
    gradient = torch.empty(channels, SIDE**3)
    collect(sums.reshape(blocks, -1, LANES), gradient.numpy())
    return gradient.view(channels, 1, SIDE, SIDE, SIDE)
