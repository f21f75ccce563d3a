"""Gradients of a depthwise 7-cubed convolution whose output has one at few voxels.

A region proposal network learns from some dozens of the thousands of cells that it looks at. Where
nothing is due, nothing need be passed on: each of the others adds a cube of weights to what its
neighbours are due, and a cube of neighbours to what the weights are due.
"""

import numpy as np

from osteomet.ops.acceleration import compile_kernel
from osteomet.ops.depthwise_kernels import HALF, SIDE
from osteomet.ops.lanes import WIDTH, add, load, multiply, store

SHARE = 8
"""A voxel alone takes two to three times as long as one of a row; of one in so many it pays."""
ONE = (0,)


def cells_with_gradient(grads: np.ndarray) -> np.ndarray | None:
    """Return ``(n, 4)`` places ``(b, z, y, x)`` of gradients, or None where they are too many.

    Args:
        grads: ``(b, z, y, x, channels)``.
    """
    if grads.shape[4] % WIDTH:
        return None
    cells = np.empty((grads[..., 0].size // SHARE, 4), np.int64)
    count = _find(grads, cells)
    return cells[:count] if count <= len(cells) else None


@compile_kernel
def _find(grads: np.ndarray, cells: np.ndarray) -> int:
    """Fill ``cells`` and return how many there are; one more than fit where there are more."""
    batch, depth, height, width, channels = grads.shape
    count = 0
    for b in range(batch):
        for z in range(depth):
            for y in range(height):
                for x in range(width):
                    values, sum_of_sizes = grads[b, z, y, x], np.float32(0)
                    for c in range(channels):
                        sum_of_sizes += abs(values[c])
                    if sum_of_sizes != 0:  # NaN too
                        if count == len(cells):
                            return count + 1
                        place = cells[count]
                        place[0], place[1], place[2], place[3] = b, z, y, x
                        count += 1
    return count


@compile_kernel
def pull_back_cells(
    first: int,
    last: int,
    cells: np.ndarray,
    grads: np.ndarray,
    weights: np.ndarray,
    features: np.ndarray,
    out: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Add what the input is due, and sum what weights are due; a task is a block of channels.

    Args:
        first: block.
        last: block, exclusive.
        cells: ``(n, 4)`` places of gradients.
        grads: of the output, ``(b, z, y, x, channels)``.
        weights: ``(blocks, taps * lanes)``.
        features: of the input, likewise.
        out: zeros like ``grads``.
        sums: like ``weights``.
    """
    _, depth, height, width, channels = grads.shape
    given, values, results = grads.reshape(-1), features.reshape(-1), out.reshape(-1)
    for block in range(first, last):
        taps, total = weights[block], sums[block]
        total[:] = 0
        for i in range(len(cells)):
            b, z, y, x = cells[i]
            cell = ((b * depth + z) * height + y) * width + x
            grad = load(given, cell * channels + block * WIDTH, ONE)
            for kz in range(max(0, HALF - z), min(SIDE, depth + HALF - z)):
                for ky in range(max(0, HALF - y), min(SIDE, height + HALF - y)):
                    line = cell + ((kz - HALF) * height + ky - HALF) * width - HALF
                    for kx in range(max(0, HALF - x), min(SIDE, width + HALF - x)):
                        tap = ((kz * SIDE + ky) * SIDE + kx) * WIDTH
                        at = (line + kx) * channels + block * WIDTH
                        seen = multiply(load(values, at, ONE), grad)
                        store(total, tap, add(seen, load(total, tap, ONE)))
                        due = multiply(load(taps, tap, ONE), grad)
                        store(results, at, add(due, load(results, at, ONE)))


@compile_kernel
def unpack_sums(sums: np.ndarray, gradient: np.ndarray) -> None:
    """Put sums ``(blocks, taps, lanes)`` where ``(channels, taps)`` wants them."""
    for channel in range(len(gradient)):
        for tap in range(sums.shape[1]):
            gradient[channel, tap] = sums[channel // WIDTH, tap, channel % WIDTH]
