"""ConvNeXt-V2's inverted bottleneck: a linear map to more channels, GELU, GRN, and a map back.

Between the two maps lie the largest tensors of the network. As layers each of them is written and
read again from memory a dozen times a step, and where memory is cold that takes as long as a fifth
of the products. The loops here do to some rows all that can be done, while they are in the nearest
cache: forward the map, GELU and the sums of squares that GRN needs; backward the map's transpose,
the derivatives of GRN and GELU, the transpose of the first map, and the sums for its weights. So
the wide gradient is never in memory at all, and without a gradient the map's result is not either.

Source: Woo et al., "ConvNeXt V2", arXiv:2301.00808, Fig. 5.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from osteomet.ops.acceleration import compile_kernel, run_ranges
from osteomet.ops.gelu import gelu_slope
from osteomet.ops.lanes import WIDTH
from osteomet.ops.response_norm import (
    activate_row,
    factor_gradients,
    linear_of_gelu_response_norm,
    response_factors,
)
from osteomet.ops.row_products import (
    BLOCK,
    CHUNK,
    MOST,
    TOGETHER,
    add_products,
    are_for_loops,
    linear,
    multiply_block,
    multiply_rows,
    pack_columns,
    sum_of_products,
)

Voxels = Float[Tensor, "batch voxels channels"]

LEAST = 6e6
"""Products of a map below which a library's calls cost less than what is gained."""
FEWEST = 1
"""Rows for each wide channel from which to pack the weights is worth the while."""
COLUMNS = MOST * WIDTH
"""Both widths must be multiples: then one kind of block fills all columns."""
SUMMED = 32 * BLOCK
"""Rows of one task forward. Squares of ``BLOCK`` rows are added in float32, these in float64."""


def inverted_bottleneck(
    x: Voxels,
    expand: tuple[Float[Tensor, "wide channels"], Float[Tensor, " wide"]],
    gamma: Float[Tensor, " wide"],
    beta: Float[Tensor, " wide"],
    project: tuple[Float[Tensor, "out wide"], Float[Tensor, " out"]],
) -> Float[Tensor, "batch voxels out"]:
    """Return ``project(grn(gelu(expand(x))))``.

    Args:
        x: voxels of each image; GRN's norms are taken over those of one image.
        expand: weight and bias of the first map.
        gamma: of GRN, how far each channel follows its share.
        beta: of GRN, what is added to each channel.
        project: weight and bias of the second map.
    """
    if not _fits(x, expand[0], project[0]):
        return linear_of_gelu_response_norm(linear(x, *expand), *project, gamma, beta)
    apply: Callable[..., Tensor] = _InvertedBottleneck.apply
    return apply(x, *expand, gamma, beta, *project)


def _fits(x: Tensor, expand: Tensor, project: Tensor) -> bool:
    wide, channels = expand.shape
    rows = x.shape[0] * x.shape[1]
    return (
        are_for_loops(x, expand, project)
        and not torch.is_autocast_enabled(x.device.type)
        and channels % COLUMNS == wide % COLUMNS == len(project) % COLUMNS == 0
        and rows * channels * wide >= LEAST
        and rows >= FEWEST * wide
    )


