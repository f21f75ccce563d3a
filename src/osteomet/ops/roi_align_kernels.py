"""The loops of RoIAlign on a CPU, over arrays that hold the channels of a voxel side by side.

Trilinear sampling of a grid is separable: the four rows of voxels around a line of samples
are mixed into one row, from which each sample takes two voxels. The gradient walks the same
way back.
"""

from functools import partial

import numpy as np

from osteomet.ops.acceleration import compile_kernel

ONE, HALF = np.float32(1), np.float32(0.5)
"""In float32, or numba would compute in float64."""
PAIR = 2
"""Channels of the crops that the heads read: image and dense segmentation."""


@compile_kernel
def gather(
    block: int,
    rois: np.ndarray,
    features: np.ndarray,
    boxes: np.ndarray,
    batch_index: np.ndarray,
    ratio: int,
    pooled: np.ndarray,
) -> None:
    """Pool one box: ``pooled[roi]``, ``(o, o, o, channels)``, from ``features[image]``."""
    roi = rois[block]
    image, out = features[batch_index[roi]], pooled[roi]
    samples = len(out) * ratio
    index, share, step = _find_samples(boxes[roi], image.shape, samples)
    row = np.empty(image.shape[2:], np.float32)
    out[:] = 0
    for k in range(samples):
        near, far, z = image[index[0, k]], image[index[0, k] + step[0]], share[0, k]
        for j in range(samples):
            y0, y1, y = index[1, j], index[1, j] + step[1], share[1, j]
            mixed = -1  # the last voxel of the row that is ready
            for i in range(samples):
                x0, x1, x = index[2, i], index[2, i] + step[2], share[2, i]
                for voxel in range(max(x0, mixed + 1), x1 + 1):
                    _mix(
                        row[voxel],
                        near[y0, voxel],
                        near[y1, voxel],
                        far[y0, voxel],
                        far[y1, voxel],
                        z,
                        y,
                    )
                mixed = x1
                cell = out[k // ratio, j // ratio, i // ratio]
                _add(cell, ONE - x, row[x0])
                _add(cell, x, row[x1])
    if ratio > 1:
        out /= np.float32(ratio**3)


@compile_kernel
def gather_few(
    block: int,
    rois: np.ndarray,
    features: np.ndarray,
    boxes: np.ndarray,
    batch_index: np.ndarray,
    ratio: int,
    pooled: np.ndarray,
) -> None:
    """Do the same for few channels, where a row of each would cost more than its numbers."""
    roi = rois[block]
    image, out = features[batch_index[roi]], pooled[roi]
    channels = out.shape[3]
    samples = len(out) * ratio
    index, share, step = _find_samples(boxes[roi], image.shape, samples)
    out[:] = 0
    for k in range(samples):
        near, far, z = image[index[0, k]], image[index[0, k] + step[0]], share[0, k]
        for j in range(samples):
            y0, y1, y = index[1, j], index[1, j] + step[1], share[1, j]
            lines = near[y0], near[y1], far[y0], far[y1]
            shares = (ONE - z) * (ONE - y), (ONE - z) * y, z * (ONE - y), z * y
            row = out[k // ratio, j // ratio]
            for i in range(samples):
                x0, x1, x = index[2, i], index[2, i] + step[2], share[2, i]
                if channels == PAIR:  # a count known when compiling needs no loop
                    _sample(row[i // ratio], lines, shares, x0, x1, x, PAIR)
                else:
                    _sample(row[i // ratio], lines, shares, x0, x1, x, channels)
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
    ratio: int,
    summed: np.ndarray,
) -> None:
    """Add the gradient of all boxes to one slab of ``summed``, ``(batch, z, y, x, channels)``.

    A voxel belongs to one slab, and boxes come in their order, so its sum is always the same.
    """
    depth, _, width, channels = summed.shape[1:]
    first, last = block * depth // blocks, (block + 1) * depth // blocks
    samples = grads.shape[1] * ratio
    row = np.empty((width, channels), np.float32)
    for roi in rois:
        image = summed[batch_index[roi]]
        index, share, step = _find_samples(boxes[roi], image.shape, samples)
        for k in range(samples):
            near, far = index[0, k], index[0, k] + step[0]
            for plane, weight in ((near, ONE - share[0, k]), (far, share[0, k])):
                if first <= plane < last:
                    _scatter_plane(
                        image[plane], weight, grads[roi, k // ratio], index, share, step, ratio, row
                    )


@compile_kernel
def scatter_few(
    block: int,
    blocks: int,
    rois: np.ndarray,
    grads: np.ndarray,
    boxes: np.ndarray,
    batch_index: np.ndarray,
    ratio: int,
    summed: np.ndarray,
) -> None:
    """Do the same for few channels."""
    depth, channels = summed.shape[1], summed.shape[4]
    first, last = block * depth // blocks, (block + 1) * depth // blocks
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


@compile_kernel
def _scatter_plane(
    plane: np.ndarray,
    weight: float,
    grad: np.ndarray,
    index: np.ndarray,
    share: np.ndarray,
    step: tuple[int, int, int],
    ratio: int,
    row: np.ndarray,
) -> None:
    """Add the gradient of one layer of samples, ``(o, o, channels)``, to a plane of voxels."""
    samples, scale = index.shape[1], weight / np.float32(ratio**3)
    for j in range(samples):
        cleared = -1
        for i in range(samples):
            x0, x1, x = index[2, i], index[2, i] + step[2], share[2, i]
            row[max(x0, cleared + 1) : x1 + 1] = 0
            cleared = x1
            _add(row[x0], scale * (ONE - x), grad[j // ratio, i // ratio])
            _add(row[x1], scale * x, grad[j // ratio, i // ratio])
        y0, y1, y = index[1, j], index[1, j] + step[1], share[1, j]
        added = -1
        for i in range(samples):
            x0, x1 = index[2, i], index[2, i] + step[2]
            for voxel in range(max(x0, added + 1), x1 + 1):
                _add(plane[y0, voxel], ONE - y, row[voxel])
                _add(plane[y1, voxel], y, row[voxel])
            added = x1


@compile_kernel
def _find_samples(
    box: np.ndarray, shape: tuple[int, int, int, int], samples: int
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


@compile_kernel
def _mix(
    out: np.ndarray,
    near_near: np.ndarray,
    near_far: np.ndarray,
    far_near: np.ndarray,
    far_far: np.ndarray,
    z: float,
    y: float,
) -> None:
    """Interpolate one voxel of a row between its neighbours along z, then along y."""
    a, b, c, d = (ONE - z) * (ONE - y), (ONE - z) * y, z * (ONE - y), z * y
    for i in range(len(out)):
        out[i] = (a * near_near[i] + b * near_far[i]) + (c * far_near[i] + d * far_far[i])


@compile_kernel
def _add(out: np.ndarray, weight: float, values: np.ndarray) -> None:
    for i in range(len(out)):
        out[i] += weight * values[i]


@partial(compile_kernel, inline=True)
def _sample(
    cell: np.ndarray,
    lines: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    shares: tuple[float, float, float, float],
    x0: int,
    x1: int,
    x: float,
    channels: int,
) -> None:
    """Add the mixture of 8 voxels to a cell: of 4 lines at two places."""
    a, b, c, d = shares
    p, q, r, s = lines
    for i in range(channels):
        low = (a * p[x0, i] + b * q[x0, i]) + (c * r[x0, i] + d * s[x0, i])
        high = (a * p[x1, i] + b * q[x1, i]) + (c * r[x1, i] + d * s[x1, i])
        cell[i] += low + x * (high - low)
