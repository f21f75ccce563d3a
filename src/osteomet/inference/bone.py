"""Where to look: the region of a scan in which bone lesions can be.

Bone is found on cells of about 4 mm, for which the scan is resampled a slab at a time.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, Shaped
from scipy import ndimage

from osteomet.data.preprocess import ModelView
from osteomet.inference.shared_threads import sharing_threads
from osteomet.volume import ShapeZYX

CELL_MM = 4.0
"""Side of a cell: thin enough for a rib, coarse enough that a whole body is a small array."""

DENSE_HU = 200
"""Denser than unenhanced soft tissue and its noise; trabecular bone is found by its cortex."""

DENSE_SHARE = 0.15
"""Share of a cell's voxels above ``DENSE_HU``: a cortex of 1 mm fills a quarter of a cell."""

DENSE_MEAN_HU = 150.0
"""A cell this dense on average is bone too, where thick slices have blurred the cortex."""

BODY_HU = -300.0
"""Between fat and the lungs, the padding of a table, or air."""

SMALLEST_BONE_ML = 0.25
"""Smaller islands are clips and noise; ribs blurred by thick slices leave larger ones."""

SMALLEST_BODY_SHARE = 0.005
"""Parts of the body (a forearm beside a trunk) hold at least this share of the largest part."""

LAYERS_AT_ONCE = 8
"""Of cells, for which a slab of the scan is resampled."""

NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True, eq=False)
class BoneRegion:
    """Where bone lesions can be, on coarse cells.

    Attributes:
        cells: True where a lesion can be, ``(z, y, x)``.
        factor: voxels along each side of a cell; the last cell of an axis may be cut.
        shape_zyx: voxels of the volume that the cells cover.
    """

    cells: Bool[np.ndarray, "z y x"]
    factor: int
    shape_zyx: ShapeZYX

    def covered_share(self, instances: Integer[np.ndarray, "z y x"]) -> float:
        """Return the share of lesion voxels that lie in the region; 1 without a lesion."""
        voxels = np.argwhere(instances > 0)
        if len(voxels) == 0:
            return 1.0
        return float(self.cells[tuple((voxels // self.factor).T)].mean())

    def touches(self, boxes: Float[np.ndarray, "n 6"]) -> Bool[np.ndarray, " n"]:
        """Tell which boxes, in voxel edges of the volume, share a cell with the region."""
        low = np.floor(boxes[:, :3] / self.factor).astype(int).clip(0)
        high = np.ceil(boxes[:, 3:] / self.factor).astype(int).clip(0)
        cells = [
            self.cells[z1:z2, y1:y2, x1:x2]
            for (z1, y1, x1), (z2, y2, x2) in zip(low.tolist(), high.tolist(), strict=True)
        ]
        return np.array([part.any() for part in cells], dtype=bool)


def find_bone(scan: ModelView, dilation_mm: float) -> BoneRegion:
    """Find where bone is, with a margin, without losing lytic or soft-tissue lesions.

    Dense islands of at least ``SMALLEST_BONE_ML`` inside the body are dilated by
    ``dilation_mm`` and what they enclose is filled: a lytic lesion is not dense, but bone
    lies around it. Contrast in vessels and kidneys stays: it costs tiles, never a lesion.

    Args:
        scan: may hold no bone, and then the region is empty.
        dilation_mm: margin about the dense cells.
    """
    factor = max(1, round(CELL_MM / scan.spacing_mm))
    bone, tissue = _dense_and_tissue(scan, factor)
    cell_mm = factor * scan.spacing_mm
    bone &= _body(tissue)
    bone = _without_islands(bone, SMALLEST_BONE_ML * 1000 / cell_mm**3)
    if bone.any():
        bone = _dilated(bone, dilation_mm / cell_mm)
        bone = ndimage.binary_fill_holes(bone)
    return BoneRegion(bone, factor, scan.shape)


def _dense_and_tissue(
    scan: ModelView, factor: int
) -> tuple[Bool[np.ndarray, "cz cy cx"], Bool[np.ndarray, "cz cy cx"]]:
    """Return which cells are as dense as bone, and which are no air."""
    nz, ny, nx = scan.shape
    rows, columns = np.arange(0, ny, factor), np.arange(0, nx, factor)
    area = np.outer(np.diff([*rows, ny]), np.diff([*columns, nx]))
    shape = (-(-nz // factor), len(rows), len(columns))
    dense, tissue = np.empty(shape, dtype=bool), np.empty(shape, dtype=bool)

    def means(layer: Shaped[np.ndarray, "z y x"], kind: type) -> Float[np.ndarray, "cy cx"]:
        # Sums in whole numbers: conversions would cost most.
        sums = layer.sum(axis=0, dtype=kind)
        blocks = np.add.reduceat(np.add.reduceat(sums, rows, axis=0), columns, axis=1)
        return np.asarray(blocks / (area * len(layer)))

    def summarise(first: int) -> None:
        low, high = first * factor, min((first + LAYERS_AT_ONCE) * factor, nz)
        slab = scan.window((slice(low, high), slice(0, ny), slice(0, nx)))
        for place, layer in enumerate(np.split(slab, range(factor, len(slab), factor)), first):
            hu, share = means(layer, np.int32), means(layer > DENSE_HU, np.int16)
            dense[place] = (share >= DENSE_SHARE) | (hu >= DENSE_MEAN_HU)
            tissue[place] = hu > BODY_HU

    firsts = range(0, shape[0], LAYERS_AT_ONCE)
    with sharing_threads(len(firsts)) as each:
        list(each(summarise, firsts))
    return dense, tissue


def _body(tissue: Bool[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"]:
    """Return the patient: the large parts after thin ones, such as a table, are opened away."""
    eroded = ndimage.binary_erosion(tissue, NEIGHBOURS, border_value=1)
    parts, count = ndimage.label(eroded)
    if count == 0:
        return tissue  # nothing thick: a crop of a hand or a rib, so that nothing is a table
    sizes = _sizes(parts, count)
    large = _chosen(parts, sizes >= SMALLEST_BODY_SHARE * sizes.max())
    # Two steps: one undoes the erosion, one gives back ribs that lie just under the skin.
    return ndimage.binary_dilation(large, NEIGHBOURS, iterations=2)


def _dilated(mask: Bool[np.ndarray, "z y x"], radius: float) -> Bool[np.ndarray, "z y x"]:
    """Return the voxels within a radius, in voxels, of one that is True.

    The ball is cut into lines along x, of few lengths: a tenth of the time that distances take.
    """
    reach = int(radius)
    wide = np.pad(mask, reach)
    grown, line = np.zeros_like(mask), wide.copy()
    nz, ny, nx = mask.shape
    around = list(itertools.product(range(-reach, reach + 1), repeat=2))
    for half in range(reach + 1):
        if half:
            line[..., half:] |= wide[..., :-half]
            line[..., :-half] |= wide[..., half:]
        for z, y in around:
            left = radius * radius - z * z - y * y
            if left >= 0 and math.isqrt(int(left)) == half:
                low_z, low_y = reach + z, reach + y
                grown |= line[low_z : low_z + nz, low_y : low_y + ny, reach : reach + nx]
    return grown


def _without_islands(mask: Bool[np.ndarray, "z y x"], smallest: float) -> Bool[np.ndarray, "z y x"]:
    parts, count = ndimage.label(mask, NEIGHBOURS)
    return _chosen(parts, _sizes(parts, count) >= smallest)


def _sizes(parts: Integer[np.ndarray, "z y x"], count: int) -> Int[np.ndarray, " count"]:
    """Return the voxels of each part, which are numbered from 1.

    By layers, since NumPy counts in indices of 8 bytes: so many more for a whole array.
    """
    return sum(
        (np.bincount(z.ravel(), minlength=count + 1)[1:] for z in parts), np.zeros(count, int)
    )


def _chosen(
    parts: Integer[np.ndarray, "z y x"], keep: Bool[np.ndarray, " count"]
) -> Bool[np.ndarray, "z y x"]:
    """Return the voxels of some of the parts, which are numbered from 1."""
    wanted, chosen = np.concatenate([[False], keep]), np.empty(parts.shape, dtype=bool)
    for layer, out in zip(parts, chosen, strict=True):
        out[:] = wanted[layer]
    return chosen
