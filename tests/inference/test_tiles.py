"""Tiles cover all bone with lesions whole, and little else."""

import math

import numpy as np
import pytest

from osteomet.config import InferenceConfig
from osteomet.data.preprocess import ModelView, to_model_grid
from osteomet.errors import ConfigError
from osteomet.inference.bone import BoneRegion
from osteomet.inference.tiles import Tile, TilePlan, core_bounds, plan_tiles
from osteomet.volume import Volume


def tiling(side: int = 64, overlap: int = 24) -> InferenceConfig:
    return InferenceConfig(tile_size=(side, side, side), overlap_vox=overlap)


def cells_in_cores(plan: TilePlan, region: BoneRegion, overlap: int) -> np.ndarray:
    covered = np.zeros(plan.shape_zyx, dtype=bool)
    for tile in plan.tiles:
        cores = zip(tile.start, tile.size, plan.shape_zyx, strict=True)
        covered[tuple(slice(*core_bounds(s, n, length, overlap)) for s, n, length in cores)] = True
    voxels = np.kron(region.cells, np.ones((region.factor,) * 3, dtype=bool))
    z, y, x = plan.shape_zyx
    return covered[voxels[:z, :y, :x]]


def random_region(seed: int) -> BoneRegion:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(20, 260, size=3).tolist())
    cells = np.zeros([-(-n // 4) for n in shape], dtype=bool)
    for _ in range(rng.integers(1, 5)):
        corner = [rng.integers(0, n) for n in cells.shape]
        cells[tuple(slice(c, c + rng.integers(1, 25)) for c in corner)] = True
    return BoneRegion(cells, 4, shape)


@pytest.mark.parametrize("multiple", [16, 32])
@pytest.mark.parametrize("seed", range(24))
def test_every_bone_cell_lies_in_a_core_and_every_tile_in_the_scan(
    seed: int, multiple: int
) -> None:
    region = random_region(seed)
    plan = plan_tiles(region, tiling(), multiple)
    assert cells_in_cores(plan, region, overlap=24).all()
    assert len(set(plan.tiles)) == len(plan)
    for tile in plan.tiles:
        for start, side, length in zip(tile.start, tile.size, plan.shape_zyx, strict=True):
            assert side % multiple == 0
            assert side <= 64
            assert start >= 0
            assert start == 0 or start + side <= length


def test_no_bone_needs_no_tile() -> None:
    region = BoneRegion(np.zeros((10, 10, 10), dtype=bool), 4, (40, 40, 40))
    plan = plan_tiles(region, tiling())
    assert len(plan) == 0
    assert plan.bounds.shape == (0, 6)
    assert plan.batches(4) == []


def test_a_thin_column_takes_one_row_of_thin_tiles() -> None:
    cells = np.zeros((60, 60, 60), dtype=bool)
    cells[:, 30:32, 30:32] = True
    plan = plan_tiles(BoneRegion(cells, 4, (240, 240, 240)), tiling(), 16)
    # Cores of 64 - 24 = 40 voxels, the outer two longer by 12: 52 + 4 * 40 + 52 >= 240.
    assert len(plan) == 6
    for tile in plan.tiles:
        (_, ny, nx), (_, y, x) = tile
        assert (ny, nx) == (48, 48), "the shortest side of at least 0.6 times 64"
        assert (y, x) == (100, 100), "the column lies in the middle of its tiles"


def test_what_lies_apart_gets_tiles_of_its_own() -> None:
    cells = np.zeros((60, 60, 60), dtype=bool)
    cells[2:5, 2:5, 2:5] = cells[50:55, 50:55, 50:55] = True
    plan = plan_tiles(BoneRegion(cells, 4, (240, 240, 240)), tiling(), 16)
    assert plan.tiles == (Tile((48, 48, 48), (0, 0, 0)), Tile((48, 48, 48), (186, 186, 186)))


def test_a_shell_costs_less_than_with_equal_tiles() -> None:
    z, y, x = np.indices((60, 90, 70))
    shell = np.abs(np.hypot((y - 45) / 1.3, x - 35) - 25) < 4
    region = BoneRegion(shell & (z >= 0), 4, (240, 360, 280))
    plan = plan_tiles(region, tiling(side=128, overlap=32), 16)
    seen = sum(math.prod(tile.size) for tile in plan.tiles)
    # Equal tiles, slab by slab and bar by bar in the best order, take 47.2 million voxels.
    assert seen < 30e6


def test_tiles_of_a_size_go_together() -> None:
    plan = plan_tiles(random_region(3), tiling(), 16)
    batches = plan.batches(3)
    assert [tile for batch in batches for tile in batch] == list(plan.tiles)
    assert {len({tile.size for tile in batch}) for batch in batches} == {1}
    assert max(map(len, batches)) <= 3


def test_a_scan_smaller_than_a_tile_is_padded_with_air_to_a_multiple_of_32() -> None:
    cells = np.ones((2, 13, 25), dtype=bool)
    plan = plan_tiles(BoneRegion(cells, 4, (7, 50, 100)), tiling())
    assert {tile.size for tile in plan.tiles} == {(32, 64, 64)}
    ones = Volume.from_spacing(np.ones((7, 50, 100), np.int16), (1.0, 1.0, 1.0))
    crop = plan.crop(ModelView.of(ones, 1.0), plan.tiles[0])
    assert crop.shape == (32, 64, 64)
    assert (crop[:7, :50] == 1).all()
    assert (crop[7:] == -1024).all()
    assert plan.bounds[0].tolist() == [0, 0, 0, 7, 50, 64]


def test_a_scan_no_longer_than_the_overlap_is_one_tile() -> None:
    region = BoneRegion(np.ones((7, 8, 8), dtype=bool), 4, (26, 32, 30))
    plan = plan_tiles(region, InferenceConfig(tile_size=(128, 128, 128), overlap_vox=32), 16)
    assert plan.tiles == (Tile((32, 32, 32), (0, 0, 0)),)


@pytest.mark.parametrize("config", [tiling(side=60), tiling(side=64, overlap=40)])
def test_a_tile_without_a_core_or_of_odd_size_is_refused(config: InferenceConfig) -> None:
    region = BoneRegion(np.ones((2, 2, 2), dtype=bool), 4, (8, 8, 8))
    with pytest.raises(ConfigError, match="multiples of 32 and at least twice the overlap"):
        plan_tiles(region, config)


def test_a_scan_little_larger_than_a_tile_takes_shorter_tiles() -> None:
    region = BoneRegion(np.ones((31, 33, 33), dtype=bool), 4, (122, 131, 131))
    config = InferenceConfig(tile_size=(128, 128, 128), overlap_vox=32)
    plan = plan_tiles(region, config)
    assert [tile.size for tile in plan.tiles] == [(128, 96, 96)] * 4
    assert cells_in_cores(plan, region, overlap=32).all()


def test_tiles_are_pieces_of_the_resampled_scan() -> None:
    rng = np.random.default_rng(0)
    hu = rng.integers(-1000, 1000, (70, 90, 100)).astype(np.int16)
    affine = Volume.from_spacing(hu, (1.5, 0.7, 0.8)).affine
    affine[:3, 1] *= -1  # rows from posterior to anterior
    volume = Volume(hu, affine)
    whole = to_model_grid(volume, 1.0)
    scan = ModelView.of(volume, 1.0)
    tiles = Tile((96, 32, 32), (0, 0, 0)), Tile((64, 32, 48), (9, 31, 32))
    plan = TilePlan(tiles, scan.shape)
    for tile in plan.tiles:
        there = tuple(slice(s, s + n) for s, n in zip(tile.start, tile.size, strict=True))
        expected = whole.voxels[there]
        crop = plan.crop(scan, tile)
        assert crop.shape == tile.size
        assert np.array_equal(crop[: len(expected)], expected)
