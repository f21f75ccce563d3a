"""The loops of the weights' gradient of a depthwise 7-cubed convolution, on a CPU.

They work on blocks of 16 channels, which are one AVX-512 register (two of AVX2), side by side
in memory. For one row of voxels they hold the 7 taps of x and 6 or 8 voxels of the gradient at
once, so that 14 loads feed 56 multiplications. What multiplies zeros beyond the map is left out
along z and y.
"""

import numpy as np

from osteomet.ops.acceleration import compile_kernel

SIDE = 7
"""Side of the kernels that have a fast gradient."""
HALF = SIDE // 2
LANES = 16
"""Channels that one instruction multiplies."""
STEPS = (8, 6)
"""Voxels of a row taken at once; of the two, that which leaves fewer empty places."""
TAPS = SIDE * SIDE * LANES
ROWS = 8
"""Rows whose products are summed in float32, before the sum joins one in float64."""


@compile_kernel
def pack(first: int, last: int, features: np.ndarray, packed: np.ndarray, margin: int) -> None:
    """Copy blocks of channels to where they lie side by side, with zeros around each row."""
    for block in range(first, last):
        _pack_block(block, features, packed, margin)


@compile_kernel
def _pack_block(block: int, features: np.ndarray, packed: np.ndarray, margin: int) -> None:
    batch, depth, height, width, channels = features.shape
    first = block * LANES
    lanes = min(LANES, channels - first)
    for b in range(batch):
        for z in range(depth):
            for y in range(height):
                row = packed[block, b, z, y]
                row[: margin * LANES] = 0
                row[(margin + width) * LANES :] = 0
                for x in range(width):
                    start = (margin + x) * LANES
                    if lanes == LANES:  # a count known when compiling makes it one instruction
                        for c in range(LANES):
                            row[start + c] = features[b, z, y, x, first + c]
                    else:
                        for c in range(lanes):
                            row[start + c] = features[b, z, y, x, first + c]
                        row[start + lanes : start + LANES] = 0


@compile_kernel
def correlate(
    first: int, last: int, step: int, rows: np.ndarray, grads: np.ndarray, sums: np.ndarray
) -> None:
    """Sum the products; a task is a block of channels and an offset in z of the kernel."""
    for task in range(first, last):
        _correlate_block(task, step, rows, grads, sums)


@compile_kernel
def _correlate_block(
    task: int, step: int, rows: np.ndarray, grads: np.ndarray, sums: np.ndarray
) -> None:
    block, kz = task // SIDE, task % SIDE
    batch, depth, height = rows.shape[1:4]
    part = np.zeros(TAPS, np.float32)
    total = sums[task]
    total[:] = 0
    for b in range(batch):
        for z in range(max(0, HALF - kz), min(depth, depth + HALF - kz)):
            for y in range(height):
                grad_row = grads[block, b, z, y]
                for ky in range(max(0, HALF - y), min(SIDE, height + HALF - y)):
                    row = rows[block, b, z + kz - HALF, y + ky - HALF]
                    taps = part[ky * SIDE * LANES : (ky + 1) * SIDE * LANES]
                    if step == 8:
                        _add_row_by_8(taps, row, grad_row)
                    else:
                        _add_row_by_6(taps, row, grad_row)
                if y % ROWS == ROWS - 1 or y == height - 1:
                    for i in range(TAPS):
                        total[i] += part[i]
                        part[i] = 0


