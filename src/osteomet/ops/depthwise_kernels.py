"""The loops of a depthwise 7-cubed convolution and of the gradient of its weights, on a CPU.

Along rows they filter minimally: 4 voxels of a row depend on 10, and 10 products suffice for them
where 28 are usual. What is left is a convolution of 7 x 7 for each of the 10, along y and z, of
blocks of as many channels as a register has numbers. A step takes 4, 6 or 8 places along y and the
7 taps there; 8 sums, 7 weights and a number are the 16 registers of AVX2. Sums stay in registers
over what is added along z, so that 8 places cost 21 loads for 56 multiplications. Nothing
multiplies the zeros beyond the map along y and z.

A task takes the 4 voxels of all rows of an image, some planes at a time; of what the input is
turned into it keeps as many planes as the next ones depend on, in the nearer caches.

Rounding errors are some five times those of the plain sum: the points are chosen for that.
"""

from fractions import Fraction
from functools import partial

import numpy as np

from osteomet.ops.acceleration import compile_kernel
from osteomet.ops.lane_transforms import row_transform
from osteomet.ops.lanes import (
    FIRST,
    LAST,
    MIDDLE,
    WHOLE,
    WIDTH,
    Ends,
    add,
    add_convolved,
    add_correlated,
    load,
    load_apart,
    prefetch,
    store,
    store_apart,
    zeros,
)
from osteomet.ops.minimal_filtering import minimal_filter

SIDE = 7
"""Side of the kernels that these loops are for."""
HALF = SIDE // 2
TAPS = SIDE * SIDE * WIDTH
ALONG = tuple(range(SIDE))
"""Taps along a row; what loops take of it is its length, which a compiler knows."""
SHORT, STEPS = 4, (8, 6)
"""Places along y taken at once: of few, and of more that of the two which leaves fewer empty."""
SUMMED = 512
"""Products that are summed in float32, before the sum joins one in float64."""

ONE = (0,)
MADE = 4
"""Voxels of a row that are made at once."""
SEEN = MADE + SIDE - 1
"""Voxels that they depend on, and products that they take along a row."""
TILE, NEIGHBOURS = tuple(range(MADE)), tuple(range(SEEN))
GROUP = 4
"""Planes made at once."""
RING = GROUP + SIDE - 1
"""Planes that they depend on, and that are kept."""
AHEAD = 4
"""Rows that are asked for before they are needed: voxels of a tile lie apart in memory."""

_POINTS = [Fraction(*fraction) for fraction in ((2, 5), (4, 5), (5, 4), (5, 2))]
FILTER = minimal_filter(MADE, SIDE, [Fraction(0), *(s * p for p in _POINTS for s in (1, -1))])
"""Of all points that are ratios of small numbers these lose least."""
turn_input, turn_taps = row_transform(FILTER.input), row_transform(FILTER.filter)
turn_output = row_transform(FILTER.output)
turn_gradient = row_transform(tuple(zip(*FILTER.output, strict=True)))
_OF_TAPS = np.array(FILTER.filter)

JOINED = 4 * SUMMED
"""Products of a sum from which on an image is a task of its own: adding up sums takes time, too."""

Step = tuple[int, ...]


def voxels_at_once(length: int) -> Step:
    """Return a tuple with one item for each of so many places that is taken at once."""
    step = SHORT if length <= SHORT else min(STEPS, key=lambda step: -length % step)
    return tuple(range(step))


