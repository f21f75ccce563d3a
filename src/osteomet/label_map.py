"""Instances on a grid, each as a small array where it lies.

A label map of a whole scan takes half the scan's memory, and lesions fill a thousandth of it. So
it is whole only where somebody asks for it; files and pictures are made from windows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Integer
from scipy import ndimage

from osteomet.volume import Affine, ShapeZYX, Volume, Window

LABEL_TYPES = (np.uint8, np.int16, np.uint16, np.int32)
"""What label maps are stored as, narrowest first."""

FIND_OBJECTS_UP_TO = 65535
"""Largest label for which SciPy's list, as long as the largest label, is no waste."""


@dataclass(frozen=True, eq=False)
class InstanceMask:
    """One instance on a grid.

    Attributes:
        label: its value in a label map, at least 1.
        corner: first voxel of ``mask`` in the grid.
        mask: its voxels.
    """

    label: int
    corner: ShapeZYX
    mask: Bool[np.ndarray, "z y x"]

    @property
    def window(self) -> Window:
        """Where ``mask`` lies in the grid."""
        z, y, x = (slice(c, c + n) for c, n in zip(self.corner, self.mask.shape, strict=True))
        return z, y, x


@dataclass(frozen=True, eq=False)
class LabelMap:
    """A label map of a scan; 0 is background.

    Attributes:
        grid: the scan's shape and affine; its values are not used, and may take no memory.
        instances: none of which shares a voxel with another.
    """

    grid: Volume
    instances: tuple[InstanceMask, ...]

    @classmethod
    def of(cls, labels: Volume) -> "LabelMap":
        """Take the instances from a whole label map."""
        instances = tuple(
            InstanceMask(label, _corner(region), labels.voxels[region] == label)
            for label, region in label_regions(labels.voxels)
        )
        return cls(_empty(labels), instances)

    @classmethod
    def on(cls, scan: Volume, instances: tuple[InstanceMask, ...]) -> "LabelMap":
        """Place instances on the grid of a scan, without holding its values."""
        return cls(_empty(scan), instances)

    @property
    def shape(self) -> ShapeZYX:
        """Voxels of the grid."""
        return self.grid.shape

    @property
    def affine(self) -> Affine:
        """Centre index of a voxel to LPS mm."""
        return self.grid.affine

    @cached_property
    def dtype(self) -> np.dtype[np.integer]:
        """The first of ``LABEL_TYPES`` that holds every label."""
        highest = max((one.label for one in self.instances), default=0)
        return np.dtype(next(kind for kind in LABEL_TYPES if highest <= np.iinfo(kind).max))

    def window(self, window: Window) -> Integer[np.ndarray, "z y x"]:
        """Return the labels of the voxels in a window, which lies in the grid."""
        values = np.zeros([part.stop - part.start for part in window], self.dtype)
        for one in self.instances:
            shared = [
                slice(max(a.start, b.start), min(a.stop, b.stop))
                for a, b in zip(window, one.window, strict=True)
            ]
            if all(part.start < part.stop for part in shared):
                seen = one.mask[_within(shared, one.corner)]
                values[_within(shared, _corner(window))][seen] = one.label
        return values

    def whole(self) -> Volume:
        """Return the label map of the whole grid."""
        z, y, x = (slice(0, n) for n in self.shape)
        return self.grid.with_voxels(self.window((z, y, x)))

    def closest_lps(self) -> "LabelMap":
        """Return the same labels on the grid that ``Volume.closest_lps`` gives."""
        turned = self.grid.closest_lps()
        instances = []
        for one in self.instances:
            affine = self.affine.copy()
            affine[:3, 3] = self.grid.index_to_world(np.array([one.corner], np.float64))[0]
            part = Volume(one.mask.view(np.uint8), affine).closest_lps()
            corner = turned.world_to_index(part.affine[None, :3, 3])[0].round().astype(int)
            z, y, x = corner.tolist()
            instances.append(InstanceMask(one.label, (z, y, x), part.voxels.view(bool)))
        return LabelMap(turned, tuple(instances))


def label_regions(labels: Integer[np.ndarray, "z y x"]) -> Iterator[tuple[int, Window]]:
    """Yield each positive label with the smallest window that holds it, by rising label."""
    highest = int(labels.max(initial=0))
    if highest <= 0:
        return
    if highest > FIND_OBJECTS_UP_TO:
        for label in np.unique(labels[labels > 0]).tolist():
            yield label, tight_window(labels == label)
        return
    for index, region in enumerate(ndimage.find_objects(labels)):
        if region is not None:
            z, y, x = region
            yield index + 1, (z, y, x)


def tight_window(mask: Bool[np.ndarray, "z y x"]) -> Window:
    """Return the smallest window that holds every voxel of a mask, which has at least one."""
    z, y, x = ndimage.find_objects(mask.view(np.uint8))[0]
    return z, y, x


def _empty(volume: Volume) -> Volume:
    return volume.with_voxels(np.broadcast_to(np.zeros((), np.uint8), volume.shape))


def _within(part: Sequence[slice], corner: ShapeZYX) -> Window:
    """Return a window of the grid as one of an array whose first voxel is ``corner``."""
    z, y, x = (slice(p.start - c, p.stop - c) for p, c in zip(part, corner, strict=True))
    return z, y, x


def _corner(window: Window) -> ShapeZYX:
    z, y, x = (part.start for part in window)
    return z, y, x
