"""The loops of RoIAlign on a CPU, over arrays that hold the channels of a voxel side by side.

Trilinear sampling of a grid is separable: the four rows of voxels around a line of samples
are mixed into one row, from which each sample takes two voxels. The gradient walks the same
way back.
"""

from functools import partial

import numpy as np

from osteomet.ops.acceleration import compile_kernel
from osteomet.ops.lanes import WIDTH, add, load, multiply, store

ONE, HALF = np.float32(1), np.float32(0.5)
"""In float32, or numba would compute in float64."""
PAIR = 2
"""Channels of the crops that the heads read: image and dense segmentation."""

LANE = (0,)
"""One register."""

Sampling = tuple[int, tuple[int, ...]]
"""Samples along an axis of a bin, and one item for each register that the channels fill."""
Lines = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
Shares = tuple[float, float, float, float]


@compile_kernel
def gather(
    block: int,
    rois: np.ndarray,
    features: np.ndarray,
    boxes: np.ndarray,
    batch_index: np.ndarray,
    sampling: Sampling,
    pooled: np.ndarray,
) -> None:
    """Pool one box: ``pooled[roi]``, ``(o, o, o, channels)``, from ``features[image]``."""
    roi = rois[block]
    image, out = features[batch_index[roi]], pooled[roi]
    ratio, registers = sampling
    samples = len(out) * ratio
    index, share, step = _find_samples(boxes[roi], image.shape, samples)
    row = np.empty(image.shape[2:], np.float32)
    out[:] = 0
    for k in range(samples):
        near, far, z = image[index[0, k]], image[index[0, k] + step[0]], share[0, k]
        for j in range(samples):
            y0, y1, y = index[1, j], index[1, j] + step[1], share[1, j]
            shares = (ONE - z) * (ONE - y), (ONE - z) * y, z * (ONE - y), z * y
            mixed = -1  # the last voxel of the row that is ready
            for i in range(samples):
                x0, x1, x = index[2, i], index[2, i] + step[2], share[2, i]
                for voxel in range(max(x0, mixed + 1), x1 + 1):
                    lines = near[y0, voxel], near[y1, voxel], far[y0, voxel], far[y1, voxel]
                    _mix(registers, row[voxel], lines, shares)
                mixed = x1
                cell = out[k // ratio, j // ratio, i // ratio]
                _add(registers, cell, ONE - x, row[x0])
                _add(registers, cell, x, row[x1])
    if ratio > 1:
        out /= np.float32(ratio**3)


@compile_kernel
def gather_few(
    block: int,
    rois: np.ndarray,
    features: np.ndarray,
    boxes: np.ndarray,
    batch_index: np.ndarray,
    sampling: Sampling,
    pooled: np.ndarray,
) -> None:
    """Do the same for few channels: a row is mixed at once, from its first to its last voxel.

    Places are counted in numbers: to take an array of a row would cost as much as the row.
    """
    roi = rois[block]
    shape, bins, channels, ratio = features.shape, pooled.shape[1], pooled.shape[4], sampling[0]
    samples = bins * ratio
    index, share, step = _find_samples(boxes[roi], shape[1:], samples)
    numbers, out = features.reshape(-1), pooled[roi].reshape(-1)
    out[:] = 0
    begin, line, leap = index[2, 0] * channels, shape[3] * channels, step[2] * channels
    x_first, x_share = index[2] * channels - begin, share[2]
    row = np.empty((index[2, samples - 1] + step[2] + 1) * channels - begin, np.float32)
    for k in range(samples):
        plane = batch_index[roi] * shape[1] + index[0, k]
        near, far = plane * shape[2] * line + begin, (plane + step[0]) * shape[2] * line + begin
        for j in range(samples):
            y0, y1, y = index[1, j] * line, (index[1, j] + step[1]) * line, share[1, j]
            _mix_row(row, numbers, (near + y0, near + y1, far + y0, far + y1), share[0, k], y)
            to = (k // ratio * bins + j // ratio) * bins * channels
            for cell in range(bins):
                for i in range(cell * ratio, (cell + 1) * ratio):
                    x0, x1, x = x_first[i], x_first[i] + leap, x_share[i]
                    if channels == PAIR:  # a count known when compiling needs no loop
                        for c in range(PAIR):
                            out[to + c] += row[x0 + c] + x * (row[x1 + c] - row[x0 + c])
                    else:
                        for c in range(channels):
                            out[to + c] += row[x0 + c] + x * (row[x1 + c] - row[x0 + c])
                to += channels
    if ratio > 1:
        out /= np.float32(ratio**3)


@compile_kernel
def scatter(
    block: int,
    blocks: int,
    rois: np.ndarray,
    grads: np.ndarray,
    boxes: np.ndarray,
    batch_index: np.ndarray,
    sampling: Sampling,
    summed: np.ndarray,
) -> None:
    """Add the gradient of all boxes to one slab of ``summed``, ``(batch, z, y, x, channels)``.

    A voxel belongs to one slab, and boxes come in their order, so its sum is always the same.
    """
    depth, _, width, channels = summed.shape[1:]
    first, last = block * depth // blocks, (block + 1) * depth // blocks
    samples, scale = grads.shape[1] * sampling[0], ONE / np.float32(sampling[0] ** 3)
    row = np.empty((width, channels), np.float32)
    for roi in rois:
        image = summed[batch_index[roi]]
        index, share, step = _find_samples(boxes[roi], image.shape, samples)
        for k in range(samples):
            near, far = index[0, k], index[0, k] + step[0]
            for plane, weight in ((near, ONE - share[0, k]), (far, share[0, k])):
                if first <= plane < last:
                    grad = scale * weight, grads[roi, k // sampling[0]]
                    _scatter_plane(sampling, image[plane], grad, index, share, step, row)


@compile_kernel
def scatter_few(
    block: int,
    blocks: int,
    rois: np.ndarray,
    grads: np.ndarray,
    boxes: np.ndarray,
    batch_index: np.ndarray,
    sampling: Sampling,
    summed: np.ndarray,
) -> None:
    """Do the same for few channels."""
    depth, channels = summed.shape[1], summed.shape[4]
    first, last = block * depth // blocks, (block + 1) * depth // blocks
    ratio = sampling[0]
    samples, scale = grads.shape[1] * ratio, ONE / np.float32(ratio**3)
    for roi in rois:
        image = summed[batch_index[roi]]
        index, share, step = _find_samples(boxes[roi], image.shape, samples)
        for k in range(samples):
            near, far = index[0, k], index[0, k] + step[0]
            for plane, weight in ((near, ONE - share[0, k]), (far, share[0, k])):
                if not first <= plane < last:
                    continue
                for j in range(samples):
                    y0, y1, y = index[1, j], index[1, j] + step[1], share[1, j]
                    low, high = scale * weight * (ONE - y), scale * weight * y
                    for i in range(samples):
                        x0, x1, x = index[2, i], index[2, i] + step[2], share[2, i]
                        for channel in range(channels):
                            grad = grads[roi, k // ratio, j // ratio, i // ratio, channel]
                            image[plane, y0, x0, channel] += low * (ONE - x) * grad
                            image[plane, y0, x1, channel] += low * x * grad
                            image[plane, y1, x0, channel] += high * (ONE - x) * grad
                            image[plane, y1, x1, channel] += high * x * grad


@partial(compile_kernel, inline=True)
def _scatter_plane(
    sampling: Sampling,
    plane: np.ndarray,
    grad: tuple[float, np.ndarray],
    index: np.ndarray,
    share: np.ndarray,
    step: tuple[int, int, int],
    row: np.ndarray,
) -> None:
    """Add the gradient of one layer of samples to a plane of voxels.

    ``grad`` is what it is multiplied by, and the gradient, ``(o, o, channels)``.
    """
    ratio, registers = sampling
    weight, given = grad
    samples = index.shape[1]
    for j in range(samples):
        cleared = -1
        for i in range(samples):
            x0, x1, x = index[2, i], index[2, i] + step[2], share[2, i]
            row[max(x0, cleared + 1) : x1 + 1] = 0
            cleared = x1
            values = given[j // ratio, i // ratio]
            _add(registers, row[x0], weight * (ONE - x), values)
            _add(registers, row[x1], weight * x, values)
        y0, y1, y = index[1, j], index[1, j] + step[1], share[1, j]
        added = -1
        for i in range(samples):
            x0, x1 = index[2, i], index[2, i] + step[2]
            for voxel in range(max(x0, added + 1), x1 + 1):
                _add(registers, plane[y0, voxel], ONE - y, row[voxel])
                _add(registers, plane[y1, voxel], y, row[voxel])
            added = x1


@compile_kernel
def _find_samples(
    box: np.ndarray, shape: tuple[int, ...], samples: int
) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int]]:
    """Return of each sample of each axis the lower voxel and the upper voxel's share of it.

    The third result is the distance from the lower voxel to the upper: 1, or 0 in an axis of
    one voxel.
    """
    index, share = np.empty((3, samples), np.int64), np.empty((3, samples), np.float32)
    for axis in range(3):
        low, length = box[axis], shape[axis]
        for i in range(samples):
            position = low + (box[axis + 3] - low) * np.float32((i + 0.5) / samples) - HALF
            if not position > 0:  # NaN too, which must not become an address
                position = np.float32(0)
            position = min(position, np.float32(length - 1))
            index[axis, i] = min(int(position), max(length - 2, 0))
            share[axis, i] = position - np.float32(index[axis, i])
    return index, share, (min(1, shape[0] - 1), min(1, shape[1] - 1), min(1, shape[2] - 1))


@partial(compile_kernel, inline=True)
def _mix(registers: tuple[int, ...], out: np.ndarray, lines: Lines, shares: Shares) -> None:
    """Interpolate one voxel of a row between its neighbours along z, then along y."""
    p, q, r, s = lines
    a, b, c, d = shares
    near = add(multiply(load(p, 0, registers), a), multiply(load(q, 0, registers), b))
    far = add(multiply(load(r, 0, registers), c), multiply(load(s, 0, registers), d))
    store(out, 0, add(near, far))
    for i in range(len(registers) * WIDTH, len(out)):
        out[i] = (a * p[i] + b * q[i]) + (c * r[i] + d * s[i])


@partial(compile_kernel, inline=True)
def _mix_row(
    row: np.ndarray, numbers: np.ndarray, places: tuple[int, int, int, int], z: float, y: float
) -> None:
    """Interpolate a row from four others, which begin at the places given."""
    p, q, r, s = places
    a, b, c, d = (ONE - z) * (ONE - y), (ONE - z) * y, z * (ONE - y), z * y
    whole = len(row) - len(row) % WIDTH
    for i in range(0, whole, WIDTH):
        near = add(multiply(load(numbers, p + i, LANE), a), multiply(load(numbers, q + i, LANE), b))
        far = add(multiply(load(numbers, r + i, LANE), c), multiply(load(numbers, s + i, LANE), d))
        store(row, i, add(near, far))
    for i in range(whole, len(row)):
        near = a * numbers[p + i] + b * numbers[q + i]
        row[i] = near + (c * numbers[r + i] + d * numbers[s + i])


@partial(compile_kernel, inline=True)
def _add(registers: tuple[int, ...], out: np.ndarray, weight: float, values: np.ndarray) -> None:
    store(out, 0, add(multiply(load(values, 0, registers), weight), load(out, 0, registers)))
    for i in range(len(registers) * WIDTH, len(out)):
        out[i] += weight * values[i]