@partial(compile_kernel, inline=True)
def tiles(width: int) -> int:
    """Return how often ``MADE`` voxels are taken of a row."""
    return -(-width // MADE)


def images_at_once(shape: tuple[int, ...]) -> int:
    """Return of how many images ``(batch, z, y, x, c)`` a task sums the products."""
    batch, depth, height, width, _ = shape
    return min(batch, -(-JOINED // max(1, depth * height * tiles(width))))


@compile_kernel
def pack_weights(weights: np.ndarray, packed: np.ndarray, flip: bool) -> None:
    """Put weights ``(channels, taps)`` into ``(blocks, taps, lanes)``, or their mirror image."""
    channels, taps = weights.shape
    for channel in range(len(packed) * WIDTH):
        block = packed[channel // WIDTH]
        for tap in range(taps):
            place = taps - 1 - tap if flip else tap
            block[place, channel % WIDTH] = weights[channel, tap] if channel < channels else 0


@compile_kernel
def turn_weights(packed: np.ndarray, turned: np.ndarray) -> None:
    """Turn weights ``(blocks, taps * lanes)`` into ``(blocks, SEEN, TAPS)``."""
    for block in range(len(packed)):
        taps, out = packed[block], turned[block].reshape(-1)
        for row in range(SIDE * SIDE):
            there = turn_taps(load(taps, row * SIDE * WIDTH, ALONG))
            store_apart(out, row * WIDTH, TAPS, there)


@compile_kernel
def turn_sums_back(sums: np.ndarray, gradient: np.ndarray) -> None:
    """Add up sums ``(blocks, parts, SEEN, TAPS)`` to what ``(channels, taps)`` are due."""
    channels = len(gradient)
    total, due = np.empty((SEEN, WIDTH)), np.empty(WIDTH)
    for block in range(len(sums)):
        begin = block * WIDTH
        for row in range(SIDE * SIDE):
            total[:] = 0
            for part in range(sums.shape[1]):
                for place in range(SEEN):
                    for c in range(WIDTH):
                        total[place, c] += sums[block, part, place, row * WIDTH + c]
            for k in range(SIDE):
                due[:] = 0
                for place in range(SEEN):
                    for c in range(WIDTH):
                        due[c] += _OF_TAPS[place, k] * total[place, c]
                for c in range(min(WIDTH, channels - begin)):
                    gradient[begin + c, row * SIDE + k] = due[c]


@compile_kernel
def convolve(
    first: int,
    last: int,
    step: Step,
    features: np.ndarray,
    weights: np.ndarray,
    bias: np.ndarray,
    out: np.ndarray,
) -> None:
    """Fill voxels of blocks of channels of ``out``; a task is a tile of all rows of an image.

    Args:
        first: task.
        last: task, exclusive.
        step: one item for each place along y that is taken at once.
        features: ``(b, z, y, x, c)``.
        weights: ``(blocks, SEEN, TAPS)``.
        bias: ``(blocks * lanes,)``.
        out: like ``features``.
    """
    batch, depth, height, width, _ = features.shape
    length = -(-height // len(step)) * len(step) * WIDTH
    seen = np.zeros((SEEN, RING, length), np.float32)  # beyond the last row they stay so
    sums = np.empty((SEEN, GROUP, length), np.float32)
    columns = tiles(width)
    for task in range(first, last):
        block, b, tile = task // (batch * columns), task // columns % batch, task % columns
        begin, left = block * WIDTH, tile * MADE
        ready, voxels = 0, np.zeros(SEEN * WIDTH, np.float32)
        for base in range(0, depth, GROUP):
            end = min(depth, base + GROUP)
            while ready < min(depth, end + HALF):
                _turn_plane(features, b, ready, left, begin, voxels, seen)
                ready += 1
            for place in range(SEEN):
                taps = weights[block, place]
                for z in range(base, end):
                    _convolve_row(step, sums[place, z - base], seen[place], z, depth, taps)
            for z in range(base, end):
                _make_plane(sums, z - base, bias, b, z, left, begin, out)


@partial(compile_kernel, inline=True)
def _make_plane(
    sums: np.ndarray,
    slot: int,
    bias: np.ndarray,
    b: int,
    z: int,
    left: int,
    begin: int,
    out: np.ndarray,
) -> None:
    """Turn sums into 4 voxels of each row of a plane."""
    _, depth, height, width, channels = out.shape
    length = sums.shape[2]
    flat, results = sums.reshape(-1), out.reshape(-1)
    lanes, inside = min(WIDTH, channels - begin), min(MADE, width - left)
    offset = load(bias, begin, ONE)
    for y in range(height):
        place, apart = slot * length + y * WIDTH, GROUP * length
        made = add(turn_output(load_apart(flat, place, apart, NEIGHBOURS)), offset)
        at = (((b * depth + z) * height + y) * width + left) * channels + begin
        for x in range(inside):
            prefetch(results, at + (AHEAD * width + x) * channels)
        if lanes == WIDTH and inside == MADE:
            store_apart(results, at, channels, made)
        else:
            store_apart(flat, place, apart, made)
            for x in range(inside):
                for c in range(lanes):
                    results[at + x * channels + c] = flat[place + x * apart + c]


@partial(compile_kernel, inline=True)
def _turn_plane(
    features: np.ndarray,
    b: int,
    z: int,
    left: int,
    begin: int,
    voxels: np.ndarray,
    seen: np.ndarray,
) -> None:
    """Turn what a tile depends on in a plane: 10 voxels of each row, with zeros beyond it.

    ``voxels``, zeros before the tile's first plane, holds those of a row.
    """
    _, depth, height, width, channels = features.shape
    length = seen.shape[2]
    values, turned = features.reshape(-1), seen.reshape(-1)
    first, last = max(0, HALF - left), min(SEEN, width + HALF - left)
    lanes = min(WIDTH, channels - begin)
    for y in range(height):
        at = (((b * depth + z) * height + y) * width + left - HALF) * channels + begin
        for x in range(first, last):
            prefetch(values, at + (AHEAD * width + x) * channels)
        if lanes == WIDTH:
            for x in range(first, last):
                store(voxels, x * WIDTH, load(values, at + x * channels, ONE))
        else:
            for x in range(first, last):
                for c in range(lanes):
                    voxels[x * WIDTH + c] = values[at + x * channels + c]
        there = turn_input(load(voxels, 0, NEIGHBOURS))
        store_apart(turned, z % RING * length + y * WIDTH, RING * length, there)


@partial(compile_kernel, inline=True)
def _convolve_row(
    step: Step,
    sums: np.ndarray,
    planes: np.ndarray,
    z: int,
    depth: int,
    taps: np.ndarray,
) -> None:
    """Sum for a row along y what the planes around it give its places."""
    taken = len(step) * WIDTH
    final = planes.shape[1] - taken
    if final == 0:
        _convolve_step(step, WHOLE, sums, 0, planes, z, depth, taps)
        return
    _convolve_step(step, FIRST, sums, 0, planes, z, depth, taps)
    for start in range(taken, final, taken):
        _convolve_step(step, MIDDLE, sums, start, planes, z, depth, taps)
    _convolve_step(step, LAST, sums, final, planes, z, depth, taps)


@partial(compile_kernel, inline=True)
def _convolve_step(
    step: Step,
    ends: Ends,
    sums: np.ndarray,
    start: int,
    planes: np.ndarray,
    z: int,
    depth: int,
    taps: np.ndarray,
) -> None:
    """Sum for places from ``start`` on what the planes around them give."""
    lanes = zeros(step)
    first = max(0, HALF - z)
    slot = (z + first - HALF) % RING
    for kz in range(first, min(SIDE, depth + HALF - z)):
        lanes = add_convolved(lanes, planes[slot], start, taps, kz * SIDE * WIDTH, ALONG, ends)
        slot = slot + 1 if slot + 1 < RING else 0
    store(sums, start, lanes)


@compile_kernel
def correlate(
    first: int,
    last: int,
    step: Step,
    images: int,
    features: np.ndarray,
    grads: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Sum the products; a task is a block of channels of some images.

    Args:
        first: task.
        last: task, exclusive.
        step: one item for each place along y that is taken at once.
        images: of a task.
        features: ``(b, z, y, x, c)``.
        grads: of the output, likewise.
        sums: ``(tasks, SEEN, TAPS)``, float64.
    """
    batch, depth, height, width, _ = features.shape
    length = -(-height // len(step)) * len(step) * WIDTH
    seen = np.zeros((SEEN, RING, length), np.float32)
    given = np.zeros((SEEN, GROUP, length), np.float32)
    part = np.empty((SEEN, TAPS), np.float32)
    columns, parts = tiles(width), -(-batch // images)
    for task in range(first, last):
        begin, image = task // parts * WIDTH, task % parts * images
        sums[task] = 0
        part[:] = 0
        summed = 0
        for there in range(image * columns, min(image + images, batch) * columns):
            b, left = there // columns, there % columns * MADE
            ready, voxels = 0, np.zeros(SEEN * WIDTH, np.float32)
            for base in range(0, depth, GROUP):
                end = min(depth, base + GROUP)
                while ready < min(depth, end + HALF):
                    _turn_plane(features, b, ready, left, begin, voxels, seen)
                    ready += 1
                for z in range(base, end):
                    _turn_gradients(grads, b, z, left, begin, given, z - base)
                for place in range(SEEN):
                    for kz in range(SIDE):
                        _correlate_rows(
                            step, part[place], seen[place], given[place], base, end, kz, depth
                        )
                summed += (end - base) * height
                if summed >= SUMMED:
                    _join(sums[task], part)
                    summed = 0
        _join(sums[task], part)


@partial(compile_kernel, inline=True)
def _join(sums: np.ndarray, part: np.ndarray) -> None:
    """Add sums to others, and begin anew."""
    for place in range(SEEN):
        for i in range(TAPS):
            sums[place, i] += part[place, i]
            part[place, i] = 0


@partial(compile_kernel, inline=True)
def _turn_gradients(
    grads: np.ndarray,
    b: int,
    z: int,
    left: int,
    begin: int,
    given: np.ndarray,
    slot: int,
) -> None:
    """Turn what a tile of a plane's rows is due: 4 voxels of each, with zeros beyond it."""
    _, depth, height, width, channels = grads.shape
    length = given.shape[2]
    values, turned = grads.reshape(-1), given.reshape(-1)
    inside, lanes = min(MADE, width - left), min(WIDTH, channels - begin)
    voxels = np.zeros(MADE * WIDTH, np.float32)
    for y in range(height):
        at = (((b * depth + z) * height + y) * width + left) * channels + begin
        for x in range(inside):
            prefetch(values, at + (AHEAD * width + x) * channels)
            if lanes == WIDTH:
                store(voxels, x * WIDTH, load(values, at + x * channels, ONE))
            else:
                for c in range(lanes):
                    voxels[x * WIDTH + c] = values[at + x * channels + c]
        there = turn_gradient(load(voxels, 0, TILE))
        store_apart(turned, slot * length + y * WIDTH, GROUP * length, there)


@partial(compile_kernel, inline=True)
def _correlate_rows(
    step: Step,
    part: np.ndarray,
    planes: np.ndarray,
    given: np.ndarray,
    base: int,
    end: int,
    kz: int,
    depth: int,
) -> None:
    """Sum for the 7 taps along y the products of some planes' rows."""
    taken = len(step) * WIDTH
    final = planes.shape[1] - taken
    taps = load(part, kz * SIDE * WIDTH, ALONG)
    for z in range(max(base, HALF - kz), min(end, depth + HALF - kz)):
        row, grad = planes[(z + kz - HALF) % RING], given[z - base]
        if final == 0:
            taps = add_correlated(taps, row, 0, grad, 0, step, WHOLE)
        else:
            taps = add_correlated(taps, row, 0, grad, 0, step, FIRST)
            for start in range(taken, final, taken):
                taps = add_correlated(taps, row, start, grad, start, step, MIDDLE)
            taps = add_correlated(taps, row, final, grad, final, step, LAST)
    store(part, kz * SIDE * WIDTH, taps)
