"""Where to look: the region of bone, and the fewest tiles that cover it.

Bone is found on cells of about 4 mm, for which the scan is resampled a slab at a time. Every
cell of the region lies in the *core* of a tile: the tile less half an overlap on each side that
is not the scan's own border. So a lesion centred in the region and no longer than
``overlap_vox`` lies whole in at least one tile.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Int16, Integer, Shaped
from scipy import ndimage

from osteomet.config import InferenceConfig
from osteomet.data.preprocess import AIR_HU, ModelView
from osteomet.errors import ConfigError
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

SIDE_MULTIPLE = 32
"""Tile sides are multiples of the coarsest stride of a backbone."""

SHORTEST_SIDE = 0.75
"""Of the configured side: a tile much smaller than a training patch lacks context."""

TILE_OVERHEAD_VOX = 200_000
"""What the heads cost for each tile, in voxels of the backbone's cost."""


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


@dataclass(frozen=True, eq=False)
class TilePlan:
    """Equal boxes of voxels that the network sees one by one.

    Attributes:
        starts: first voxel ``(z, y, x)`` of each tile; none where there is no bone.
        size: voxels of every tile, multiples of 32; where the scan is smaller it is padded.
        shape_zyx: voxels of the scan on the model's grid.
    """

    starts: tuple[ShapeZYX, ...]
    size: ShapeZYX
    shape_zyx: ShapeZYX

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def bounds(self) -> Float[np.ndarray, "tiles 6"]:
        """Boxes of the tiles, in voxel edges, cut to the scan."""
        low = np.array(self.starts, dtype=np.float32).reshape(-1, 3)
        high = np.minimum(low + self.size, self.shape_zyx)
        return np.concatenate([low, high], axis=1).astype(np.float32)

    def crop(self, scan: ModelView, start: ShapeZYX) -> Int16[np.ndarray, "tile_z tile_y tile_x"]:
        """Return the HU of the tile at ``start``, with air beyond the high sides of the scan."""
        stop = [min(s + n, m) for s, n, m in zip(start, self.size, self.shape_zyx, strict=True)]
        z, y, x = (slice(first, last) for first, last in zip(start, stop, strict=True))
        inside = scan.window((z, y, x))
        if inside.shape == self.size:
            return inside
        missing = [(0, n - have) for n, have in zip(self.size, inside.shape, strict=True)]
        return np.pad(inside, missing, constant_values=AIR_HU)


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


def plan_tiles(region: BoneRegion, config: InferenceConfig) -> TilePlan:
    """Cover a region of bone with tiles at the least cost that a greedy cover finds.

    A greedy cover cuts the region into slabs along one axis, each slab into bars along
    another and each bar into tiles, and leaves out what is empty. The order of the axes
    matters, so all six are tried, and each side of the tile may be a quarter shorter where
    that costs less: a scan of 131 voxels takes two tiles of 96, not of 128.

    Raises:
        ConfigError: the overlap leaves a tile no core, or a side is no multiple of 32.
    """
    _check(config)
    sides = [
        _possible_sides(length, side, config.overlap_vox)
        for length, side in zip(region.shape_zyx, config.tile_size, strict=True)
    ]
    best = TilePlan((), (sides[0][-1], sides[1][-1], sides[2][-1]), region.shape_zyx)
    if not region.cells.any():
        return best
    least = math.inf
    for z, y, x in itertools.product(*sides):
        for order in itertools.permutations(range(3)):
            starts = _cover(region, region.cells, order, (z, y, x), config.overlap_vox)
            cost = len(starts) * (z * y * x + TILE_OVERHEAD_VOX)
            if cost < least:
                least = cost
                best = TilePlan(tuple(sorted(starts)), (z, y, x), region.shape_zyx)
    return best


def core_bounds(start: int, size: int, length: int, overlap: int) -> tuple[int, int]:
    """Return the first and one-past-the-last voxel of a tile's core along one axis."""
    margin = (overlap + 1) // 2
    low = start + margin if start > 0 else 0
    high = start + size - margin if start + size < length else length
    return low, high


