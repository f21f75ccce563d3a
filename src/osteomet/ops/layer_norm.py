"""Layer normalisation of the last axis, forward and backward in one pass each on a CPU.

torch takes two to three times as long for the few channels of a voxel, of which its loops make
more ends than middles. Here a voxel's channels stay in registers.

Source: Ba et al., "Layer Normalization", arXiv:1607.06450.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from osteomet.ops.acceleration import compile_kernel, run_ranges, uses_numba
from osteomet.ops.lanes import WIDTH, add, load, multiply, store, total

Channels = Float[Tensor, "*places channels"]

MOST = 24
"""Registers of channels up to which the loops are made: each number of them is compiled."""
LEAST = 300_000
"""Values below which a call of torch's costs less than one from Python."""
BLOCK = 256
"""Places whose gradients of weight and bias are summed in float32, before they join others."""


def layer_norm(
    x: Channels, weight: Float[Tensor, " channels"], bias: Float[Tensor, " channels"], eps: float
) -> Channels:
    """Return ``F.layer_norm`` over the last axis."""
    if x.numel() < LEAST or not _fits(x, weight, bias):
        return F.layer_norm(x, weight.shape, weight, bias, eps)
    apply: Callable[..., Tensor] = _LayerNorm.apply
    return apply(x.contiguous(), weight, bias, eps)


def _fits(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    numbers = (x, weight, bias)
    registers, rest = divmod(len(weight), WIDTH)
    is_wide = all(tensor.dtype == torch.float32 for tensor in numbers)
    return is_wide and not rest and registers <= MOST and uses_numba(*numbers)


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        y = torch.empty_like(x)
        ctx.means = np.empty((2, x.numel() // len(weight)), np.float32)
        ctx.save_for_backward(x, weight)
        affine = torch.stack([weight.detach(), bias.detach()]).numpy()
        arrays = _flat(x), affine, _flat(y), ctx.means, np.float32(eps)
        run_ranges(_normalise, ctx.means.shape[1], _registers(weight), *arrays)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        grad_x = torch.empty_like(x)
        blocks = -(-ctx.means.shape[1] // BLOCK)
        sums = np.zeros((blocks, 2, len(weight)), np.float32)
        values = _flat(x), _flat(grad.contiguous()), _flat(grad_x)
        arrays = values, weight.detach().numpy(), ctx.means, sums
        run_ranges(_pull_back, blocks, _registers(weight), *arrays)
        grad_weight, grad_bias = torch.from_numpy(sums.sum(axis=0, dtype=np.float64)).float()
        return grad_x, grad_weight, grad_bias, None


def _flat(x: Tensor) -> np.ndarray:
    flat: np.ndarray = x.detach().view(-1).numpy()
    return flat


def _registers(weight: Tensor) -> tuple[int, ...]:
    """Return a tuple with one item for each register of channels."""
    return tuple(range(len(weight) // WIDTH))


@compile_kernel
def _normalise(
    first: int,
    last: int,
    registers: tuple[int, ...],
    x: np.ndarray,
    affine: np.ndarray,
    y: np.ndarray,
    means: np.ndarray,
    eps: np.float32,
) -> None:
    """Normalise places; note the mean of each and what its deviations are multiplied by."""
    weight, bias = affine[0], affine[1]
    channels = len(weight)
    share = np.float32(1 / channels)
    for place in range(first, last):
        values = load(x, place * channels, registers)
        mean = total(values) * share
        apart = add(values, -mean)
        factor = np.float32(1) / np.sqrt(total(multiply(apart, apart)) * share + eps)
        means[0, place], means[1, place] = mean, factor
        scaled = multiply(multiply(apart, factor), load(weight, 0, registers))
        store(y, place * channels, add(scaled, load(bias, 0, registers)))


@compile_kernel
def _pull_back(
    first: int,
    last: int,
    registers: tuple[int, ...],
    values: tuple[np.ndarray, np.ndarray, np.ndarray],
    weight: np.ndarray,
    means: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Fill the gradients of blocks of places, and sum those of weight and bias for each block.

    ``values`` are the input, the gradient of the output, and that of the input.
    """
    x, grad, grad_x = values
    channels, places = len(weight), means.shape[1]
    share = np.float32(1 / channels)
    for block in range(first, last):
        of_weight, of_bias = sums[block, 0], sums[block, 1]
        for place in range(block * BLOCK, min(places, (block + 1) * BLOCK)):
            at = place * channels
            mean, factor = means[0, place], means[1, place]
            given = load(grad, at, registers)
            normal = multiply(add(load(x, at, registers), -mean), factor)
            store(of_weight, 0, add(multiply(given, normal), load(of_weight, 0, registers)))
            store(of_bias, 0, add(given, load(of_bias, 0, registers)))
            weighted = multiply(given, load(weight, 0, registers))
            along = total(multiply(weighted, normal)) * share
            level = total(weighted) * share
            inward = add(multiply(normal, -along), add(weighted, -level))
            store(grad_x, at, multiply(inward, factor))
