"""The loops of a depthwise 7-cubed convolution and of the gradient of its weights, on a CPU.

They work on blocks of 16 channels, which are one AVX-512 register (two of AVX2), side by side
in memory. A step takes 4, 6 or 8 voxels of a row and the 7 taps along it, so that 8 voxels cost
21 loads for 56 multiplications: 8 sums, 7 weights and a voxel are the 16 registers of AVX2. What
multiplies zeros beyond the map is left out along z and y and, in a row of 4, along x.
"""

from functools import partial

import numpy as np

from osteomet.ops.acceleration import compile_kernel

SIDE = 7
"""Side of the kernels that these loops are for."""
HALF = SIDE // 2
LANES = 16
"""Channels that one instruction multiplies."""
SHORT = 4
"""Voxels of a row up to which one step takes it all, and no zeros are needed around it."""
STEPS = (8, 6)
"""Voxels of a longer row taken at once; of the two, that which leaves fewer empty places."""
TAPS = SIDE * SIDE * LANES
ROWS = 8
"""Rows whose products are summed in float32, before the sum joins one in float64."""


def row_layout(width: int) -> tuple[int, int]:
    """Return how many voxels of a row are taken at once, and the zeros that must surround it."""
    if width <= SHORT:
        return SHORT, 0
    return min(STEPS, key=lambda step: -width % step), HALF


@compile_kernel
def pack(first: int, last: int, features: np.ndarray, packed: np.ndarray, margin: int) -> None:
    """Copy planes of blocks of channels to where they lie side by side, with zeros around rows."""
    batch, depth, height, width, channels = features.shape
    for task in range(first, last):
        block, b, z = task // (batch * depth), task // depth % batch, task % depth
        begin = block * LANES
        lanes = min(LANES, channels - begin)
        for y in range(height):
            row = packed[block, b, z, y]
            row[: margin * LANES] = 0
            row[(margin + width) * LANES :] = 0
            for x in range(width):
                start = (margin + x) * LANES
                if lanes == LANES:  # a count known when compiling makes it one instruction
                    for c in range(LANES):
                        row[start + c] = features[b, z, y, x, begin + c]
                else:
                    for c in range(lanes):
                        row[start + c] = features[b, z, y, x, begin + c]
                    row[start + lanes : start + LANES] = 0


