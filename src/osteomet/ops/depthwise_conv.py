"""Depthwise 3D convolution: each channel has its own kernel, as ConvNeXt's 7 x 7 x 7.

On a CPU torch's forward pass of this layer runs near the speed of a matrix product where there
is AVX-512, at a quarter of the speed of the loops here where there is none. Its backward pass takes
many times as long, which would be most of a training step. Of the two gradients, that of the input
is a forward pass with the kernel flipped; that of the weights needs a loop of its own everywhere.

The loops take a third of the plain products (``minimal_filtering``). Results differ from exact ones
by 1e-5 of the largest at most, some five times as much as those of plain sums in float32; beside an
infinite number they are NaN.
"""

import math
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
    SEEN,
    SIDE,
    TAPS,
    convolve,
    correlate,
    images_at_once,
    pack_weights,
    tiles,
    turn_sums_back,
    turn_weights,
    voxels_at_once,
)
from osteomet.ops.depthwise_small import convolve_small, correlate_small, is_small
from osteomet.ops.depthwise_sparse import cells_with_gradient, pull_back_cells, unpack_sums
from osteomet.ops.lanes import WIDTH

Features = Float[Tensor, "batch channels depth height width"]

SMALL = 200_000
"""Values of ``x`` below which a second thread gains little time and costs half as much again."""


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
    small = x.dtype == torch.float32 and is_small(x.shape)
    apply: Callable[..., Tensor] = (_SmallConv3d if small else _DepthwiseConv3d).apply
    return apply(x, weight, bias)


TORCH_CONVOLVES = torch.backends.cpu.get_cpu_capability() == "AVX512"
"""Whether torch's forward pass is the faster one on this processor."""


