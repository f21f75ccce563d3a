"""Products of many rows and a small matrix: the linear maps of each voxel's channels.

A library's product is made for large square matrices. With some dozens of columns it attains two
thirds to four fifths of its rate, a bias costs one more pass, and several images with a matrix each
cost more. The loops here keep four rows by 24 columns in registers, and the matrix packed in the
order in which they read it; on AVX2 one thread attains the rate that the library has where it is
best, with rows from memory too.
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
from osteomet.ops.lanes import WIDTH, add, load, multiply, prefetch, store, zeros

Rows = Float[Tensor, "images rows inputs"]

MOST = 3
"""Registers of columns at once: with four rows they are 12 sums, beside 3 weights and a number."""
ROWS = 4
LINE = 16
"""Numbers in a cache line."""
BLOCK = 16
"""Rows that meet one block of columns after the other while both are in the nearest cache."""
TOGETHER = 64
"""Rows that are multiplied with other rows while both are in the nearest caches."""
CHUNK = 2048
"""Rows whose products are summed in float32, before the sum joins others."""
LEAST = 5e7
"""Products below which a call of a library costs less than what is gained."""
FEWEST = 8
"""Rows for each row of the matrix from which to pack it is worth the while."""
WIDEST = 200
"""Columns up to which sums of products gain: beyond, rows lie too far apart."""
LIBRARY_IS_FAST = torch.backends.cpu.get_cpu_capability() == "AVX512"
"""There the loops were not measured."""


def linear(
    x: Float[Tensor, "*rows inputs"],
    weight: Float[Tensor, "outputs inputs"],
    bias: Float[Tensor, " outputs"] | None,
) -> Float[Tensor, "*rows outputs"]:
    """Return ``F.linear(x, weight, bias)``."""
    outputs, inputs = weight.shape
    rows = x.numel() // max(1, inputs)
    if not _fits(rows, inputs, outputs, x, weight) or torch.is_autocast_enabled(x.device.type):
        return F.linear(x, weight, bias)
    apply: Callable[..., Tensor] = _Linear.apply
    return apply(x, weight, bias)


def multiply_rows(
    x: Rows,
    matrices: Float[Tensor, "images_or_1 inputs outputs"],
    bias: Float[Tensor, " outputs"] | None = None,
) -> Float[Tensor, "images rows outputs"]:
    """Return ``x @ matrices + bias``, without a gradient of its own."""
    inputs, outputs = matrices.shape[1:]
    if not _fits(x.shape[0] * x.shape[1], inputs, outputs, x, matrices):
        matrices = matrices.expand(len(x), -1, -1)
        return torch.bmm(x, matrices) if bias is None else torch.baddbmm(bias, x, matrices)
    out = torch.empty(*x.shape[:2], outputs)
    start = torch.zeros(outputs) if bias is None else bias.detach()
    blocks = -(-x.shape[1] // BLOCK)
    arrays = x.detach().contiguous().numpy(), start.numpy(), out.numpy()
    for begin, registers, count in _column_blocks(outputs):
        columns = matrices.detach()[:, :, begin : begin + count * registers * WIDTH]
        weights = pack_columns(columns, registers)
        run_ranges(_multiply, len(x) * blocks, _tuple(registers), begin, weights, *arrays)
    return out


def pack_columns(
    matrices: Float[Tensor, "images_or_1 inputs outputs"], registers: int
) -> np.ndarray:
    """Return matrices as ``(images, blocks, numbers)``: in the order in which loops read them."""
    images, inputs, outputs = matrices.shape
    width = registers * WIDTH
    blocks = matrices.reshape(images, inputs, outputs // width, width).transpose(1, 2)
    packed: np.ndarray = blocks.reshape(images, outputs // width, inputs * width).numpy()
    return packed


def sum_of_products(
    x: Float[Tensor, "images rows outputs"], y: Rows
) -> Float[Tensor, "images outputs inputs"]:
    """Return ``x.mT @ y``, without a gradient of its own."""
    images, rows, outputs = x.shape
    inputs = y.shape[2]
    if max(inputs, outputs) > WIDEST or not _fits(images * rows, inputs, outputs, x, y):
        return torch.bmm(x.mT, y)
    chunks = -(-rows // CHUNK)
    sums = torch.empty(images, chunks, outputs, inputs)
    arrays = x.detach().contiguous().numpy(), y.detach().contiguous().numpy(), sums.numpy()
    for begin, registers, count in _column_blocks(inputs):
        columns = begin, begin + count * registers * WIDTH
        run_ranges(_sum_products, images * chunks, _tuple(registers), columns, *arrays)
    return sums.squeeze(1) if chunks == 1 else sums.sum(dim=1)


def are_for_loops(*factors: Tensor) -> bool:
    """Return whether the loops can take these factors, and are fast on this processor."""
    return (
        not LIBRARY_IS_FAST
        and uses_numba(*factors)
        and all(factor.dtype == torch.float32 for factor in factors)
    )


def _fits(rows: int, inputs: int, outputs: int, *factors: Tensor) -> bool:
    """Return whether the loops are there and worth it."""
    return (
        are_for_loops(*factors)
        and inputs % WIDTH == outputs % WIDTH == 0
        and rows * inputs * outputs >= LEAST
        and rows >= FEWEST * max(inputs, outputs)
    )


def _column_blocks(columns: int) -> list[tuple[int, int, int]]:
    """Return ``(first column, registers of a block, blocks)``: the widest, and what is left."""
    whole, rest = divmod(columns // WIDTH, MOST)
    blocks = [(0, MOST, whole), (whole * MOST * WIDTH, rest, 1)]
    return [block for block in blocks if block[1] and block[2]]


def _tuple(registers: int) -> tuple[int, ...]:
    return tuple(range(registers))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        y = multiply_rows(x.reshape(1, -1, x.shape[-1]), weight.T[None], bias)
        return y.view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        flat = grad.reshape(1, -1, grad.shape[-1])
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = multiply_rows(flat, weight[None]).view(x.shape)
        if ctx.needs_input_grad[1]:
            grad_weight = sum_of_products(flat, x.reshape(1, -1, x.shape[-1]))[0]
        if ctx.needs_input_grad[2]:
            grad_bias = flat[0].sum(dim=0)
        return grad_x, grad_weight, grad_bias


@compile_kernel
def _multiply(
    first: int,
    last: int,
    registers: tuple[int, ...],
    begin: int,
    weights: np.ndarray,
    x: np.ndarray,
    bias: np.ndarray,
    out: np.ndarray,
) -> None:
    """Fill blocks of rows, from column ``begin`` on; each image has as many blocks."""
    rows, inputs = x.shape[1:]
    blocks = -(-rows // BLOCK)
    numbers = x.reshape(-1)
    for task in range(first, last):
        image, start = task // blocks, task % blocks * BLOCK
        end = min(start + BLOCK, rows)
        given, taken = x[image, start:end], out[image, start:end]
        ahead = (image * rows + end) * inputs
        matrix = weights[image % len(weights)]
        multiply_block(registers, begin, matrix, given, bias, taken, numbers, ahead)


@partial(compile_kernel, inline=True)
def multiply_block(
    registers: tuple[int, ...],
    begin: int,
    matrix: np.ndarray,
    x: np.ndarray,
    bias: np.ndarray,
    out: np.ndarray,
    numbers: np.ndarray,
    ahead: int,
) -> None:
    """Multiply some rows, for columns of ``out`` from ``begin`` on.

    Args:
        registers: of a block of columns.
        begin: first column.
        matrix: packed.
        x: at most ``BLOCK`` rows.
        bias: of all columns.
        out: as many rows.
        numbers: what the next rows are part of.
        ahead: where in it they begin.
    """
    rows, inputs = x.shape
    width = len(registers) * WIDTH
    lines = -(-BLOCK * inputs // (len(matrix) * BLOCK // ROWS * LINE))
    whole = rows - rows % ROWS
    for block in range(len(matrix)):
        column, factors = begin + block * width, matrix[block]
        offset = load(bias, column, registers)
        for row in range(0, whole, ROWS):
            ahead = _prefetch_lines(numbers, ahead, lines)
            x0, x1, x2, x3 = x[row], x[row + 1], x[row + 2], x[row + 3]
            s0 = s1 = s2 = s3 = offset
            for k in range(inputs):
                w = load(factors, k * width, registers)
                s0 = add(multiply(w, x0[k]), s0)
                s1 = add(multiply(w, x1[k]), s1)
                s2 = add(multiply(w, x2[k]), s2)
                s3 = add(multiply(w, x3[k]), s3)
            store(out[row], column, s0)
            store(out[row + 1], column, s1)
            store(out[row + 2], column, s2)
            store(out[row + 3], column, s3)
        for row in range(whole, rows):
            s0, x0 = offset, x[row]
            for k in range(inputs):
                s0 = add(multiply(load(factors, k * width, registers), x0[k]), s0)
            store(out[row], column, s0)


@partial(compile_kernel, inline=True)
def _prefetch_lines(numbers: np.ndarray, at: int, lines: int) -> int:
    """Ask for cache lines from ``numbers[at]`` on, and return where the next begins.

    What comes from far would make the products wait: nothing but a step ahead knows how the rows
    go on where a page of memory ends.
    """
    for _ in range(lines):
        prefetch(numbers, at)
        at += LINE
    return at


@compile_kernel
def _sum_products(
    first: int,
    last: int,
    registers: tuple[int, ...],
    columns: tuple[int, int],
    x: np.ndarray,
    y: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Add the products of chunks of rows, for columns of ``y`` between the two given."""
    rows, chunks = x.shape[1], sums.shape[1]
    for task in range(first, last):
        image, chunk = task // chunks, task % chunks
        total, stop = sums[image, chunk], min(rows, (chunk + 1) * CHUNK)
        for start in range(chunk * CHUNK, stop, TOGETHER):
            here = min(stop, start + TOGETHER)
            at = image * rows + here
            left, right = x[image, start:here], y[image, start:here]
            ahead = (x.reshape(-1), at * x.shape[2]), (y.reshape(-1), at * y.shape[2])
            add_products(registers, columns, start == chunk * CHUNK, left, right, total, ahead)


