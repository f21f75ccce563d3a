"""A depthwise 7-cubed convolution of maps so small that each voxel is a neighbour of every other.

A backbone's deepest level is one. A sum that waits for the one before it takes four times as long
as one that does not, and a row of 4 voxels has too few: so two rows are summed at once, and what
the two halves of a row give the weights. Weights are as many as voxels here, and are turned into
registers where they are needed.
"""

from functools import partial

import numpy as np

from osteomet.ops.acceleration import compile_kernel
from osteomet.ops.depthwise_kernels import ALONG, HALF, SIDE, SUMMED, Step
from osteomet.ops.lanes import (
    WHOLE,
    WIDTH,
    add,
    add_convolved,
    add_correlated,
    load,
    store,
    store_apart,
    transpose_square,
    zeros,
)

WIDEST = HALF + 1
"""Voxels along a side up to which every voxel is a neighbour of every other."""
ONE = (0,)
ALL_TAPS = SIDE**3


def is_small(shape: tuple[int, ...]) -> bool:
    """Return whether these loops take features ``(batch, channels, z, y, x)``."""
    batch, channels, depth, height, width = shape
    fits = max(depth, height, width) <= WIDEST and channels % WIDTH == 0
    return fits and 0 < batch * depth * height * width <= SUMMED


@compile_kernel
def convolve_small(
    first: int,
    last: int,
    row: Step,
    features: np.ndarray,
    weights: np.ndarray,
    mirror: bool,
    bias: np.ndarray,
    out: np.ndarray,
) -> None:
    """Fill blocks of channels of ``out``; a task is one of them.

    Args:
        first: block.
        last: block, exclusive.
        row: one item for each voxel of a row.
        features: ``(batch, z, y, x, channels)``.
        weights: ``(channels, 1, 7, 7, 7)``.
        mirror: the weights, for the gradient that passes through.
        bias: one number a channel.
        out: like ``features``.
    """
    batch, depth, height, width, channels = features.shape
    values, kernels, results = features.reshape(-1), weights.reshape(-1), out.reshape(-1)
    length = width * WIDTH
    taps = np.empty(ALL_TAPS * WIDTH, np.float32)
    image = np.empty(depth * height * length, np.float32)
    for block in range(first, last):
        begin = block * WIDTH
        for column in range(0, ALL_TAPS, WIDTH):
            tap = min(column, ALL_TAPS - WIDTH)
            place, leap = (ALL_TAPS - 1 - tap, -WIDTH) if mirror else (tap, WIDTH)
            at = begin * ALL_TAPS + tap
            transpose_square(kernels, at, ALL_TAPS, taps, place * WIDTH, leap)
        for b in range(batch):
            start = b * depth * height * width * channels + begin
            _gather_block(values, start, channels, image)
            for z in range(depth):
                for y in range(0, height, 2):  # the second row of an odd height is left unused
                    upper = lower = add(zeros(row), load(bias, begin, ONE))
                    for dz in range(HALF - z, HALF - z + depth):
                        at = (dz - HALF + z) * height * length
                        tap = (dz * SIDE + HALF - y) * SIDE * WIDTH
                        for _ in range(height):
                            upper = add_convolved(upper, image, at, taps, tap, ALONG, WHOLE)
                            tap -= SIDE * WIDTH
                            lower = add_convolved(lower, image, at, taps, tap, ALONG, WHOLE)
                            tap += 2 * SIDE * WIDTH
                            at += length
                    voxel = start + (z * height + y) * width * channels
                    store_apart(results, voxel, channels, upper)
                    if y + 1 < height:
                        store_apart(results, voxel + width * channels, channels, lower)


@compile_kernel
def correlate_small(
    first: int,
    last: int,
    left: Step,
    right: Step,
    features: np.ndarray,
    grads: np.ndarray,
    gradient: np.ndarray,
    totals: np.ndarray,
) -> None:
    """Sum what weights and bias of blocks of channels are due; a task is a block.

    Args:
        first: block.
        last: block, exclusive.
        left: one item for each voxel of the left half of a row.
        right: the same of the other half; there may be none.
        features: ``(batch, z, y, x, channels)``.
        grads: of the output, likewise.
        gradient: of the weights, ``(channels, 1, 7, 7, 7)``.
        totals: of the bias, one number a channel.
    """
    batch, depth, height, width, channels = features.shape
    values, due = features.reshape(-1), grads.reshape(-1)
    sums = gradient.reshape(-1)
    length = width * WIDTH
    image = depth * height * length
    voxels = batch * depth * height * width
    seen = np.empty(batch * image, np.float32)
    given = np.empty(batch * image, np.float32)
    taps = np.empty(ALL_TAPS * WIDTH, np.float32)
    for block in range(first, last):
        begin = block * WIDTH
        _gather_block(values, begin, channels, seen)
        _gather_block(due, begin, channels, given)
        total = zeros(ONE)
        for voxel in range(voxels):
            total = add(total, load(given, voxel * WIDTH, ONE))
        store(totals, begin, total)
        for kz in range(SIDE):
            for ky in range(SIDE):
                one, two = zeros(ALONG), zeros(ALONG)
                for z in range(max(0, HALF - kz), min(depth, depth + HALF - kz)):
                    for y in range(max(0, HALF - ky), min(height, height + HALF - ky)):
                        to = (z * height + y) * length
                        at = to + ((kz - HALF) * height + ky - HALF) * length
                        for _ in range(batch):
                            one = add_correlated(one, seen, at, given, to, left, ((), right))
                            a, t = at + len(left) * WIDTH, to + len(left) * WIDTH
                            two = add_correlated(two, seen, a, given, t, right, (left, ()))
                            at, to = at + image, to + image
                store(taps, (kz * SIDE + ky) * SIDE * WIDTH, add(one, two))
        for column in range(0, ALL_TAPS, WIDTH):
            tap = min(column, ALL_TAPS - WIDTH)
            to = begin * ALL_TAPS + tap
            transpose_square(taps, tap * WIDTH, WIDTH, sums, to, ALL_TAPS)


@partial(compile_kernel, inline=True)
def _gather_block(features: np.ndarray, at: int, channels: int, packed: np.ndarray) -> None:
    """Put the voxels of a block of channels side by side."""
    for voxel in range(len(packed) // WIDTH):
        store(packed, voxel * WIDTH, load(features, at + voxel * channels, ONE))
