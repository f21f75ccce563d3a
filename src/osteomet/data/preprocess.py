"""From a scan's voxels to what the network sees, and back.

The model's grid is isotropic, with the scan's own axes permuted and flipped closest to
``(S, P, L)`` and with the same low corner; an oblique scan stays oblique. Scan and model then
differ by a permutation, flips and one factor per axis, so boxes and points go both ways
without loss. Intensities are rounded to whole HU; masks are decided by their share of a voxel.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int16, Num, Shaped

from osteomet.data.resample import resample_linear, resample_occupancy, resample_window
from osteomet.errors import GeometryError
from osteomet.label_map import InstanceMask, label_regions, tight_window
from osteomet.volume import ShapeZYX, Volume, Window

AIR_HU = -1024
"""Value outside the scan."""

Boxes = Float[np.ndarray, "n 6"]
Points = Float[np.ndarray, "n 3"]

SIZE_TOLERANCE_VOX = 1e-3
"""A last voxel of the model's grid that holds less of the scan than this is left out."""


@dataclass(frozen=True, eq=False)
class ModelGrid:
    """Where the model's voxels lie in a scan: the exact map between the two grids.

    Coordinates are voxel edges. "LPS grid" is the scan's own grid with its axes as
    ``Volume.closest_lps`` orders them.

    Attributes:
        native_shape: voxels of the scan as it was read.
        native_affine: its affine.
        spacing_mm: isotropic voxel size of the model's grid.
    """

    native_shape: ShapeZYX
    native_affine: Float[np.ndarray, "4 4"]
    spacing_mm: float

    @classmethod
    def of(cls, volume: Volume, spacing_mm: float) -> "ModelGrid":
        """Return the model's grid over a scan.

        Raises:
            GeometryError: the scan has no voxels.
        """
        if 0 in volume.shape:
            raise GeometryError(f"the scan has shape {volume.shape}; expected voxels on each axis")
        return cls(volume.shape, volume.affine, spacing_mm)

    @cached_property
    def _lps(self) -> Volume:
        # A view of one value, so that the grid's geometry costs no memory.
        return Volume(
            np.broadcast_to(np.zeros((), np.int8), self.native_shape), self.native_affine
        ).closest_lps()

    @cached_property
    def _directions(self) -> Float[np.ndarray, "3 3"]:
        """Cosine of each scan axis (rows) with each axis of the LPS grid: 0 or about +-1."""
        native, lps = self.native_affine[:3, :3], self._lps.affine[:3, :3]
        native, lps = (axes / np.linalg.norm(axes, axis=0) for axes in (native, lps))
        return np.asarray(native.T @ lps)

    @property
    def order(self) -> tuple[int, int, int]:
        """Axis of the scan that runs along S, P and L."""
        z, y, x = np.abs(self._directions).argmax(axis=0).tolist()
        return z, y, x

    @property
    def flipped(self) -> tuple[bool, bool, bool]:
        """Whether the scan's axis along S, P and L runs the other way."""
        z, y, x = (self._directions.sum(axis=0) < 0).tolist()
        return z, y, x

    @property
    def lps_shape(self) -> ShapeZYX:
        """Voxels of the scan along S, P and L."""
        return self._lps.shape

    @property
    def step(self) -> tuple[float, float, float]:
        """Scan voxels per model voxel along S, P and L."""
        z, y, x = (self.spacing_mm / spacing for spacing in self._lps.spacing_zyx_mm)
        return z, y, x

    @property
    def shape(self) -> ShapeZYX:
        """Voxels of the model's grid; the last of an axis may reach beyond the scan."""
        z, y, x = (
            max(1, math.ceil(n / step - SIZE_TOLERANCE_VOX))
            for n, step in zip(self.lps_shape, self.step, strict=True)
        )
        return z, y, x

    @cached_property
    def affine(self) -> Float[np.ndarray, "4 4"]:
        """Centre index of a model voxel to LPS mm."""
        lps = self._lps
        affine = lps.affine.copy()
        affine[:3, :3] *= self.step
        affine[:3, 3] = lps.edge_to_world(np.array([self.step]) / 2)[0]
        return affine

    def volume(self, voxels: Shaped[np.ndarray, "z y x"]) -> Volume:
        """Place values on the model's grid."""
        if voxels.shape != self.shape:
            raise ValueError(f"values of shape {voxels.shape} on a model grid of {self.shape}")
        return Volume(voxels, self.affine)

    def points_to_native(self, edges_zyx: Points) -> Points:
        """Map model edges to edges of the scan as it was read."""
        lps = edges_zyx * np.array(self.step)
        lps = np.where(self.flipped, np.array(self.lps_shape) - lps, lps)
        return np.asarray(lps[:, np.argsort(self.order)])

    def points_from_native(self, edges_zyx: Points) -> Points:
        """Map edges of the scan as it was read to model edges."""
        lps = edges_zyx[:, list(self.order)]
        lps = np.where(self.flipped, np.array(self.lps_shape) - lps, lps)
        return np.asarray(lps / np.array(self.step))

    def boxes_to_native(self, boxes: Boxes) -> Boxes:
        """Map model boxes to boxes on the scan's grid as it was read; nothing is clipped."""
        return _corners(self.points_to_native(boxes[:, :3]), self.points_to_native(boxes[:, 3:]))

    def boxes_from_native(self, boxes: Boxes) -> Boxes:
        """Map boxes on the scan's grid as it was read to model boxes."""
        return _corners(
            self.points_from_native(boxes[:, :3]), self.points_from_native(boxes[:, 3:])
        )

    def lps_centers(
        self,
    ) -> tuple[Float[np.ndarray, " Z"], Float[np.ndarray, " Y"], Float[np.ndarray, " X"]]:
        """Return where the centres of the scan's voxels lie along S, P and L, in model edges.

        A mask sampled at these points lies on the LPS grid; ``to_native_axes`` turns it.
        """
        z, y, x = (
            (np.arange(n) + 0.5) / step for n, step in zip(self.lps_shape, self.step, strict=True)
        )
        return z, y, x

    def lps_window(self, box: Float[np.ndarray, " 6"]) -> tuple[slice, slice, slice]:
        """Return the voxels of the LPS grid whose centre lies in a model box."""
        step, shape = np.array(self.step), np.array(self.lps_shape)
        low = np.ceil(box[:3] * step - 0.5).astype(int).clip(0, shape).tolist()
        high = np.ceil(box[3:] * step - 0.5).astype(int).clip(low, shape).tolist()
        z, y, x = (slice(a, b) for a, b in zip(low, high, strict=True))
        return z, y, x

    def to_native_axes(self, values: Shaped[np.ndarray, "z y x"]) -> Shaped[np.ndarray, "i j k"]:
        """Return a view of values on (a window of) the LPS grid in the scan's own axes."""
        flips = tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)
        return values[flips].transpose(np.argsort(self.order))

    def native_window(self, window: tuple[slice, slice, slice]) -> tuple[slice, slice, slice]:
        """Return where a window of the LPS grid lies in the scan as it was read."""
        native = [slice(0)] * 3
        for axis, (part, n, flip) in enumerate(
            zip(window, self.lps_shape, self.flipped, strict=True)
        ):
            turned = slice(n - part.stop, n - part.start) if flip else part
            native[self.order[axis]] = turned
        return native[0], native[1], native[2]


