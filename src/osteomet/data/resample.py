"""Linear resampling along the axes of a voxel grid, in slabs, so that memory stays constant.

Both grids share their low corner: edge ``e`` of the result is edge ``e * step`` of the source,
with ``step`` the source voxels per voxel of the result. Beyond the last source voxel the
border value repeats. An axis that shrinks by more than ``ANTIALIAS_FROM`` is averaged under a
triangle as wide as the step, so that thin slices are not skipped.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int16, Num
from torch import Tensor

ANTIALIAS_FROM = 1.5
"""Source voxels per voxel of the result above which neighbours are averaged."""

SLAB_VOXELS = 8_000_000
"""Source voxels that are float at once: 32 MB."""

ShapeZYX = tuple[int, int, int]


Window = tuple[slice, slice, slice]


def resample_linear(
    voxels: Num[np.ndarray, "z y x"], step: tuple[float, float, float], shape: ShapeZYX
) -> Int16[np.ndarray, "Z Y X"]:
    """Return HU on another grid with the same low corner, rounded to int16.

    Args:
        voxels: source values of any strides; none of its sides is 0.
        step: source voxels per voxel of the result along z, y and x.
        shape: voxels of the result.
    """
    result = np.empty(shape, dtype=np.int16)
    start = 0
    whole = (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
    for slab in resample_slabs(voxels, step, whole):
        result[start : start + len(slab)] = slab
        start += len(slab)
    return result


def resample_slabs(
    voxels: Num[np.ndarray, "z y x"],
    step: tuple[float, float, float],
    window: Window,
    multiple: int = 1,
) -> Iterator[Int16[np.ndarray, "planes Y X"]]:
    """Yield a window of the other grid from below, some planes at a time; see ``resample_linear``.

    Args:
        voxels: source values of any strides; none of its sides is 0.
        step: source voxels per voxel of the result along z, y and x.
        window: voxels of the result.
        multiple: every slab but the last has a multiple of so many planes.
    """
    z, y, x = window
    per_plane = max(
        (x.stop - x.start) * (y.stop - y.start), voxels.shape[1] * voxels.shape[2] * step[0]
    )
    planes = multiple * max(1, round(SLAB_VOXELS / per_plane / multiple))
    for start in range(z.start, z.stop, planes):
        yield _resample_slab(voxels, step, (slice(start, min(start + planes, z.stop)), y, x))


def _resample_slab(
    voxels: Num[np.ndarray, "z y x"], step: tuple[float, float, float], window: Window
) -> Int16[np.ndarray, "planes Y X"]:
    z, y, x = window
    low, weights = axis_weights(voxels.shape[0], z.start, z.stop, step[0])
    rows, columns = (
        _needed(n, part.stop, s)
        for n, part, s in zip(voxels.shape[1:], (y, x), step[1:], strict=True)
    )
    source = voxels[low : low + weights.shape[1], :rows, :columns]
    slab = torch.from_numpy(source.astype(np.float32, order="C"))
    # Both grids share their low corner, so what lies below the window is made and dropped.
    planes = _resample_planes(slab, step[1:], (y.stop, x.stop))[:, y.start :, x.start :]
    result = np.empty((len(weights), *planes.shape[1:]), dtype=np.int16)
    mixed = torch.empty(planes.shape[1:])
    for plane, row in zip(result, weights, strict=True):
        # Few taps of a row are not 0: adding those takes a tenth of a product of matrices.
        taps = row.nonzero()[:, 0].tolist()
        torch.mul(planes[taps[0]], row[taps[0]], out=mixed)
        for tap in taps[1:]:
            mixed.add_(planes[tap], alpha=float(row[tap]))
        plane[...] = mixed.round_().clamp_(-32768, 32767).numpy()
    return result


def _needed(length: int, stop: int, step: float) -> int:
    """Return how many source voxels of an axis make the voxels of the result up to ``stop``."""
    return min(length, math.ceil((stop + 0.5) * step + max(step, 1.0)) + 1)


def resample_occupancy(
    mask: Bool[np.ndarray, "z y x"],
    region: tuple[slice, slice, slice],
    source_shape: ShapeZYX,
    step: tuple[float, float, float],
    target: tuple[slice, slice, slice],
) -> Float[Tensor, "Z Y X"]:
    """Return how much of each voxel of the result a mask fills, from 0 to 1.

    Args:
        mask: values of the source in ``region``; everything else is 0.
        region: where ``mask`` lies in the source.
        source_shape: voxels of the whole source.
        step: source voxels per voxel of the result.
        target: voxels of the result to compute.
    """
    filled = torch.from_numpy(mask.astype(np.float32, order="C"))
    for axis, (part, out) in enumerate(zip(region, target, strict=True)):
        low, weights = axis_weights(source_shape[axis], out.start, out.stop, step[axis])
        first, last = max(low, part.start), min(low + weights.shape[1], part.stop)
        if first >= last:
            return torch.zeros([t.stop - t.start for t in target])
        used = filled.narrow(axis, first - part.start, last - first)
        weights = weights[:, first - low : last - low]
        filled = torch.tensordot(used, weights, dims=([axis], [1])).movedim(-1, axis)
    return filled


def axis_weights(
    length: int, start: int, stop: int, step: float
) -> tuple[int, Float[Tensor, "stop_start taps"]]:
    """Return which source voxels make voxels ``start`` to ``stop`` of one axis, and how much.

    Args:
        length: source voxels along the axis.
        start: first voxel of the result.
        stop: voxel after the last.
        step: source voxels per voxel of the result.

    Returns:
        The first source voxel used, and a matrix whose rows sum to 1.
    """
    reach = step if step > ANTIALIAS_FROM else 1.0
    centers = (np.arange(start, stop) + 0.5) * step - 0.5
    # Clamping the centre too keeps a voxel beyond the border from reaching nothing.
    centers = centers.clip(0, length - 1)
    low = max(0, math.floor(centers[0] - reach))
    high = min(length - 1, math.ceil(centers[-1] + reach))
    taps = np.arange(low, high + 1)
    weights = (1 - np.abs(taps[None] - centers[:, None]) / reach).clip(0)
    weights /= weights.sum(axis=1, keepdims=True)
    return low, torch.from_numpy(weights.astype(np.float32))


def _resample_planes(
    planes: Float[Tensor, "z y x"], step: tuple[float, float], shape: tuple[int, int]
) -> Float[Tensor, "z Y X"]:
    if step == (1.0, 1.0) and planes.shape[1:] == shape:
        return planes
    # torch rounds the result's size down, so repeat the border until it is large enough. Given
    # the factor and not the size, it keeps to the exact step.
    scale = (1 / step[0], 1 / step[1])
    short = [math.ceil((n + 0.5) * s) for n, s in zip(shape, step, strict=True)]
    pad = [max(0, s - n) for s, n in zip(short, planes.shape[1:], strict=True)]
    if any(pad):
        planes = F.pad(planes[None], (0, pad[1], 0, pad[0]), mode="replicate")[0]
    result = F.interpolate(
        planes[:, None],
        scale_factor=scale,
        mode="bilinear",
        align_corners=False,
        recompute_scale_factor=False,
        antialias=max(step) > ANTIALIAS_FROM,
    )
    return result[:, 0, : shape[0], : shape[1]]
