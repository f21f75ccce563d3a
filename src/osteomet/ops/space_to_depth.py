"""Cubes of voxels into channels and back: how strides of a network move data.

torch copies such a permutation one number at a time; on a CPU the loops here take a run of
channels or, where there is one channel, of voxels at a time. Both sides hold the channels of a
cell side by side in memory.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from osteomet.ops.acceleration import (
    channels_last_array,
    compile_kernel,
    run_ranges,
    uses_numba,
)
from osteomet.ops.lanes import WIDTH, transpose_square

Features = Float[Tensor, "batch channels z y x"]

LARGEST = 4
"""Side of a cube above which torch gathers as fast: its numbers lie too far apart for either."""
MOST = 16
"""Channels from which torch spreads runs of them best; fewer it spreads one channel at a time."""
LINES = (2, 4)
"""Voxels of one channel that are copied at once: the strides of stem, segmentation and masks."""
PAIR = 2
"""Channels, and voxels a side, of the crops that the heads read."""
SMALL = 200_000
"""Values below which to wake a second thread takes longer than the work."""
WHOLE_SMALL = 4_000_000
"""The same of whole images, where it costs most of what it gains."""


def space_to_depth(x: Features, factor: int) -> Float[Tensor, "batch more z_cells y_cells x_cells"]:
    """Move each cube of ``factor`` voxels a side into channels, ordered ``(channel, z, y, x)``.

    Args:
        x: its sides are multiples of ``factor``.
        factor: of a whole image it is the side: what a fully connected layer reads.

    Returns:
        The cubes, in the memory format ``channels_last_3d``, and so is the gradient.
    """
    if not _fits(x):
        return _gather_by_torch(x, factor)
    apply: Callable[..., Tensor] = _SpaceToDepth.apply
    return apply(x, factor)


def depth_to_space(x: Features, factor: int) -> Float[Tensor, "batch fewer z_vox y_vox x_vox"]:
    """Undo ``space_to_depth``."""
    if not _fits(x):
        return _scatter_by_torch(x, factor)
    apply: Callable[..., Tensor] = _DepthToSpace.apply
    return apply(x, factor)


def join_channels(
    parts: Sequence[Float[Tensor, "batch _ z y x"]],
) -> Float[Tensor, "batch all_channels z y x"]:
    """Concatenate channels, into the memory format ``channels_last_3d`` and without a gradient."""
    batch, _, *sides = parts[0].shape
    counts = [part.shape[1] for part in parts]
    joined = parts[0].new_empty((batch, *sides, sum(counts)))
    if counts == [1] * PAIR and all(_fits(part) for part in parts):
        first, second = (part.detach().contiguous().view(-1).numpy() for part in parts)
        threads = 1 if len(first) < WHOLE_SMALL else None
        target = joined.view(-1).numpy()
        run_ranges(_interleave, len(first), first, second, target, max_threads=threads)
    else:
        for part, place in zip(parts, joined.split(counts, dim=-1), strict=True):
            place.copy_(part.detach().movedim(1, -1))
    return joined.movedim(-1, 1)


def _fits(x: Tensor) -> bool:
    return uses_numba(x) and x.dtype == torch.float32


class _SpaceToDepth(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: int) -> Tensor:
        ctx.factor = factor
        return _gather(x, factor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _scatter(grad, ctx.factor), None


class _DepthToSpace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: int) -> Tensor:
        ctx.factor = factor
        return _scatter(x, factor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _gather(grad, ctx.factor), None


def _gather(x: Tensor, factor: int) -> Tensor:
    b, c, z, y, w = x.shape
    if z == y == w == factor:
        return _turn(channels_last_array(x).reshape(b, factor**3, c)).view(b, -1, 1, 1, 1)
    if factor > LARGEST:
        return _gather_by_torch(x, factor)
    cubes = torch.empty(b, z // factor, y // factor, w // factor, c * factor**3)
    array = channels_last_array(x)
    if c == 1 and factor in LINES:
        _run(_copy_lines_in, array[..., 0], cubes.numpy(), tuple(range(factor)))
    else:
        copy = _copy_pairs_in if c == factor == PAIR else _copy_in
        _run(copy, array, cubes.numpy(), factor)
    return cubes.movedim(-1, 1)


def _scatter(x: Tensor, factor: int) -> Tensor:
    b, c, z, y, w = x.shape
    if z == y == w == 1:
        cubes = x.detach().reshape(b, c // factor**3, factor**3)
        return _turn(cubes.numpy()).view(b, factor, factor, factor, -1).movedim(-1, 1)
    if c > factor**3 or factor not in LINES:
        return _scatter_by_torch(x, factor)
    spread = torch.empty(b, z * factor, y * factor, w * factor, 1)
    spread_lines = spread.numpy()[..., 0]
    _run(_copy_lines_out, spread_lines, channels_last_array(x), tuple(range(factor)))
    return spread.movedim(-1, 1)


def _turn(images: np.ndarray) -> Tensor:
    """Return ``(b, m, n)`` as ``(b, n, m)``: a whole image is one cube."""
    batch, rows, columns = images.shape
    turned = torch.empty(batch, columns, rows)
    threads = 1 if images.size < WHOLE_SMALL else None
    run_ranges(_transpose, batch, images, turned.numpy(), max_threads=threads)
    return turned


def _run(
    copy: Callable[..., None],
    voxels: np.ndarray,
    cubes: np.ndarray,
    factor: int | tuple[int, ...],
) -> None:
    threads = 1 if cubes.size < SMALL else None
    run_ranges(copy, math.prod(cubes.shape[:3]), voxels, cubes, factor, max_threads=threads)


def _gather_by_torch(x: Tensor, factor: int) -> Tensor:
    b, c, z, y, w = x.shape
    x = x.reshape(b, c, z // factor, factor, y // factor, factor, w // factor, factor)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).movedim(-1, 1)


def _scatter_by_torch(x: Tensor, factor: int) -> Tensor:
    b, c, z, y, w = x.shape
    channels, sides = c // factor**3, (z * factor, y * factor, w * factor)
    cubes = x.movedim(1, -1).reshape(b, z, y, w, channels, factor, factor, factor)
    if channels >= MOST and factor <= LARGEST:
        runs = cubes.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, *sides, channels)
        return runs.movedim(-1, 1)
    spread = cubes.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(b, channels, *sides)
    return spread.contiguous(memory_format=torch.channels_last_3d)


@compile_kernel
def _place(row: int, cubes: np.ndarray) -> tuple[int, int, int]:
    """Return image, z and y of a row of cubes."""
    rest = row // cubes.shape[2]
    return rest // cubes.shape[1], rest % cubes.shape[1], row % cubes.shape[2]


@compile_kernel
def _copy_in(first: int, last: int, voxels: np.ndarray, cubes: np.ndarray, factor: int) -> None:
    """Fill some rows of cubes ``(b, z, y, x, c * factor**3)`` from ``(b, z, y, x, c)``."""
    for row in range(first, last):
        b, z, y = _place(row, cubes)
        cells = cubes[b, z, y]
        for dz in range(factor):
            for dy in range(factor):
                line = voxels[b, z * factor + dz, y * factor + dy]
                place = (dz * factor + dy) * factor
                for x in range(len(cells)):
                    for dx in range(factor):
                        for c in range(line.shape[1]):
                            cells[x, c * factor**3 + place + dx] = line[x * factor + dx, c]


@compile_kernel
def _copy_pairs_in(first: int, last: int, voxels: np.ndarray, cubes: np.ndarray, _: int) -> None:
    """Do so for ``PAIR`` channels and a factor of ``PAIR``: the inner loops are then unrolled."""
    for row in range(first, last):
        b, z, y = _place(row, cubes)
        cells = cubes[b, z, y]
        for dz in range(PAIR):
            for dy in range(PAIR):
                line = voxels[b, z * PAIR + dz, y * PAIR + dy]
                place = (dz * PAIR + dy) * PAIR
                for x in range(len(cells)):
                    for dx in range(PAIR):
                        for c in range(PAIR):
                            cells[x, c * PAIR**3 + place + dx] = line[x * PAIR + dx, c]


@compile_kernel
def _copy_lines_in(
    first: int, last: int, voxels: np.ndarray, cubes: np.ndarray, line: tuple[int, ...]
) -> None:
    """Fill some rows of cubes from ``(b, z, y, x)``; ``line`` has an item a voxel of a side."""
    factor = len(line)  # known when compiling
    for row in range(first, last):
        b, z, y = _place(row, cubes)
        cells = cubes[b, z, y]
        for dz in range(factor):
            for dy in range(factor):
                row_of_voxels = voxels[b, z * factor + dz, y * factor + dy]
                place = (dz * factor + dy) * factor
                for x in range(len(cells)):
                    for dx in range(factor):
                        cells[x, place + dx] = row_of_voxels[x * factor + dx]


@compile_kernel
def _copy_lines_out(
    first: int, last: int, voxels: np.ndarray, cubes: np.ndarray, line: tuple[int, ...]
) -> None:
    """Do the reverse."""
    factor = len(line)  # known when compiling
    for row in range(first, last):
        b, z, y = _place(row, cubes)
        cells = cubes[b, z, y]
        for dz in range(factor):
            for dy in range(factor):
                row_of_voxels = voxels[b, z * factor + dz, y * factor + dy]
                place = (dz * factor + dy) * factor
                for x in range(len(cells)):
                    for dx in range(factor):
                        row_of_voxels[x * factor + dx] = cells[x, place + dx]


@compile_kernel
def _interleave(
    start: int, end: int, first: np.ndarray, second: np.ndarray, pairs: np.ndarray
) -> None:
    """Put numbers of two arrays side by side."""
    for i in range(start, end):
        pairs[PAIR * i], pairs[PAIR * i + 1] = first[i], second[i]


@compile_kernel
def _transpose(first: int, last: int, images: np.ndarray, turned: np.ndarray) -> None:
    """Turn rows of an image into columns, square by square; the last ones overlap."""
    rows, columns = images.shape[1:]
    for i in range(first, last):
        image, out = images[i], turned[i]
        if min(rows, columns) < WIDTH:
            for row in range(rows):
                for column in range(columns):
                    out[column, row] = image[row, column]
            continue
        source, target = image.reshape(-1), out.reshape(-1)
        for start in range(0, rows, WIDTH):
            row = min(start, rows - WIDTH)
            for begin in range(0, columns, WIDTH):
                column = min(begin, columns - WIDTH)
                at, to = row * columns + column, column * rows + row
                transpose_square(source, at, columns, target, to, rows)
