"""Tiles of different sizes that cover a region of bone at little cost.

Every cell of the region lies in the *core* of a tile: the tile less half an overlap on each side
that is not the scan's own border. So a lesion centred in the region and no longer than
``overlap_vox`` lies whole in at least one tile.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int16

from osteomet.config import InferenceConfig
from osteomet.data.preprocess import AIR_HU, ModelView
from osteomet.errors import ConfigError
from osteomet.inference.bone import BoneRegion
from osteomet.volume import ShapeZYX

SIDE_MULTIPLE = 32
"""Tile sides are multiples of the coarsest stride of a network; this one suits them all."""

SHORTEST_SIDE = 0.6
"""Of the configured side: a tile much smaller than a training patch lacks context."""

TILE_OVERHEAD_VOX = 200_000
"""What the heads cost for each tile, in voxels of the backbone's cost."""


class Tile(NamedTuple):
    """A box of voxels that the network sees at once.

    Attributes:
        size: voxels along each side, multiples of the network's coarsest stride.
        start: first voxel ``(z, y, x)``.
    """

    size: ShapeZYX
    start: ShapeZYX


@dataclass(frozen=True, eq=False)
class TilePlan:
    """Tiles that the network sees one by one, those of a size together.

    Attributes:
        tiles: none where there is no bone; where the scan is smaller they are padded.
        shape_zyx: voxels of the scan on the model's grid.
    """

    tiles: tuple[Tile, ...]
    shape_zyx: ShapeZYX

    def __len__(self) -> int:
        return len(self.tiles)

    @property
    def bounds(self) -> Float[np.ndarray, "tiles 6"]:
        """Boxes of the tiles, in voxel edges, cut to the scan."""
        low = np.array([tile.start for tile in self.tiles]).reshape(-1, 3)
        size = np.array([tile.size for tile in self.tiles]).reshape(-1, 3)
        high = np.minimum(low + size, self.shape_zyx)
        return np.concatenate([low, high], axis=1).astype(np.float32)

    def batches(self, at_once: int) -> list[tuple[Tile, ...]]:
        """Return the tiles in order, in groups of one size and at most so many."""
        groups = (tuple(group) for _, group in groupby(self.tiles, key=lambda tile: tile.size))
        return [group[n : n + at_once] for group in groups for n in range(0, len(group), at_once)]

    def crop(self, scan: ModelView, tile: Tile) -> Int16[np.ndarray, "tile_z tile_y tile_x"]:
        """Return the HU of a tile, with air beyond the high sides of the scan."""
        z, y, x = (
            slice(start, min(start + side, length))
            for start, side, length in zip(tile.start, tile.size, self.shape_zyx, strict=True)
        )
        inside = scan.window((z, y, x))
        if inside.shape == tile.size:
            return inside
        missing = [(0, n - have) for n, have in zip(tile.size, inside.shape, strict=True)]
        return np.pad(inside, missing, constant_values=AIR_HU)


def plan_tiles(
    region: BoneRegion, config: InferenceConfig, multiple: int = SIDE_MULTIPLE
) -> TilePlan:
    """Cover a region of bone with tiles of different sizes.

    The region is cut in two where the parts seem to cost least, and they again, until a part with
    the overlap around it fits into a tile and is not worth cutting. What a part costs that is
    larger than a tile is estimated as if bone filled it.

    Args:
        region: where bone lesions can be.
        config: the largest tile, and how far tiles overlap.
        multiple: of which every side must be one.

    Raises:
        ConfigError: the overlap leaves a tile no core, or a side is no such multiple.
    """
    _check(config, multiple)
    costs = _TileCosts.of(region, config, multiple)
    tiles: list[Tile] = []
    uncut = [_tight(region.cells, np.zeros(3, int))] if region.cells.any() else []
    while uncut:
        cells, low = uncut.pop()
        high = low + cells.shape
        cost, axis, place = _best_cut(cells, low, costs)
        if costs.fits(low, high) and costs.of_parts(low[None], high[None])[0] <= cost:
            tiles.append(costs.tile(low, high))
            continue
        lower, upper = np.split(cells, [place], axis)
        uncut += [_tight(upper, low + place * np.eye(3, dtype=int)[axis]), _tight(lower, low)]
    return TilePlan(tuple(sorted(tiles)), region.shape_zyx)


def core_bounds(start: int, size: int, length: int, overlap: int) -> tuple[int, int]:
    """Return the first and one-past-the-last voxel of a tile's core along one axis."""
    margin = (overlap + 1) // 2
    low = start + margin if start > 0 else 0
    high = start + size - margin if start + size < length else length
    return low, high


def _check(config: InferenceConfig, multiple: int) -> None:
    for side in config.tile_size:
        if side % multiple or config.overlap_vox > side // 2:
            raise ConfigError(
                f"inference.tile_size {config.tile_size} with overlap_vox {config.overlap_vox}: "
                f"expected sides that are multiples of {multiple} and at least twice the overlap"
            )