@compile_kernel
def pack_weights(weights: np.ndarray, packed: np.ndarray, flip: bool) -> None:
    """Put weights ``(channels, taps)`` into ``(blocks, taps, lanes)``, or their mirror image."""
    channels, taps = weights.shape
    for channel in range(len(packed) * LANES):
        block = packed[channel // LANES]
        for tap in range(taps):
            place = taps - 1 - tap if flip else tap
            block[place, channel % LANES] = weights[channel, tap] if channel < channels else 0


@compile_kernel
def unpack_sums(sums: np.ndarray, gradient: np.ndarray) -> None:
    """Put sums ``(blocks, taps, lanes)`` where ``(channels, taps)`` wants them."""
    for channel in range(len(gradient)):
        for tap in range(sums.shape[1]):
            gradient[channel, tap] = sums[channel // LANES, tap, channel % LANES]


@compile_kernel
def convolve(
    first: int,
    last: int,
    step: int,
    rows: np.ndarray,
    weights: np.ndarray,
    bias: np.ndarray,
    out: np.ndarray,
) -> None:
    """Fill planes of blocks of channels of ``out``, ``(b, z, y, x, c)``; a task is one of them."""
    batch, depth, height = rows.shape[1:4]
    width, channels = out.shape[3:]
    places = -(-width // step) * step
    sums = np.empty((height, places * LANES), np.float32)
    for task in range(first, last):
        block, b, z = task // (batch * depth), task // depth % batch, task % depth
        sums[:] = 0
        for kz in range(max(0, HALF - z), min(SIDE, depth + HALF - z)):
            for y in range(height):
                for ky in range(max(0, HALF - y), min(SIDE, height + HALF - y)):
                    row = rows[block, b, z + kz - HALF, y + ky - HALF]
                    taps = weights[block, kz * TAPS + ky * SIDE * LANES :]
                    for start in range(0, places * LANES, step * LANES):
                        _convolve_step(step, sums[y, start:], row[start:], taps)
        begin = block * LANES
        lanes = min(LANES, channels - begin)
        for y in range(height):
            for x in range(width):
                for c in range(lanes):
                    out[b, z, y, x, begin + c] = sums[y, x * LANES + c] + bias[begin + c]


@compile_kernel
def correlate(
    first: int, last: int, step: int, rows: np.ndarray, grads: np.ndarray, sums: np.ndarray
) -> None:
    """Sum the products; a task is a block of channels and an offset in z of the kernel.

    Rows of features and of gradients are packed alike.
    """
    batch, depth, height = rows.shape[1:4]
    margin = 0 if step == SHORT else HALF * LANES
    part = np.zeros(TAPS, np.float32)
    for task in range(first, last):
        block, kz = task // SIDE, task % SIDE
        total = sums[task]
        total[:] = 0
        for b in range(batch):
            for z in range(max(0, HALF - kz), min(depth, depth + HALF - kz)):
                for y in range(height):
                    grad = grads[block, b, z, y, margin : grads.shape[4] - margin]
                    for ky in range(max(0, HALF - y), min(SIDE, height + HALF - y)):
                        row = rows[block, b, z + kz - HALF, y + ky - HALF]
                        taps = part[ky * SIDE * LANES : (ky + 1) * SIDE * LANES]
                        for start in range(0, len(grad), step * LANES):
                            _correlate_step(step, taps, row[start:], grad[start:])
                    if y % ROWS == ROWS - 1 or y == height - 1:
                        for i in range(TAPS):
                            total[i] += part[i]
                            part[i] = 0


@partial(compile_kernel, inline=True)
def _convolve_step(step: int, sums: np.ndarray, row: np.ndarray, taps: np.ndarray) -> None:
    if step == 8:
        _convolve_8(sums, row, taps)
    elif step == 6:
        _convolve_6(sums, row, taps)
    else:
        _convolve_4(sums, row, taps)


@partial(compile_kernel, inline=True)
def _correlate_step(step: int, taps: np.ndarray, row: np.ndarray, grad: np.ndarray) -> None:
    if step == 8:
        _correlate_8(taps, row, grad)
    elif step == 6:
        _correlate_6(taps, row, grad)
    else:
        _correlate_4(taps, row, grad)


@partial(compile_kernel, inline=True)
def _convolve_8(sums: np.ndarray, row: np.ndarray, taps: np.ndarray) -> None:
    """Add to 8 voxels the products of 7 taps and the 14 voxels around them.

    Written out, because a compiler does not keep sums of a loop in registers.
    """
    for c in range(LANES):
        w0, w1, w2, w3 = taps[c], taps[c + LANES], taps[c + 2 * LANES], taps[c + 3 * LANES]
        w4, w5, w6 = taps[c + 4 * LANES], taps[c + 5 * LANES], taps[c + 6 * LANES]
        x0, x1, x2, x3 = row[c], row[c + LANES], row[c + 2 * LANES], row[c + 3 * LANES]
        x4, x5, x6 = row[c + 4 * LANES], row[c + 5 * LANES], row[c + 6 * LANES]
        x7, x8, x9 = row[c + 7 * LANES], row[c + 8 * LANES], row[c + 9 * LANES]
        x10, x11, x12 = row[c + 10 * LANES], row[c + 11 * LANES], row[c + 12 * LANES]
        x13 = row[c + 13 * LANES]
        s0, s1, s2, s3 = sums[c], sums[c + LANES], sums[c + 2 * LANES], sums[c + 3 * LANES]
        s4, s5, s6 = sums[c + 4 * LANES], sums[c + 5 * LANES], sums[c + 6 * LANES]
        s7 = sums[c + 7 * LANES]
        s0 += w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3 + w4 * x4 + w5 * x5 + w6 * x6
        s1 += w0 * x1 + w1 * x2 + w2 * x3 + w3 * x4 + w4 * x5 + w5 * x6 + w6 * x7
        s2 += w0 * x2 + w1 * x3 + w2 * x4 + w3 * x5 + w4 * x6 + w5 * x7 + w6 * x8
        s3 += w0 * x3 + w1 * x4 + w2 * x5 + w3 * x6 + w4 * x7 + w5 * x8 + w6 * x9
        s4 += w0 * x4 + w1 * x5 + w2 * x6 + w3 * x7 + w4 * x8 + w5 * x9 + w6 * x10
        s5 += w0 * x5 + w1 * x6 + w2 * x7 + w3 * x8 + w4 * x9 + w5 * x10 + w6 * x11
        s6 += w0 * x6 + w1 * x7 + w2 * x8 + w3 * x9 + w4 * x10 + w5 * x11 + w6 * x12
        s7 += w0 * x7 + w1 * x8 + w2 * x9 + w3 * x10 + w4 * x11 + w5 * x12 + w6 * x13
        sums[c], sums[c + LANES], sums[c + 2 * LANES], sums[c + 3 * LANES] = s0, s1, s2, s3
        sums[c + 4 * LANES], sums[c + 5 * LANES], sums[c + 6 * LANES] = s4, s5, s6
        sums[c + 7 * LANES] = s7


@partial(compile_kernel, inline=True)
def _convolve_6(sums: np.ndarray, row: np.ndarray, taps: np.ndarray) -> None:
    """Do the same for 6 voxels."""
    for c in range(LANES):
        w0, w1, w2, w3 = taps[c], taps[c + LANES], taps[c + 2 * LANES], taps[c + 3 * LANES]
        w4, w5, w6 = taps[c + 4 * LANES], taps[c + 5 * LANES], taps[c + 6 * LANES]
        x0, x1, x2, x3 = row[c], row[c + LANES], row[c + 2 * LANES], row[c + 3 * LANES]
        x4, x5, x6 = row[c + 4 * LANES], row[c + 5 * LANES], row[c + 6 * LANES]
        x7, x8, x9 = row[c + 7 * LANES], row[c + 8 * LANES], row[c + 9 * LANES]
        x10, x11 = row[c + 10 * LANES], row[c + 11 * LANES]
        s0, s1, s2, s3 = sums[c], sums[c + LANES], sums[c + 2 * LANES], sums[c + 3 * LANES]
        s4, s5 = sums[c + 4 * LANES], sums[c + 5 * LANES]
        s0 += w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3 + w4 * x4 + w5 * x5 + w6 * x6
        s1 += w0 * x1 + w1 * x2 + w2 * x3 + w3 * x4 + w4 * x5 + w5 * x6 + w6 * x7
        s2 += w0 * x2 + w1 * x3 + w2 * x4 + w3 * x5 + w4 * x6 + w5 * x7 + w6 * x8
        s3 += w0 * x3 + w1 * x4 + w2 * x5 + w3 * x6 + w4 * x7 + w5 * x8 + w6 * x9
        s4 += w0 * x4 + w1 * x5 + w2 * x6 + w3 * x7 + w4 * x8 + w5 * x9 + w6 * x10
        s5 += w0 * x5 + w1 * x6 + w2 * x7 + w3 * x8 + w4 * x9 + w5 * x10 + w6 * x11
        sums[c], sums[c + LANES], sums[c + 2 * LANES], sums[c + 3 * LANES] = s0, s1, s2, s3
        sums[c + 4 * LANES], sums[c + 5 * LANES] = s4, s5


@partial(compile_kernel, inline=True)
def _convolve_4(sums: np.ndarray, row: np.ndarray, taps: np.ndarray) -> None:
    """Do the same for a whole row of 4, of which no more than 4 taps meet a voxel."""
    for c in range(LANES):
        w0, w1, w2, w3 = taps[c], taps[c + LANES], taps[c + 2 * LANES], taps[c + 3 * LANES]
        w4, w5, w6 = taps[c + 4 * LANES], taps[c + 5 * LANES], taps[c + 6 * LANES]
        x0, x1, x2, x3 = row[c], row[c + LANES], row[c + 2 * LANES], row[c + 3 * LANES]
        s0, s1, s2, s3 = sums[c], sums[c + LANES], sums[c + 2 * LANES], sums[c + 3 * LANES]
        s0 += w3 * x0 + w4 * x1 + w5 * x2 + w6 * x3
        s1 += w2 * x0 + w3 * x1 + w4 * x2 + w5 * x3
        s2 += w1 * x0 + w2 * x1 + w3 * x2 + w4 * x3
        s3 += w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3
        sums[c], sums[c + LANES], sums[c + 2 * LANES], sums[c + 3 * LANES] = s0, s1, s2, s3


@partial(compile_kernel, inline=True)
def _correlate_8(taps: np.ndarray, row: np.ndarray, grad: np.ndarray) -> None:
    """Add to 7 taps the products of 8 gradients and the 14 voxels around them."""
    for c in range(LANES):
        g0, g1, g2, g3 = grad[c], grad[c + LANES], grad[c + 2 * LANES], grad[c + 3 * LANES]
        g4, g5, g6 = grad[c + 4 * LANES], grad[c + 5 * LANES], grad[c + 6 * LANES]
        g7 = grad[c + 7 * LANES]
        t0, t1, t2, t3 = taps[c], taps[c + LANES], taps[c + 2 * LANES], taps[c + 3 * LANES]
        t4, t5, t6 = taps[c + 4 * LANES], taps[c + 5 * LANES], taps[c + 6 * LANES]
        x0, x1, x2, x3 = row[c], row[c + LANES], row[c + 2 * LANES], row[c + 3 * LANES]
        x4, x5, x6 = row[c + 4 * LANES], row[c + 5 * LANES], row[c + 6 * LANES]
        x7, x8, x9 = row[c + 7 * LANES], row[c + 8 * LANES], row[c + 9 * LANES]
        x10, x11, x12 = row[c + 10 * LANES], row[c + 11 * LANES], row[c + 12 * LANES]
        x13 = row[c + 13 * LANES]
        t0 += g0 * x0 + g1 * x1 + g2 * x2 + g3 * x3 + g4 * x4 + g5 * x5 + g6 * x6 + g7 * x7
        t1 += g0 * x1 + g1 * x2 + g2 * x3 + g3 * x4 + g4 * x5 + g5 * x6 + g6 * x7 + g7 * x8
        t2 += g0 * x2 + g1 * x3 + g2 * x4 + g3 * x5 + g4 * x6 + g5 * x7 + g6 * x8 + g7 * x9
        t3 += g0 * x3 + g1 * x4 + g2 * x5 + g3 * x6 + g4 * x7 + g5 * x8 + g6 * x9 + g7 * x10
        t4 += g0 * x4 + g1 * x5 + g2 * x6 + g3 * x7 + g4 * x8 + g5 * x9 + g6 * x10 + g7 * x11
        t5 += g0 * x5 + g1 * x6 + g2 * x7 + g3 * x8 + g4 * x9 + g5 * x10 + g6 * x11 + g7 * x12
        t6 += g0 * x6 + g1 * x7 + g2 * x8 + g3 * x9 + g4 * x10 + g5 * x11 + g6 * x12 + g7 * x13
        taps[c], taps[c + LANES], taps[c + 2 * LANES], taps[c + 3 * LANES] = t0, t1, t2, t3
        taps[c + 4 * LANES], taps[c + 5 * LANES], taps[c + 6 * LANES] = t4, t5, t6


@partial(compile_kernel, inline=True)
def _correlate_6(taps: np.ndarray, row: np.ndarray, grad: np.ndarray) -> None:
    """Do the same for 6 gradients."""
    for c in range(LANES):
        g0, g1, g2, g3 = grad[c], grad[c + LANES], grad[c + 2 * LANES], grad[c + 3 * LANES]
        g4, g5 = grad[c + 4 * LANES], grad[c + 5 * LANES]
        t0, t1, t2, t3 = taps[c], taps[c + LANES], taps[c + 2 * LANES], taps[c + 3 * LANES]
        t4, t5, t6 = taps[c + 4 * LANES], taps[c + 5 * LANES], taps[c + 6 * LANES]
        x0, x1, x2, x3 = row[c], row[c + LANES], row[c + 2 * LANES], row[c + 3 * LANES]
        x4, x5, x6 = row[c + 4 * LANES], row[c + 5 * LANES], row[c + 6 * LANES]
        x7, x8, x9 = row[c + 7 * LANES], row[c + 8 * LANES], row[c + 9 * LANES]
        x10, x11 = row[c + 10 * LANES], row[c + 11 * LANES]
        t0 += g0 * x0 + g1 * x1 + g2 * x2 + g3 * x3 + g4 * x4 + g5 * x5
        t1 += g0 * x1 + g1 * x2 + g2 * x3 + g3 * x4 + g4 * x5 + g5 * x6
        t2 += g0 * x2 + g1 * x3 + g2 * x4 + g3 * x5 + g4 * x6 + g5 * x7
        t3 += g0 * x3 + g1 * x4 + g2 * x5 + g3 * x6 + g4 * x7 + g5 * x8
        t4 += g0 * x4 + g1 * x5 + g2 * x6 + g3 * x7 + g4 * x8 + g5 * x9
        t5 += g0 * x5 + g1 * x6 + g2 * x7 + g3 * x8 + g4 * x9 + g5 * x10
        t6 += g0 * x6 + g1 * x7 + g2 * x8 + g3 * x9 + g4 * x10 + g5 * x11
        taps[c], taps[c + LANES], taps[c + 2 * LANES], taps[c + 3 * LANES] = t0, t1, t2, t3
        taps[c + 4 * LANES], taps[c + 5 * LANES], taps[c + 6 * LANES] = t4, t5, t6


@partial(compile_kernel, inline=True)
def _correlate_4(taps: np.ndarray, row: np.ndarray, grad: np.ndarray) -> None:
    """Do the same for a whole row of 4."""
    for c in range(LANES):
        g0, g1, g2, g3 = grad[c], grad[c + LANES], grad[c + 2 * LANES], grad[c + 3 * LANES]
        t0, t1, t2, t3 = taps[c], taps[c + LANES], taps[c + 2 * LANES], taps[c + 3 * LANES]
        t4, t5, t6 = taps[c + 4 * LANES], taps[c + 5 * LANES], taps[c + 6 * LANES]
        x0, x1, x2, x3 = row[c], row[c + LANES], row[c + 2 * LANES], row[c + 3 * LANES]
        t0 += g3 * x0
        t1 += g2 * x0 + g3 * x1
        t2 += g1 * x0 + g2 * x1 + g3 * x2
        t3 += g0 * x0 + g1 * x1 + g2 * x2 + g3 * x3
        t4 += g0 * x1 + g1 * x2 + g2 * x3
        t5 += g0 * x2 + g1 * x3
        t6 += g0 * x3
        taps[c], taps[c + LANES], taps[c + 2 * LANES], taps[c + 3 * LANES] = t0, t1, t2, t3
        taps[c + 4 * LANES], taps[c + 5 * LANES], taps[c + 6 * LANES] = t4, t5, t6
