"""The loops of a depthwise 7-cubed convolution and of the gradient of its weights, on a CPU.

They work on blocks of as many channels as a register has numbers, side by side in memory. A step
takes 4, 6 or 8 voxels of a row and the 7 taps along it; 8 sums, 7 weights and a voxel are the 16
registers of AVX2. Sums stay in registers over what is added along y, so that 8 voxels cost 21
loads for 56 multiplications. Nothing multiplies the zeros beyond the map.
"""

from functools import partial

import numpy as np

from osteomet.ops.acceleration import compile_kernel
from osteomet.ops.lanes import (
    FIRST,
    LAST,
    MIDDLE,
    WHOLE,
    WIDTH,
    Ends,
    add_convolved,
    add_correlated,
    load,
    store,
    zeros,
)

SIDE = 7
"""Side of the kernels that these loops are for."""
HALF = SIDE // 2
TAPS = SIDE * SIDE * WIDTH
ALONG = tuple(range(SIDE))
"""Taps along a row; what loops take of it is its length, which a compiler knows."""
SHORT, STEPS = 4, (8, 6)
"""Voxels of a row taken at once: of a short row, and of a longer one that of the two which leaves
fewer empty places."""
SUMMED = 512
"""Voxels whose products are summed in float32, before the sum joins one in float64."""

Step = tuple[int, ...]


def voxels_at_once(width: int) -> Step:
    """Return a tuple with one item for each voxel of a row that is taken at once."""
    step = SHORT if width <= SHORT else min(STEPS, key=lambda step: -width % step)
    return tuple(range(step))


@compile_kernel
def pack(first: int, last: int, features: np.ndarray, packed: np.ndarray) -> None:
    """Copy planes of blocks of channels to where they lie side by side, with zeros after rows."""
    batch, depth, height, width, channels = features.shape
    for task in range(first, last):
        block, b, z = task // (batch * depth), task // depth % batch, task % depth
        begin = block * WIDTH
        lanes = min(WIDTH, channels - begin)
        for y in range(height):
            row = packed[block, b, z, y]
            row[width * WIDTH :] = 0
            for x in range(width):
                voxel, place = features[b, z, y, x, begin:], row[x * WIDTH :]
                if lanes == WIDTH:  # a count known when compiling makes it one instruction
                    for c in range(WIDTH):
                        place[c] = voxel[c]
                else:
                    for c in range(lanes):
                        place[c] = voxel[c]
                    for c in range(lanes, WIDTH):
                        place[c] = 0


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
def unpack_sums(sums: np.ndarray, gradient: np.ndarray) -> None:
    """Put sums ``(blocks, taps, lanes)`` where ``(channels, taps)`` wants them."""
    for channel in range(len(gradient)):
        for tap in range(sums.shape[1]):
            gradient[channel, tap] = sums[channel // WIDTH, tap, channel % WIDTH]


@compile_kernel
def convolve(
    first: int,
    last: int,
    step: Step,
    rows: np.ndarray,
    weights: np.ndarray,
    bias: np.ndarray,
    out: np.ndarray,
) -> None:
    """Fill planes of blocks of channels of ``out``, ``(b, z, y, x, c)``; a task is one of them."""
    batch, depth, height = rows.shape[1:4]
    width, channels = out.shape[3:]
    sums = np.empty((height, rows.shape[4]), np.float32)
    for task in range(first, last):
        block, b, z = task // (batch * depth), task // depth % batch, task % depth
        sums[:] = 0
        for kz in range(max(0, HALF - z), min(SIDE, depth + HALF - z)):
            taps, plane = weights[block, kz * TAPS :], rows[block, b, z + kz - HALF]
            for y in range(height):
                _convolve_row(step, sums[y], plane, y, taps)
        begin = block * WIDTH
        lanes = min(WIDTH, channels - begin)
        for y in range(height):
            for x in range(width):
                voxel, total = out[b, z, y, x, begin:], sums[y, x * WIDTH :]
                if lanes == WIDTH:
                    for c in range(WIDTH):
                        voxel[c] = total[c] + bias[begin + c]
                else:
                    for c in range(lanes):
                        voxel[c] = total[c] + bias[begin + c]


@partial(compile_kernel, inline=True)
def _convolve_row(
    step: Step, sums: np.ndarray, plane: np.ndarray, y: int, taps: np.ndarray
) -> None:
    """Add to a row what a plane of neighbours gives its voxels."""
    taken = len(step) * WIDTH
    final = len(sums) - taken
    if final == 0:
        _convolve_step(step, WHOLE, sums, 0, plane, y, taps)
        return
    _convolve_step(step, FIRST, sums, 0, plane, y, taps)
    for start in range(taken, final, taken):
        _convolve_step(step, MIDDLE, sums, start, plane, y, taps)
    _convolve_step(step, LAST, sums, final, plane, y, taps)


@partial(compile_kernel, inline=True)
def _convolve_step(
    step: Step,
    ends: Ends,
    sums: np.ndarray,
    start: int,
    plane: np.ndarray,
    y: int,
    taps: np.ndarray,
) -> None:
    """Add to a row's voxels from ``start`` on what a plane of neighbours gives them."""
    lanes = load(sums, start, step)
    for ky in range(max(0, HALF - y), min(SIDE, len(plane) + HALF - y)):
        row, tap = plane[y + ky - HALF], ky * SIDE * WIDTH
        lanes = add_convolved(lanes, row, start, taps, tap, ALONG, ends)
    store(sums, start, lanes)


@compile_kernel
def correlate(
    first: int, last: int, step: Step, rows: np.ndarray, grads: np.ndarray, sums: np.ndarray
) -> None:
    """Sum the products; a task is a block of channels and an offset in z of the kernel.

    Rows of features and of gradients are packed alike.
    """
    batch, depth, height, length = rows.shape[1:]
    together = max(1, SUMMED * WIDTH // length)
    part = np.empty(SIDE * WIDTH, np.float32)
    for task in range(first, last):
        block, kz = task // SIDE, task % SIDE
        sums[task] = 0
        for b in range(batch):
            for z in range(max(0, HALF - kz), min(depth, depth + HALF - kz)):
                plane, grad = rows[block, b, z + kz - HALF], grads[block, b, z]
                for ky in range(SIDE):
                    total = sums[task, ky * SIDE * WIDTH :]
                    begin, end = max(0, HALF - ky), min(height, height + HALF - ky)
                    for y in range(begin, end, together):
                        _correlate_rows(step, part, plane, grad, y, min(end, y + together), ky)
                        for i in range(SIDE * WIDTH):
                            total[i] += part[i]


@partial(compile_kernel, inline=True)
def _correlate_rows(
    step: Step,
    part: np.ndarray,
    plane: np.ndarray,
    grad: np.ndarray,
    begin: int,
    end: int,
    ky: int,
) -> None:
    """Sum for the 7 taps along a row the products of some rows of a plane."""
    taken = len(step) * WIDTH
    final = plane.shape[1] - taken
    taps = zeros(ALONG)
    for y in range(begin, end):
        row, given = plane[y + ky - HALF], grad[y]
        if final == 0:
            taps = add_correlated(taps, row, 0, given, 0, step, WHOLE)
        else:
            taps = add_correlated(taps, row, 0, given, 0, step, FIRST)
            for start in range(taken, final, taken):
                taps = add_correlated(taps, row, start, given, start, step, MIDDLE)
            taps = add_correlated(taps, row, final, given, final, step, LAST)
    store(part, 0, taps)