class _DepthwiseConv3d(torch.autograd.Function):
    """The convolution on the CPU; that of half precision is torch's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        channels_last = x.contiguous(memory_format=torch.channels_last_3d)
        ctx.is_plain = x.is_contiguous()
        ctx.save_for_backward(weight, channels_last)
        if x.dtype == torch.float32 and not TORCH_CONVOLVES:
            y = _convolve(channels_last, weight, bias)
        else:
            y = F.conv3d(channels_last, weight, bias, padding=HALF, groups=len(weight))
        return y.contiguous() if ctx.is_plain else y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        weight, x = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last_3d)
        cells = cells_with_gradient(channels_last_array(grad.float()))
        if cells is not None:
            due, of_weight = _pull_back_cells(cells, grad, weight, x)
            due = due.contiguous() if ctx.is_plain else due
            return due, of_weight, grad.sum(dim=(0, 2, 3, 4))
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            if grad.dtype == torch.float32 and not TORCH_CONVOLVES:
                grad_x = _convolve(grad, weight)
            else:
                grad_x = F.conv3d(grad, weight.flip(2, 3, 4), padding=HALF, groups=len(weight))
            grad_x = grad_x.contiguous() if ctx.is_plain else grad_x
        if ctx.needs_input_grad[1]:
            grad_weight = weight_gradient(x, grad).to(weight.dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(dim=(0, 2, 3, 4))
        return grad_x, grad_weight, grad_bias


class _SmallConv3d(torch.autograd.Function):
    """The same of a map in which every voxel is a neighbour of every other."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x, ctx.is_plain = x.contiguous(memory_format=torch.channels_last_3d), x.is_contiguous()
        ctx.save_for_backward(x, weight)
        y = _convolve_small(x, weight, bias.detach())
        return y.contiguous() if ctx.is_plain else y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last_3d)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _convolve_small(grad, weight, grad.new_zeros(len(weight)), mirror=True)
            grad_x = grad_x.contiguous() if ctx.is_plain else grad_x
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            grad_weight, grad_bias = torch.empty(weight.shape), torch.empty(len(weight))
            row, blocks = tuple(range(x.shape[-1])), len(weight) // WIDTH
            halves = row[: (len(row) + 1) // 2], row[: len(row) // 2]
            sums = grad_weight.numpy(), grad_bias.numpy()
            correlate_small(0, blocks, *halves, _voxels(x), _voxels(grad), *sums)
        return grad_x, grad_weight, grad_bias


def _convolve_small(x: Tensor, weight: Tensor, bias: Tensor, mirror: bool = False) -> Tensor:
    y = torch.empty_like(x)  # channels last; to autograd a view would be more work
    row, blocks = tuple(range(x.shape[4])), x.shape[1] // WIDTH
    arrays = _voxels(x), weight.detach().contiguous().numpy(), mirror, bias.numpy(), _voxels(y)
    convolve_small(0, blocks, row, *arrays)
    return y


def _voxels(x: Tensor) -> np.ndarray:
    """Return features that are channels last as ``(batch, z, y, x, channels)``."""
    voxels: np.ndarray = x.detach().numpy().transpose(0, 2, 3, 4, 1)
    return voxels


def _convolve(x: Features, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the convolution or, without a bias, the gradient that passes through it."""
    batch, channels, _, height, width = x.shape
    taps = _packed(weight, mirror=bias is None)
    turned = np.empty((len(taps), SEEN, TAPS), np.float32)
    turn_weights(taps, turned)
    offset = np.zeros(len(taps) * WIDTH, np.float32)
    if bias is not None:
        offset[:channels] = bias.detach().numpy()
    y = torch.empty_like(x, memory_format=torch.channels_last_3d)
    arrays = channels_last_array(x), turned, offset, _voxels(y)
    tasks = len(taps) * batch * tiles(width)
    _run(x)(convolve, tasks, voxels_at_once(height), *arrays)
    return y


def weight_gradient(x: Features, grad: Features) -> Float[Tensor, "channels 1 7 7 7"]:
    """Return the gradient of the weights of a 7-cubed kernel, given that of the output.

    The same for any number of threads. Sums over a few rows are float32, sums of those
    float64, so the error does not grow with the size of the map.
    """
    channels, height = x.shape[1], x.shape[3]
    features, grads = channels_last_array(x.float()), channels_last_array(grad.float())
    blocks, images = -(-channels // WIDTH), images_at_once(features.shape)
    sums = np.empty((blocks, -(-len(x) // images) if images else 0, SEEN, TAPS))
    given = images, features, grads, sums.reshape(-1, SEEN, TAPS)
    _run(x)(correlate, math.prod(sums.shape[:2]), voxels_at_once(height), *given)
    gradient = torch.empty(channels, SIDE**3)
    turn_sums_back(sums, gradient.numpy())
    return gradient.view(-1, 1, SIDE, SIDE, SIDE)


def _pull_back_cells(
    cells: np.ndarray, grad: Tensor, weight: Tensor, x: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of input and weights where the output has one in few cells."""
    grads, taps = channels_last_array(grad.float()), _packed(weight.float())
    due, sums = torch.zeros(grads.shape), np.empty_like(taps)
    arrays = cells, grads, taps, channels_last_array(x.float()), due.numpy(), sums
    _run(x)(pull_back_cells, len(taps), *arrays)
    gradient = torch.empty(len(weight), SIDE**3)
    unpack_sums(sums.reshape(-1, SIDE**3, WIDTH), gradient.numpy())
    return due.movedim(-1, 1).to(grad.dtype), gradient.view(weight.shape).to(weight.dtype)


def _packed(weight: Tensor, mirror: bool = False) -> np.ndarray:
    """Return weights, or their mirror image, as ``(blocks, taps * lanes)``."""
    taps = np.empty((-(-len(weight) // WIDTH), SIDE**3, WIDTH), np.float32)
    pack_weights(weight.detach().flatten(1).numpy(), taps, mirror)
    return taps.reshape(len(taps), -1)


def _run(x: Tensor) -> Callable[..., None]:
    """Return what spreads tasks over threads, if there is work for more than one."""
    return partial(run_ranges, max_threads=1 if x.numel() < SMALL else None)
