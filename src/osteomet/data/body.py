"""Where body, lungs and bone are, as far as HU and shape tell.

All of it is decided on cells of about 3 mm, means of whole voxels: a thousandth of a scan's
memory, and noise hardly matters. The answers are good enough to say that a mask lies in the
air or far from any bone, and to group scans by what they show; they are no segmentation.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Integer
from scipy import ndimage

from osteomet.checkup import BodyMeasures
from osteomet.volume import ShapeZYX, Volume

CELL_MM = 3.0
BODY_HU = -300.0
"""Between fat and lung, the padding of a table, or air."""

LUNG_HU = (-950.0, -600.0)
AIR_HU = -950.0
BONE_HU = 180.0
SMALLEST_BONE_ML = 0.25
SMALLEST_BODY_SHARE = 0.1
"""Parts of the body, the second leg say, hold at least this share of the largest part."""

BONE_GAP_MM = 6.0
"""Gaps in bone that are closed: marrow between thin plates, and the breach of a lytic lesion."""

LARGEST_MARROW_CM2 = 25.0
"""Soft tissue that bone encloses in a plane counts as its marrow up to the size of a femoral
head; the ring of the pelvis is larger."""

NEAR_BONE_MM = 5.0
"""Lesions grow out of bone: voxels this near to it are no cause for doubt."""

LUNG_ML, LUNG_SHARE = 150.0, 0.05
TRUNK_MM = 600.0
HEAD_WIDTH_MM, HEAD_BONE_SHARE = 260.0, 0.12
TWO_LEGS_SHARE = 0.4
CUT_OUT_AIR, ROOM_AIR = 0.8, 0.1
"""Share of air at a scan's sides below which it is a part cut out of the patient, and below which
nothing of the room is in view."""

LEAST_BODY_ML = 20.0

LEAST_PART_ML = 5.0
"""Less tissue than the end of a finger is noise, or dust on the table."""

BODY_MARGIN_MM = 20.0
"""Kept around the body: skin that cells have rounded off, and what lies against it."""

Cells = Bool[np.ndarray, "z y x"]


@dataclass(frozen=True, eq=False)
class Body:
    """Body and bone of an upright scan, on cells.

    Attributes:
        inside: inside the skin, lungs included.
        bone: in bone with its marrow, or within ``NEAR_BONE_MM`` of it.
        factors: voxels along each side of a cell; the last cell of an axis may be cut.
        measures: what they amount to.
    """

    inside: Cells
    bone: Cells
    factors: tuple[int, int, int]
    measures: BodyMeasures

    def shares(self, voxels_zyx: Integer[np.ndarray, "n 3"]) -> tuple[float, float]:
        """Return which share of some voxels lies inside the body, and in or beside bone."""
        place = tuple((voxels_zyx // self.factors).T)
        return float(self.inside[place].mean()), float(self.bone[place].mean())


def find_body(upright: Volume) -> Body:
    """Find body and bone in a scan whose axes are closest to S, P and L."""
    z, y, x = (max(1, round(CELL_MM / spacing)) for spacing in upright.spacing_zyx_mm)
    factors = (z, y, x)
    hu = cell_means(upright.voxels, factors)
    sizes_mm = np.array(upright.spacing_zyx_mm) * factors
    cell_ml = float(sizes_mm.prod()) / 1000
    inside, parts = _inside(hu)
    dense = _without_islands(hu >= BONE_HU, SMALLEST_BONE_ML / cell_ml) & inside
    faces = np.concatenate([inside[:, [0, -1]].ravel(), inside[:, :, [0, -1]].ravel()])
    air_at_sides = float(1 - faces.mean())
    lungs = _lungs(hu, inside)
    body_ml = float(inside.sum()) * cell_ml
    region = _region(
        body_ml=body_ml,
        lung_ml=float(lungs.sum()) * cell_ml,
        bone_share=float(dense.sum() / max(inside.sum(), 1)),
        width_mm=_extent(inside, 2) * sizes_mm[2],
        length_mm=hu.shape[0] * sizes_mm[0],
        second_part=parts[1] / parts[0] if len(parts) > 1 else 0.0,
        air_at_sides=air_at_sides,
    )
    measures = BodyMeasures(
        region=region,
        body_ml=body_ml,
        lung_share=float(lungs.sum() / max(inside.sum(), 1)),
        bone_ml=float(dense.sum()) * cell_ml,
        air_at_sides=air_at_sides,
    )
    return Body(inside, _with_marrow(dense, sizes_mm), factors, measures)


def body_window(upright: Volume) -> tuple[slice, slice, slice]:
    """Return the voxels that hold all of the patient, with a margin of ``BODY_MARGIN_MM``.

    Unlike ``find_body`` it gives the benefit of the doubt: every part of more than
    ``LEAST_PART_ML`` counts, an arm beside the trunk and a thick table too, and so does bone of
    any thickness. The whole scan where nothing is found.

    Args:
        upright: a scan whose axes are closest to S, P and L.
    """
    z, y, x = (max(1, round(CELL_MM / spacing)) for spacing in upright.spacing_zyx_mm)
    hu = cell_means(upright.voxels, (z, y, x))
    sizes_mm = np.array(upright.spacing_zyx_mm) * (z, y, x)
    cell_ml = float(sizes_mm.prod()) / 1000
    tissue = hu > BODY_HU
    opened = _opened(tissue) if min(hu.shape) > 4 else tissue
    parts = _without_islands(opened, LEAST_PART_ML / cell_ml)
    parts |= _without_islands(hu >= BONE_HU, SMALLEST_BONE_ML / cell_ml)
    if not parts.any():
        a, b, c = (slice(0, n) for n in upright.shape)
        return a, b, c
    window = []
    for axis, (factor, spacing) in enumerate(zip((z, y, x), upright.spacing_zyx_mm, strict=True)):
        others = tuple(a for a in range(3) if a != axis)
        there = np.flatnonzero(parts.any(axis=others))
        margin = math.ceil(BODY_MARGIN_MM / spacing)
        first, last = int(there[0]) * factor, (int(there[-1]) + 1) * factor
        window.append(slice(max(0, first - margin), min(upright.shape[axis], last + margin)))
    return window[0], window[1], window[2]


def cell_means(
    voxels: Integer[np.ndarray, "Z Y X"] | Float32[np.ndarray, "Z Y X"], factors: ShapeZYX
) -> Float32[np.ndarray, "z y x"]:
    """Return the mean of each cell, reading a slab of voxels at a time."""
    _, rows, columns = (np.arange(0, n, f) for n, f in zip(voxels.shape, factors, strict=True))
    counts = np.outer(
        np.diff(np.append(rows, voxels.shape[1])), np.diff(np.append(columns, voxels.shape[2]))
    )
    slabs = []
    for first in range(0, voxels.shape[0], factors[0]):
        plane = voxels[first : first + factors[0]].mean(axis=0, dtype=np.float32)
        sums = np.add.reduceat(np.add.reduceat(plane, rows, axis=0), columns, axis=1)
        slabs.append(sums / counts)
    return np.stack(slabs).astype(np.float32)


def _inside(hu: Float32[np.ndarray, "z y x"]) -> tuple[Cells, list[int]]:
    """Return the body with its hollows, and the cells of each part of it, largest first."""
    tissue = hu > BODY_HU
    # Opening cuts the body off the table it lies on; on thin scans it would take everything.
    opened = _opened(tissue) if min(hu.shape) > 4 else tissue
    labels, count = ndimage.label(opened)
    if count == 0:
        return np.zeros(hu.shape, dtype=bool), []
    sizes = np.bincount(labels.ravel())[1:]
    kept = np.flatnonzero(sizes >= SMALLEST_BODY_SHARE * sizes.max()) + 1
    body = np.isin(labels, kept)
    # Back to the skin that opening has rounded off, but not onto the table.
    body = ndimage.binary_dilation(body) & tissue
    if _air_share_at_sides(hu) < ROOM_AIR:
        # Nothing but the patient is in view: air at its border is lung, not the room.
        body |= hu < BODY_HU
    return body | _holes(body, 0), sorted(sizes[kept - 1].tolist(), reverse=True)


def _air_share_at_sides(hu: Float32[np.ndarray, "z y x"]) -> float:
    faces = np.concatenate([hu[:, [0, -1]].ravel(), hu[:, :, [0, -1]].ravel()])
    return float((faces < AIR_HU).mean())


def _lungs(hu: Float32[np.ndarray, "z y x"], inside: Cells) -> Cells:
    low, high = LUNG_HU
    return _opened((hu > low) & (hu < high) & inside)


def _opened(cells: Cells) -> Cells:
    # What lies beyond the scan counts as the same, so that borders are not rounded off.
    opened = ndimage.binary_dilation(ndimage.binary_erosion(cells, border_value=1))
    kept: Cells = opened & cells
    return kept


def _without_islands(cells: Cells, least: float) -> Cells:
    labels, count = ndimage.label(cells, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    kept: Cells = (sizes >= least)[labels] & cells
    return kept


def _with_marrow(dense: Cells, sizes_mm: np.ndarray) -> Cells:
    """Close gaps, fill what bone encloses in a plane, and add a margin."""
    if not dense.any():
        return dense
    near = ndimage.distance_transform_edt(~dense, sampling=sizes_mm) <= BONE_GAP_MM
    if near.all():
        return near
    # Distances count to cells of the scan only, so that bone at its border is not eaten.
    bone = (ndimage.distance_transform_edt(near, sampling=sizes_mm) > BONE_GAP_MM) | dense
    filled = bone.copy()
    for axis in range(3):
        area_cm2 = float(np.delete(sizes_mm, axis).prod()) / 100
        filled |= _holes(bone, axis, LARGEST_MARROW_CM2 / area_cm2)
    margin: Cells = ndimage.distance_transform_edt(~filled, sampling=sizes_mm) <= NEAR_BONE_MM
    return margin


def _holes(cells: Cells, axis: int, most: float = math.inf) -> Cells:
    """Return what is enclosed in the planes across an axis, up to a number of cells each."""
    planes = np.moveaxis(cells, axis, 0)
    in_plane = np.zeros((3, 3, 3), dtype=bool)
    in_plane[1] = ndimage.generate_binary_structure(2, 1)
    # One labelling of all planes: filling each by itself takes ten times as long.
    labels, count = ndimage.label(~planes, structure=in_plane)
    enclosed = np.bincount(labels.ravel(), minlength=count + 1) <= most
    enclosed[0] = False
    for border in (labels[:, [0, -1]], labels[:, :, [0, -1]]):
        enclosed[np.unique(border)] = False
    found: Cells = np.moveaxis(enclosed[labels], 0, axis)
    return found


def _extent(cells: Cells, axis: int) -> int:
    others = tuple(a for a in range(3) if a != axis)
    there = np.flatnonzero(cells.any(axis=others))
    return int(there[-1] - there[0] + 1) if len(there) else 0


def _region(
    *,
    body_ml: float,
    lung_ml: float,
    bone_share: float,
    width_mm: float,
    length_mm: float,
    second_part: float,
    air_at_sides: float,
) -> str:
    """Guess in words what is in view."""
    lung = lung_ml >= LUNG_ML and lung_ml >= LUNG_SHARE * body_ml
    if body_ml < LEAST_BODY_ML:
        return "no body"
    if air_at_sides < CUT_OUT_AIR:
        return "cut-out with lung" if lung_ml >= LUNG_SHARE * body_ml else "cut-out"
    if lung:
        return "trunk" if length_mm >= TRUNK_MM else "chest"
    if second_part >= TWO_LEGS_SHARE:
        return "legs"
    if width_mm <= HEAD_WIDTH_MM and bone_share >= HEAD_BONE_SHARE:
        return "head or neck"
    return "abdomen or pelvis"