@dataclass(frozen=True, eq=False)
class _TileCosts:
    """What parts of a region cost as tiles, in voxels that the network sees.

    Parts are boxes of cells, from the first to one past the last along each axis.

    Attributes:
        factor: voxels along each side of a cell.
        length: voxels of the scan.
        longest: side of the largest tile.
        shortest: side of the smallest.
        overlap: voxels that neighbours share.
        multiple: of which every side is one.
    """

    factor: int
    length: Int[np.ndarray, "3"]
    longest: Int[np.ndarray, "3"]
    shortest: Int[np.ndarray, "3"]
    overlap: int
    multiple: int

    @classmethod
    def of(cls, region: BoneRegion, config: InferenceConfig, multiple: int) -> "_TileCosts":
        length = np.array(region.shape_zyx)
        longest = np.minimum(config.tile_size, _rounded_up(length, multiple))
        least = np.ceil(np.array(config.tile_size) * SHORTEST_SIDE).astype(int)
        shortest = np.minimum(longest, _rounded_up(least, multiple))
        return cls(region.factor, length, longest, shortest, config.overlap_vox, multiple)

    def fits(self, low: Int[np.ndarray, "3"], high: Int[np.ndarray, "3"]) -> bool:
        """Tell whether a part fits into a tile; a single cell must."""
        return bool((self._sides(low, high) <= self.longest).all() or (high - low == 1).all())

    def of_parts(
        self, low: Int[np.ndarray, "n 3"], high: Int[np.ndarray, "n 3"]
    ) -> Float[np.ndarray, " n"]:
        """Return the cost of parts, of large ones that of the equal tiles which fill them."""
        sides = self._sides(low, high)
        # A side no longer than the overlap is that of a scan which is one tile there.
        pitch = (self.longest - self.overlap).clip(1)
        inner = (high - low) * self.factor
        pieces = np.where(sides > self.longest, -(-inner // pitch), 1)
        pieced = _rounded_up(-(-inner // pieces) + self.overlap, self.multiple)
        sides = np.where(pieces > 1, np.maximum(pieced, self.shortest), sides)
        tiles = pieces.prod(axis=1)
        return np.asarray(tiles * (sides.prod(axis=1) + TILE_OVERHEAD_VOX), dtype=np.float64)

    def tile(self, low: Int[np.ndarray, "3"], high: Int[np.ndarray, "3"]) -> Tile:
        """Return the tile about a part; what its side has too much lies on either side."""
        first, last = self._needed(low, high)
        sides = self._sides(low, high)
        start = (first - (sides - (last - first)) // 2).clip(0, (self.length - sides).clip(0))
        (z, y, x), (nz, ny, nx) = start.tolist(), sides.tolist()
        return Tile((nz, ny, nx), (z, y, x))

    def _needed(
        self, low: Int[np.ndarray, "*n 3"], high: Int[np.ndarray, "*n 3"]
    ) -> tuple[Int[np.ndarray, "*n 3"], Int[np.ndarray, "*n 3"]]:
        margin = (self.overlap + 1) // 2
        first = (low * self.factor - margin).clip(0)
        return first, np.minimum(high * self.factor + margin, self.length)

    def _sides(
        self, low: Int[np.ndarray, "*n 3"], high: Int[np.ndarray, "*n 3"]
    ) -> Int[np.ndarray, "*n 3"]:
        first, last = self._needed(low, high)
        return np.asarray(np.maximum(_rounded_up(last - first, self.multiple), self.shortest))


def _rounded_up(values: Int[np.ndarray, "*n"], multiple: int) -> Int[np.ndarray, "*n"]:
    rounded: Int[np.ndarray, "*n"] = -(-values // multiple) * multiple
    return rounded


def _tight(
    cells: Bool[np.ndarray, "z y x"], low: Int[np.ndarray, "3"]
) -> tuple[Bool[np.ndarray, "a b c"], Int[np.ndarray, "3"]]:
    """Return the smallest box of cells that holds every True one, and where it begins."""
    shadows = [np.asarray(cells.any(axis=flat)) for flat in ((1, 2), (0, 2), (0, 1))]
    first = np.array([shadow.argmax() for shadow in shadows])
    z, y, x = (
        slice(f, len(shadow) - shadow[::-1].argmax())
        for f, shadow in zip(first.tolist(), shadows, strict=True)
    )
    return cells[z, y, x], low + first


def _best_cut(
    cells: Bool[np.ndarray, "z y x"], low: Int[np.ndarray, "3"], costs: _TileCosts
) -> tuple[float, int, int]:
    """Return what the cheapest cut costs, along which axis it is, and before which layer.

    ``cells`` is tight, so that both parts of every cut have a True cell.
    """
    best = (math.inf, 0, 0)
    flat = [np.asarray(cells.any(axis=axis)) for axis in range(3)]
    for axis in range(3):
        first, last = _layer_bounds(flat, axis)
        below, above = (np.minimum.accumulate(first)[:-1], np.maximum.accumulate(last)[:-1])
        cost = costs.of_parts(low + below, low + above)
        below = np.minimum.accumulate(first[::-1])[::-1][1:]
        above = np.maximum.accumulate(last[::-1])[::-1][1:]
        cost += costs.of_parts(low + below, low + above)
        if len(cost) and cost.min() < best[0]:
            best = (float(cost.min()), axis, int(cost.argmin()) + 1)
    return best


def _layer_bounds(
    flat: Sequence[Bool[np.ndarray, "_ _"]], axis: int
) -> tuple[Int[np.ndarray, "layers 3"], Int[np.ndarray, "layers 3"]]:
    """Return the box of the True cells of each layer; of an empty one a box that bounds nothing.

    Args:
        flat: the cells, projected along each axis.
        axis: across the layers.
    """
    first, last = [], []
    for other in range(3):
        # The projection that keeps both axes, or for ``axis`` itself any that keeps it.
        gone = 3 - axis - other if other != axis else (axis + 1) % 3
        kept = [one for one in range(3) if one != gone]
        shadow = flat[gone] if kept[0] == axis else flat[gone].T
        occupied = shadow.any(axis=1)
        if other == axis:
            low = np.arange(len(shadow))
            high = low + 1
        else:
            low = shadow.argmax(axis=1)
            high = shadow.shape[1] - shadow[:, ::-1].argmax(axis=1)
        first.append(np.where(occupied, low, np.iinfo(np.int32).max))
        last.append(np.where(occupied, high, 0))
    return np.stack(first, axis=1), np.stack(last, axis=1)
