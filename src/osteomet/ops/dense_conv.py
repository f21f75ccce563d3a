"""Dense 3 x 3 x 3 convolution of few channels, as a mask head's.

On a CPU torch computes it and the gradient of its input at the speed of a matrix product, but the
gradient of its weights at less than half of that. With few outputs the loops here keep up.
"""

from collections.abc import Callable
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
    run_ranges,
    uses_numba,
)
from osteomet.ops.lanes import WIDTH, add, load, multiply, store, zeros

Features = Float[Tensor, "batch channels z y x"]
Beside = Float[Tensor, "batch more z y x"]
Output = Float[Tensor, "batch out z y x"]
Weight = Float[Tensor, "out all_channels 3 3 3"]

SIDE = 3
MOST = 3
"""Registers of outputs; more outputs than these hold are torch's."""


def dense_conv3d(
    x: Features, weight: Weight, bias: Float[Tensor, " out"], beside: Beside | None = None
) -> Output:
    """Return ``F.conv3d(x, weight, bias, padding=1)``.

    Args:
        x: features.
        weight: of the features and, after them, what is beside them.
        bias: of the outputs.
        beside: more channels of the input, which need no gradient.
    """
    numbers = [tensor for tensor in (x, weight, bias, beside) if tensor is not None]
    fits = uses_numba(*numbers) and all(tensor.dtype == torch.float32 for tensor in numbers)
    joined = x if beside is None else torch.cat([x.detach(), beside], dim=1)
    joined = joined.contiguous(memory_format=torch.channels_last_3d)
    if not fits or len(weight) > MOST * WIDTH or torch.is_autocast_enabled(x.device.type):
        joined = joined if beside is None else torch.cat([x, beside], dim=1)
        return F.conv3d(joined, weight, bias, padding=1)
    apply: Callable[..., Tensor] = _DenseConv3d.apply
    return apply(x, weight, bias, joined)


class _DenseConv3d(torch.autograd.Function):
    """The convolution of ``joined``, of which ``x`` are the first channels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, joined: Tensor) -> Tensor:
        ctx.channels = x.shape[1]
        ctx.save_for_backward(joined, weight)
        return F.conv3d(joined, weight, bias, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        joined, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            flipped = weight[:, : ctx.channels].flip(2, 3, 4).transpose(0, 1)
            grad_x = F.conv3d(grad, flipped, padding=1)
        if ctx.needs_input_grad[1]:
            grad_weight = weight_gradient(joined, grad)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(dim=(0, 2, 3, 4))
        return grad_x, grad_weight, grad_bias, None


def weight_gradient(x: Features, grad: Output) -> Float[Tensor, "out channels 3 3 3"]:
    """Return the gradient of the weights, given that of at most ``MOST`` registers of outputs.

    The same for any number of threads. Sums over an image are float32, sums of those float64.
    """
    outputs, inputs = grad.shape[1], x.shape[1]
    registers = tuple(range(-(-outputs // WIDTH)))
    lanes = len(registers) * WIDTH
    if lanes > outputs:
        grad = F.pad(grad.detach(), (0, 0, 0, 0, 0, 0, 0, lanes - outputs))
    sums = np.zeros((SIDE * SIDE, inputs, SIDE * lanes))
    arrays = (channels_last_array(features) for features in (x, grad))
    rows, grads = (a.reshape(*a.shape[:3], a.shape[3] * a.shape[4]) for a in arrays)
    run_ranges(_correlate, SIDE * SIDE, registers, rows, grads, sums)
    gradient = torch.from_numpy(sums).view(SIDE, SIDE, inputs, SIDE, lanes)[..., :outputs]
    return gradient.permute(4, 2, 0, 1, 3).float().contiguous()


@compile_kernel
def _correlate(
    first: int,
    last: int,
    registers: tuple[int, ...],
    rows: np.ndarray,
    grads: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Sum the products of offsets in z and y of the kernel, of which each is a task.

    The three offsets in x of an input are summed in registers over a plane.
    """
    batch, depth, height, length = grads.shape
    inputs, lanes = sums.shape[1], len(registers) * WIDTH
    part = np.empty((inputs, SIDE * lanes), np.float32)
    for task in range(first, last):
        kz, ky = task // SIDE - 1, task % SIDE - 1
        for b in range(batch):
            part[:] = 0
            for z in range(max(0, -kz), min(depth, depth - kz)):
                plane, given = rows[b, z + kz], grads[b, z]
                for c in range(inputs):
                    before = here = after = zeros(registers)
                    for y in range(max(0, -ky), min(height, height - ky)):
                        row, grad = plane[y + ky, c:], given[y]
                        g = load(grad, 0, registers)
                        here = add(multiply(g, row[0]), here)
                        for x in range(1, length // lanes):
                            after = add(multiply(g, row[x * inputs]), after)
                            g = load(grad, x * lanes, registers)
                            before = add(multiply(g, row[(x - 1) * inputs]), before)
                            here = add(multiply(g, row[x * inputs]), here)
                    total = part[c]
                    store(total, 0, add(before, load(total, 0, registers)))
                    store(total, lanes, add(here, load(total, lanes, registers)))
                    store(total, 2 * lanes, add(after, load(total, 2 * lanes, registers)))
            sums[task] += part