@partial(compile_kernel, inline=True)
def add_products(
    registers: tuple[int, ...],
    columns: tuple[int, int],
    is_first: bool,
    x: np.ndarray,
    y: np.ndarray,
    total: np.ndarray,
    ahead: tuple[tuple[np.ndarray, int], tuple[np.ndarray, int]],
) -> None:
    """Add ``x.T @ y`` of some rows, for columns of ``y`` between the two given.

    Args:
        registers: of a block of columns.
        columns: the first, and the one after the last.
        is_first: whether ``total`` holds nothing yet.
        x: at most ``TOGETHER`` rows.
        y: as many rows.
        total: takes the sums.
        ahead: what the next rows of ``x`` and of ``y`` are part of, and where in it they begin.
    """
    outputs, inputs = x.shape[1], y.shape[1]
    begin, end = columns
    width = len(registers) * WIDTH
    steps = (end - begin) // width * (outputs // ROWS)
    x_lines = -(-TOGETHER * outputs // (steps * LINE))
    y_lines = -(-TOGETHER * inputs // (steps * LINE))
    (x_numbers, x_ahead), (y_numbers, y_ahead) = ahead
    for column in range(begin, end, width):
        for output in range(0, outputs, ROWS):
            x_ahead = _prefetch_lines(x_numbers, x_ahead, x_lines)
            y_ahead = _prefetch_lines(y_numbers, y_ahead, y_lines)
            t0, t1, t2, t3 = (
                total[output], total[output + 1], total[output + 2], total[output + 3]
            )  # fmt: skip
            s0 = s1 = s2 = s3 = zeros(registers)
            if not is_first:
                s0, s1 = load(t0, column, registers), load(t1, column, registers)
                s2, s3 = load(t2, column, registers), load(t3, column, registers)
            for row in range(len(y)):
                v, factors = load(y[row], column, registers), x[row, output:]
                s0 = add(multiply(v, factors[0]), s0)
                s1 = add(multiply(v, factors[1]), s1)
                s2 = add(multiply(v, factors[2]), s2)
                s3 = add(multiply(v, factors[3]), s3)
            store(t0, column, s0)
            store(t1, column, s1)
            store(t2, column, s2)
            store(t3, column, s3)