@dataclass(frozen=True, eq=False)
class ModelView:
    """A scan as it looks on the model's grid, of which windows are made when they are asked for.

    The whole resampled scan would take more memory than the scan itself.

    Attributes:
        grid: the model's grid over the scan.
        upright: the scan's own voxels, with their axes along S, P and L.
    """

    grid: ModelGrid
    upright: Num[np.ndarray, "z y x"]

    @classmethod
    def of(cls, volume: Volume, spacing_mm: float) -> "ModelView":
        """Return the view of a scan.

        Raises:
            GeometryError: the scan has no voxels.
        """
        return cls(ModelGrid.of(volume, spacing_mm), volume.closest_lps().voxels)

    @property
    def shape(self) -> ShapeZYX:
        """Voxels of the model's grid."""
        return self.grid.shape

    @property
    def spacing_mm(self) -> float:
        """Their size."""
        return self.grid.spacing_mm

    def window(self, window: Window) -> Int16[np.ndarray, "z y x"]:
        """Return the HU of a window; the same as those of ``to_model_grid`` there."""
        return resample_window(self.upright, self.grid.step, window)


def to_model_grid(volume: Volume, spacing_mm: float) -> Volume:
    """Resample a scan to the model's grid in slabs; HU are rounded to int16."""
    grid = ModelGrid.of(volume, spacing_mm)
    upright = volume.closest_lps().voxels
    return grid.volume(resample_linear(upright, grid.step, grid.shape))


def labels_to_model_grid(labels: Volume, spacing_mm: float) -> Volume:
    """Move an instance map to the model's grid; see ``instance_masks``."""
    grid = ModelGrid.of(labels, spacing_mm)
    voxels = np.zeros(grid.shape, dtype=np.int32)
    for one in instance_masks(labels, spacing_mm):
        z, y, x = (slice(c, c + n) for c, n in zip(one.corner, one.mask.shape, strict=True))
        voxels[z, y, x][one.mask] = one.label
    return grid.volume(voxels)


def instance_masks(labels: Volume, spacing_mm: float) -> Iterator[InstanceMask]:
    """Yield each positive label of a map as a mask on the model's grid, by rising label.

    A model voxel belongs to the instance that fills more than half of it, by the same linear
    resampling as the image. An instance too small for that keeps its fullest voxel, so that
    none is lost.
    """
    grid = ModelGrid.of(labels, spacing_mm)
    voxels = labels.closest_lps().voxels
    for label, region in label_regions(voxels):
        yield _to_model_mask(voxels[region] == label, label, region, grid)


def _corners(a: Points, b: Points) -> Boxes:
    return np.concatenate([np.minimum(a, b), np.maximum(a, b)], axis=1)


def _to_model_mask(
    mask: Bool[np.ndarray, "z y x"],
    label: int,
    region: tuple[slice, slice, slice],
    grid: ModelGrid,
) -> InstanceMask:
    target = []
    for part, n, step in zip(region, grid.shape, grid.step, strict=True):
        reach = max(1.0, step)
        first = min(max(0, math.floor((part.start - reach) / step)), n - 1)
        target.append(slice(first, min(n, math.ceil((part.stop + reach) / step))))
    place = (target[0], target[1], target[2])
    filled = resample_occupancy(mask, region, grid.lps_shape, grid.step, place)
    inside = filled > 0.5
    if not inside.any():
        inside.flat[filled.argmax()] = True
    tight = tight_window(inside)
    z, y, x = (t.start + s.start for t, s in zip(place, tight, strict=True))
    return InstanceMask(label, (z, y, x), np.ascontiguousarray(inside[tight]))