class _InvertedBottleneck(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        expand: Tensor,
        expand_bias: Tensor,
        gamma: Tensor,
        beta: Tensor,
        project: Tensor,
        project_bias: Tensor,
    ) -> Tensor:
        x = x.contiguous()
        batch, voxels, _ = x.shape
        wide = len(expand)
        kept = voxels if any(ctx.needs_input_grad) else 0
        expanded, activated = torch.empty(batch, kept, wide), torch.empty(batch, voxels, wide)
        tasks = -(-voxels // SUMMED)
        squares = np.zeros((batch, tasks, wide))
        weights = pack_columns(expand.detach().T[None], MOST)[0]
        rows = x.detach().numpy(), expanded.numpy(), activated.numpy()
        bias = expand_bias.detach().numpy()
        run_ranges(_expand, batch * tasks, _REGISTERS, weights, bias, rows, squares)
        norms = torch.from_numpy(squares.sum(axis=1)).sqrt().float()
        factors = response_factors(norms, gamma)
        ctx.save_for_backward(x, expanded, activated, norms, factors, expand, gamma, beta, project)
        offset = torch.addmv(project_bias, project, beta)
        return multiply_rows(activated, (project * factors[:, None]).mT, offset)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, expanded, activated, norms, factors, expand, gamma, beta, project = ctx.saved_tensors
        grad = grad.contiguous()
        of_image = sum_of_products(grad, activated)  # (batch, out, wide)
        grad_project = (of_image * factors[:, None]).sum(dim=0)
        per_value, grad_gamma = factor_gradients(norms, gamma, (of_image * project).sum(dim=1))
        grad_bias = grad.sum(dim=(0, 1))
        grad_project.addr_(grad_bias, beta)
        batch, voxels, channels = x.shape
        tasks = -(-voxels // CHUNK)
        grad_x = torch.empty_like(x)
        sums = torch.empty(batch * tasks, len(expand), channels)
        bias_sums = np.zeros((batch * tasks, len(expand)))
        packed = pack_columns(project * factors[:, None], MOST), pack_columns(expand[None], MOST)
        rows = grad.numpy(), expanded.numpy(), activated.numpy(), x.numpy(), grad_x.numpy()
        totals = sums.numpy(), bias_sums
        run_ranges(_pull_back, batch * tasks, _REGISTERS, packed, per_value.numpy(), rows, totals)
        grad_expand = sums[0] if len(sums) == 1 else sums.sum(dim=0)
        grad_expand_bias = torch.from_numpy(bias_sums.sum(axis=0)).float()
        return (
            grad_x, grad_expand, grad_expand_bias, grad_gamma, project.T @ grad_bias,
            grad_project, grad_bias,
        )  # fmt: skip


_REGISTERS = tuple(range(MOST))


@compile_kernel
def _expand(
    first: int,
    last: int,
    registers: tuple[int, ...],
    weights: np.ndarray,
    bias: np.ndarray,
    rows: tuple[np.ndarray, np.ndarray, np.ndarray],
    squares: np.ndarray,
) -> None:
    """Map, activate and sum the squares of ``SUMMED`` rows of an image a task.

    ``rows`` are the input, what it is expanded to, which is kept where there is room for it, and
    what is activated.
    """
    x, expanded, activated = rows
    voxels, wide = activated.shape[1:]
    tasks = squares.shape[1]
    numbers = x.reshape(-1)
    part = np.empty(wide, np.float32)
    near = np.empty((BLOCK, wide), np.float32)
    keep = expanded.shape[1] > 0
    for task in range(first, last):
        image, begin = task // tasks, task % tasks * SUMMED
        total = squares[image, task % tasks]
        for start in range(begin, min(begin + SUMMED, voxels), BLOCK):
            end = min(start + BLOCK, voxels)
            mapped = expanded[image, start:end] if keep else near[: end - start]
            ahead = (image * voxels + end) * x.shape[2]
            multiply_block(registers, 0, weights, x[image, start:end], bias, mapped, numbers, ahead)
            part[:] = 0
            for i in range(end - start):
                activate_row(mapped[i], activated[image, start + i], part)
            for c in range(wide):
                total[c] += part[c]


@compile_kernel
def _pull_back(
    first: int,
    last: int,
    registers: tuple[int, ...],
    packed: tuple[np.ndarray, np.ndarray],
    per_value: np.ndarray,
    rows: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    totals: tuple[np.ndarray, np.ndarray],
) -> None:
    """Fill the gradients of ``CHUNK`` rows a task, and sum those of the first map over them.

    ``packed`` are the second map, with each image's factors in it, and the first; ``per_value``
    is what the norms add for each value; ``rows`` are the gradient of the output, what the input
    was expanded to and activated to, the input, and its gradient; ``totals`` take the sums.
    """
    (project, expand), (sums, bias_sums) = packed, totals
    grad, expanded, activated, x, grad_x = rows
    voxels, channels = x.shape[1:]
    wide = activated.shape[2]
    tasks = -(-voxels // CHUNK)
    none = np.zeros(channels if channels > wide else wide, np.float32)
    grads = np.empty((TOGETHER, wide), np.float32)
    part = np.empty(wide, np.float32)
    grad_numbers, x_numbers = grad.reshape(-1), x.reshape(-1)
    e_numbers, a_numbers = expanded.reshape(-1), activated.reshape(-1)
    for task in range(first, last):
        image, chunk = task // tasks, task % tasks
        share, of_bias = per_value[image], bias_sums[task]
        stop = min(voxels, (chunk + 1) * CHUNK)
        for start in range(chunk * CHUNK, stop, TOGETHER):
            here = min(stop, start + TOGETHER)
            part[:] = 0
            for low in range(start, here, BLOCK):
                high = min(here, low + BLOCK)
                mine = grads[low - start : high - start]
                after = image * voxels + high
                multiply_block(
                    registers, 0, project[image], grad[image, low:high], none, mine,
                    grad_numbers, after * grad.shape[2],
                )  # fmt: skip
                for i in range(high - low):
                    out, values, row = mine[i], activated[image, low + i], expanded[image, low + i]
                    for c in range(wide):
                        out[c] = (out[c] + share[c] * values[c]) * gelu_slope(row[c])
                    for c in range(wide):
                        part[c] += out[c]
                multiply_block(
                    registers, 0, expand[0], mine, none, grad_x[image, low:high],
                    a_numbers, after * wide,
                )  # fmt: skip
            for c in range(wide):
                of_bias[c] += part[c]
            after = image * voxels + here
            ahead = (e_numbers, after * wide), (x_numbers, after * channels)
            mine, given = grads[: here - start], x[image, start:here]
            is_first = start == chunk * CHUNK
            add_products(registers, (0, channels), is_first, mine, given, sums[task], ahead)