@compile_kernel
def collect(sums: np.ndarray, gradient: np.ndarray) -> None:
    """Put the sums ``(blocks, taps, lanes)`` where ``(channels, taps)`` wants them."""
    for channel in range(len(gradient)):
        for tap in range(sums.shape[1]):
            gradient[channel, tap] = sums[channel // LANES, tap, channel % LANES]


@compile_kernel
def _add_row_by_8(taps: np.ndarray, row: np.ndarray, grad_row: np.ndarray) -> None:
    """Add the products of a row of the gradient and a row of ``x`` to its 7 taps.

    A step multiplies 8 gradients with the 14 voxels around them. It is written out, because
    only so does LLVM keep all of them in registers: three times faster than as loops.
    """
    for start in range(0, len(grad_row), 8 * LANES):
        g = grad_row[start : start + 8 * LANES]
        x = row[start : start + 14 * LANES]
        for c in range(LANES):
            g0, g1, g2, g3 = g[c], g[c + LANES], g[c + 2 * LANES], g[c + 3 * LANES]
            g4, g5 = g[c + 4 * LANES], g[c + 5 * LANES]
            g6, g7 = g[c + 6 * LANES], g[c + 7 * LANES]
            x0, x1, x2, x3 = x[c], x[c + LANES], x[c + 2 * LANES], x[c + 3 * LANES]
            x4, x5, x6 = x[c + 4 * LANES], x[c + 5 * LANES], x[c + 6 * LANES]
            x7, x8, x9 = x[c + 7 * LANES], x[c + 8 * LANES], x[c + 9 * LANES]
            x10, x11 = x[c + 10 * LANES], x[c + 11 * LANES]
            x12, x13 = x[c + 12 * LANES], x[c + 13 * LANES]
            taps[c] += (g0 * x0 + g1 * x1 + g2 * x2 + g3 * x3) + (
                g4 * x4 + g5 * x5 + g6 * x6 + g7 * x7
            )
            taps[c + LANES] += (g0 * x1 + g1 * x2 + g2 * x3 + g3 * x4) + (
                g4 * x5 + g5 * x6 + g6 * x7 + g7 * x8
            )
            taps[c + 2 * LANES] += (g0 * x2 + g1 * x3 + g2 * x4 + g3 * x5) + (
                g4 * x6 + g5 * x7 + g6 * x8 + g7 * x9
            )
            taps[c + 3 * LANES] += (g0 * x3 + g1 * x4 + g2 * x5 + g3 * x6) + (
                g4 * x7 + g5 * x8 + g6 * x9 + g7 * x10
            )
            taps[c + 4 * LANES] += (g0 * x4 + g1 * x5 + g2 * x6 + g3 * x7) + (
                g4 * x8 + g5 * x9 + g6 * x10 + g7 * x11
            )
            taps[c + 5 * LANES] += (g0 * x5 + g1 * x6 + g2 * x7 + g3 * x8) + (
                g4 * x9 + g5 * x10 + g6 * x11 + g7 * x12
            )
            taps[c + 6 * LANES] += (g0 * x6 + g1 * x7 + g2 * x8 + g3 * x9) + (
                g4 * x10 + g5 * x11 + g6 * x12 + g7 * x13
            )


@compile_kernel
def _add_row_by_6(taps: np.ndarray, row: np.ndarray, grad_row: np.ndarray) -> None:
    """Do the same 6 voxels at a time: rows of 4, 6 and 12 leave fewer empty places."""
    for start in range(0, len(grad_row), 6 * LANES):
        g = grad_row[start : start + 6 * LANES]
        x = row[start : start + 12 * LANES]
        for c in range(LANES):
            g0, g1, g2 = g[c], g[c + LANES], g[c + 2 * LANES]
            g3, g4, g5 = g[c + 3 * LANES], g[c + 4 * LANES], g[c + 5 * LANES]
            x0, x1, x2, x3 = x[c], x[c + LANES], x[c + 2 * LANES], x[c + 3 * LANES]
            x4, x5, x6 = x[c + 4 * LANES], x[c + 5 * LANES], x[c + 6 * LANES]
            x7, x8, x9 = x[c + 7 * LANES], x[c + 8 * LANES], x[c + 9 * LANES]
            x10, x11 = x[c + 10 * LANES], x[c + 11 * LANES]
            taps[c] += g0 * x0 + g1 * x1 + g2 * x2 + g3 * x3 + g4 * x4 + g5 * x5
            taps[c + LANES] += g0 * x1 + g1 * x2 + g2 * x3 + g3 * x4 + g4 * x5 + g5 * x6
            taps[c + 2 * LANES] += g0 * x2 + g1 * x3 + g2 * x4 + g3 * x5 + g4 * x6 + g5 * x7
            taps[c + 3 * LANES] += g0 * x3 + g1 * x4 + g2 * x5 + g3 * x6 + g4 * x7 + g5 * x8
            taps[c + 4 * LANES] += g0 * x4 + g1 * x5 + g2 * x6 + g3 * x7 + g4 * x8 + g5 * x9
            taps[c + 5 * LANES] += g0 * x5 + g1 * x6 + g2 * x7 + g3 * x8 + g4 * x9 + g5 * x10
            taps[c + 6 * LANES] += g0 * x6 + g1 * x7 + g2 * x8 + g3 * x9 + g4 * x10 + g5 * x11
