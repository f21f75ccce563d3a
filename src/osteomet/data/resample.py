"""Linear resampling along the axes of a voxel grid, in slabs, so that memory stays constant.

Both grids share their low corner: edge ``e`` of the result is edge ``e * step`` of the source,
with ``step`` the source voxels per voxel of the result. Beyond the last source voxel the
border value repeats. An axis that shrinks by more than ``ANTIALIAS_FROM`` is averaged under a
triangle as wide as the step, so that thin slices are not skipped.

One axis after the other, a plane at a time: a plane stays in the cache, and NumPy lets go of
Python's lock, so that threads can make windows side by side. Nothing here needs torch, whose import
takes more memory than a scan.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int, Int16, Num

from osteomet.volume import ShapeZYX, Window

ANTIALIAS_FROM = 1.5
"""Source voxels per voxel of the result above which neighbours are averaged."""

SLAB_VOXELS = 8_000_000
"""Voxels, of source planes on the result's rows and columns, that are float at once: 32 MB."""


@dataclass(frozen=True, eq=False)
class AxisTaps:
    """Which source voxels make voxels of the result along one axis, and how much each counts.

    Attributes:
        index: source voxels, one row a tap.
        weight: theirs; each column sums to 1.
    """

    index: Int[np.ndarray, "taps n"]
    weight: Float32[np.ndarray, "taps n"]

    @classmethod
    def of(cls, length: int, start: int, stop: int, step: float) -> "AxisTaps":
        """Return the taps of voxels ``start`` to ``stop`` (excluded) of the result.

        Args:
            length: source voxels along the axis.
            start: first voxel of the result.
            stop: voxel after the last.
            step: source voxels per voxel of the result.
        """
        reach = step if step > ANTIALIAS_FROM else 1.0
        # Clamping the centre too keeps a voxel beyond the border from reaching nothing.
        centers = ((np.arange(start, stop) + 0.5) * step - 0.5).clip(0, length - 1)
        first = np.floor(centers - reach).astype(np.int64) + 1
        index = first + np.arange(math.ceil(2 * reach))[:, None]
        weight = (1 - np.abs(index - centers) / reach).clip(0)
        weight[(index < 0) | (index >= length)] = 0
        weight /= weight.sum(axis=0)
        used = weight.any(axis=1)
        return cls(index[used].clip(0, length - 1), weight[used].astype(np.float32))

    @property
    def source(self) -> slice:
        """The source voxels that any voxel of the result takes from."""
        return slice(int(self.index.min()), int(self.index.max()) + 1)

    def within(self, part: slice) -> "AxisTaps":
        """Return the taps for a source of which only ``part`` is given and the rest is 0."""
        outside = (self.index < part.start) | (self.index >= part.stop)
        index = (self.index - part.start).clip(0, part.stop - part.start - 1)
        return AxisTaps(index, np.where(outside, np.float32(0), self.weight))

    @property
    def copies(self) -> bool:
        """Whether each voxel of the result is a source voxel."""
        return len(self.index) == 1 and bool((self.weight == 1).all())

    def apply(
        self, values: Float32[np.ndarray, "*source"], axis: int
    ) -> Float32[np.ndarray, "*result"]:
        """Return the weighted sums along an axis."""
        along = [1] * values.ndim
        along[axis] = -1
        total: Float32[np.ndarray, "*result"] = values.take(self.index[0], axis)
        if self.copies:
            return total
        total *= self.weight[0].reshape(along)
        for index, weight in zip(self.index[1:], self.weight[1:], strict=True):
            tap: Float32[np.ndarray, "*result"] = values.take(index, axis)
            tap *= weight.reshape(along)
            total += tap
        return total


def resample_linear(
    voxels: Num[np.ndarray, "z y x"],
    step: tuple[float, float, float],
    shape: ShapeZYX,
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
        step: source voxels per voxel of the result.
        window: voxels of the result.
        multiple: every slab but the last has a multiple of so many planes.
    """
    z, y, x = window
    per_plane = (x.stop - x.start) * (y.stop - y.start) * max(1.0, step[0])
    planes = multiple * max(1, round(SLAB_VOXELS / per_plane / multiple))
    for start in range(z.start, z.stop, planes):
        stop = min(start + planes, z.stop)
        yield resample_window(voxels, step, (slice(start, stop), y, x))


def resample_window(
    voxels: Num[np.ndarray, "z y x"],
    step: tuple[float, float, float],
    window: Window,
) -> Int16[np.ndarray, "Z Y X"]:
    """Return a window of what ``resample_linear`` gives, from the source voxels that it needs.

    Args:
        voxels: source values of any strides; none of its sides is 0.
        step: source voxels per voxel of the result.
        window: voxels of the result, at least one along each axis.
    """
    taps = [
        AxisTaps.of(n, part.start, part.stop, s)
        for n, part, s in zip(voxels.shape, window, step, strict=True)
    ]
    needed = voxels[taps[0].source, taps[1].source, taps[2].source]
    along, rows, columns = (one.within(one.source) for one in taps)
    planes = np.empty((len(needed), *(part.stop - part.start for part in window[1:])), np.float32)
    result = np.empty([part.stop - part.start for part in window], dtype=np.int16)
    for source, plane in zip(needed, planes, strict=True):
        plane[:] = columns.apply(rows.apply(source.astype(np.float32, order="C"), 0), 1)
    for place, out in enumerate(result):
        (first, *others), (share, *shares) = along.index[:, place], along.weight[:, place]
        mixed = planes[first] * share
        for tap, weight in zip(others, shares, strict=True):
            if weight:
                mixed += planes[tap] * weight
        out[:] = np.rint(mixed, out=mixed).clip(-32768, 32767, out=mixed)
    return result


def resample_occupancy(
    mask: Bool[np.ndarray, "z y x"],
    region: Window,
    source_shape: ShapeZYX,
    step: tuple[float, float, float],
    target: Window,
) -> Float32[np.ndarray, "Z Y X"]:
    """Return how much of each voxel of the result a mask fills, from 0 to 1.

    Args:
        mask: values of the source in ``region``; everything else is 0.
        region: where ``mask`` lies in the source.
        source_shape: voxels of the whole source.
        step: source voxels per voxel of the result.
        target: voxels of the result to compute.
    """
    filled = mask.astype(np.float32, order="C")
    for axis, (part, out) in enumerate(zip(region, target, strict=True)):
        taps = AxisTaps.of(source_shape[axis], out.start, out.stop, step[axis])
        filled = taps.within(part).apply(filled, axis)
    return filled