def _check(config: InferenceConfig) -> None:
    for side in config.tile_size:
        if side % SIDE_MULTIPLE or config.overlap_vox > side // 2:
            raise ConfigError(
                f"inference.tile_size {config.tile_size} with overlap_vox {config.overlap_vox}: "
                f"expected sides that are multiples of {SIDE_MULTIPLE} and at least twice the "
                "overlap"
            )


def _possible_sides(length: int, side: int, overlap: int) -> list[int]:
    """Return the sides a tile may have along an axis: no more than the scan needs."""
    largest = min(side, -(-length // SIDE_MULTIPLE) * SIDE_MULTIPLE)
    smallest = min(largest, max(math.ceil(side * SHORTEST_SIDE), 2 * overlap))
    first = -(-smallest // SIDE_MULTIPLE) * SIDE_MULTIPLE
    return list(range(first, largest + 1, SIDE_MULTIPLE))


def _cover(
    region: BoneRegion,
    cells: Bool[np.ndarray, "..."],
    axes: tuple[int, ...],
    size: ShapeZYX,
    overlap: int,
) -> list[ShapeZYX]:
    """Return the starts of tiles whose cores hold every True cell; 0 along missing axes.

    Args:
        region: of which ``cells`` are a part, projected on ``axes``.
        cells: one array axis for each of ``sorted(axes)``.
        axes: those still to be cut, in the order in which to cut them.
        size: voxels of a tile.
        overlap: of neighbouring tiles.
    """
    axis, *rest = axes
    place = sorted(axes).index(axis)
    layers = np.moveaxis(cells, place, 0)
    occupied = np.flatnonzero(layers.reshape(len(layers), -1).any(axis=1))
    length, side = region.shape_zyx[axis], size[axis]
    axis_starts = _cover_axis(occupied, region.factor, length, side, overlap)
    # Each occupied layer goes to the tile in whose middle it lies best.
    middles = np.array(axis_starts)[:, None] + side / 2
    owner = np.abs((occupied + 0.5) * region.factor - middles).argmin(axis=0)
    starts: list[ShapeZYX] = []
    for index, axis_start in enumerate(axis_starts):
        below: list[ShapeZYX] = [(0, 0, 0)]
        if rest:
            slab = layers[occupied[owner == index]].any(axis=0)
            below = _cover(region, slab, tuple(rest), size, overlap)
        for start in below:
            z, y, x = (axis_start if a == axis else start[a] for a in range(3))
            starts.append((z, y, x))
    return starts


def _cover_axis(
    occupied: Integer[np.ndarray, " layers"], factor: int, length: int, side: int, overlap: int
) -> list[int]:
    """Return the fewest starts along one axis whose cores hold every occupied layer."""
    last = max(0, length - side)
    margin = (overlap + 1) // 2
    lows = occupied * factor
    highs = np.minimum(lows + factor, length)

    forward: list[int] = []
    covered = 0
    for low, high in zip(lows.tolist(), highs.tolist(), strict=True):
        if not forward or high > covered:
            forward.append(min(max(low - margin, 0), last))
            covered = core_bounds(forward[-1], side, length, overlap)[1]
    backward: list[int] = []
    covered = length
    for low, high in zip(lows[::-1].tolist(), highs[::-1].tolist(), strict=True):
        if not backward or low < covered:
            backward.append(min(max(high + margin - side, 0), last))
            covered = core_bounds(backward[-1], side, length, overlap)[0]
    # The first cover pushes tiles as far up as it can, the second as far down; in between
    # bone lies in the middle of tiles, if that still covers.
    between = [(a + b) // 2 for a, b in zip(forward, backward[::-1], strict=True)]
    cores = [core_bounds(start, side, length, overlap) for start in between]
    covers = all(
        any(core_low <= low and high <= core_high for core_low, core_high in cores)
        for low, high in zip(lows.tolist(), highs.tolist(), strict=True)
    )
    return between if covers else forward


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
