"""Tiles cover all bone with lesions whole, and lytic lesions are not lost."""

import numpy as np
import pytest
from scipy import ndimage

from osteomet.config import InferenceConfig
from osteomet.data.preprocess import ModelView, to_model_grid
from osteomet.errors import ConfigError
from osteomet.inference.tiles import BoneRegion, TilePlan, core_bounds, find_bone, plan_tiles
from osteomet.volume import Volume


def tiling(side: int = 64, overlap: int = 24) -> InferenceConfig:
    return InferenceConfig(tile_size=(side, side, side), overlap_vox=overlap)


def cells_in_cores(plan: TilePlan, region: BoneRegion, overlap: int) -> np.ndarray:
    covered = np.zeros(plan.shape_zyx, dtype=bool)
    for start in plan.starts:
        cores = zip(start, plan.size, plan.shape_zyx, strict=True)
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


@pytest.mark.parametrize("seed", range(12))
def test_every_bone_cell_lies_in_a_core_and_every_tile_in_the_scan(seed: int) -> None:
    region = random_region(seed)
    plan = plan_tiles(region, tiling())
    assert cells_in_cores(plan, region, overlap=24).all()
    assert len(set(plan.starts)) == len(plan)
    for start in plan.starts:
        for first, size, length in zip(start, plan.size, plan.shape_zyx, strict=True):
            assert first >= 0
            assert first == 0 or first + size <= length


def test_no_bone_needs_no_tile() -> None:
    region = BoneRegion(np.zeros((10, 10, 10), dtype=bool), 4, (40, 40, 40))
    plan = plan_tiles(region, tiling())
    assert len(plan) == 0
    assert plan.bounds.shape == (0, 6)


def test_a_thin_column_takes_one_row_of_tiles() -> None:
    cells = np.zeros((60, 60, 60), dtype=bool)
    cells[:, 30:32, 30:32] = True
    plan = plan_tiles(BoneRegion(cells, 4, (240, 240, 240)), tiling())
    # Cores of 64 - 24 = 40 voxels, the outer two longer by 12: 52 + 4 * 40 + 52 >= 240.
    assert len(plan) == 6
    _, y, x = plan.starts[0]
    assert abs(y + 32 - 124) <= 1, "the column lies in the middle of its tiles"
    assert y == x


def test_a_scan_smaller_than_a_tile_is_padded_with_air_to_a_multiple_of_32() -> None:
    cells = np.ones((2, 13, 25), dtype=bool)
    plan = plan_tiles(BoneRegion(cells, 4, (7, 50, 100)), tiling())
    assert plan.size == (32, 64, 64)
    ones = Volume.from_spacing(np.ones((7, 50, 100), np.int16), (1.0, 1.0, 1.0))
    crop = plan.crop(ModelView.of(ones, 1.0), plan.starts[0])
    assert crop.shape == (32, 64, 64)
    assert (crop[:7, :50] == 1).all()
    assert (crop[7:] == -1024).all()
    assert plan.bounds[0].tolist() == [0, 0, 0, 7, 50, 64]


@pytest.mark.parametrize("config", [tiling(side=60), tiling(side=64, overlap=40)])
def test_a_tile_without_a_core_or_of_odd_size_is_refused(config: InferenceConfig) -> None:
    region = BoneRegion(np.ones((2, 2, 2), dtype=bool), 4, (8, 8, 8))
    with pytest.raises(ConfigError, match="multiples of 32 and at least twice the overlap"):
        plan_tiles(region, config)


def isotropic(hu: np.ndarray, spacing_mm: float) -> ModelView:
    return ModelView.of(Volume.from_spacing(hu, (spacing_mm,) * 3), spacing_mm)


def patient(spacing_mm: float = 2.0) -> tuple[ModelView, np.ndarray]:
    """Return a trunk with a spine whose marrow is lytic, a table, and the lesion's mask."""
    z, y, x = np.indices((60, 90, 90))
    hu = np.full(z.shape, -1000, np.int16)
    hu[((y - 40) / 28) ** 2 + ((x - 45) / 38) ** 2 < 1] = 40
    spine = np.hypot(y - 48, x - 45)
    hu[spine < 12] = 130
    hu[(spine >= 11) & (spine < 12)] = 600
    hu[(y >= 84) & (y <= 85)] = 900  # a table of 4 mm
    lesion = (spine < 9) & (np.abs(z - 30) < 8)
    hu[lesion] = 20
    noise = np.random.default_rng(0).normal(0, 40, hu.shape)
    return isotropic((hu + noise).astype(np.float32), spacing_mm), lesion


def test_a_lytic_lesion_is_covered_and_the_table_is_not() -> None:
    scan, lesion = patient()
    region = find_bone(scan, dilation_mm=20.0)
    assert region.covered_share(lesion.astype(np.int32)) == 1.0
    assert not region.cells[:, 84 // region.factor].any()
    assert region.cells.mean() < 0.4


def test_noise_air_and_small_calcifications_are_no_bone() -> None:
    hu = np.random.default_rng(0).normal(40, 50, (60, 60, 60)).astype(np.float32)
    hu[30:33, 30:33, 30:33] = 1000
    region = find_bone(isotropic(hu, 1.0), dilation_mm=20.0)
    assert not region.cells.any()
    air = np.full((5, 40, 40), -1024, np.int16)
    assert not find_bone(isotropic(air, 4.0), 20.0).cells.any()


def test_margin_is_in_mm_at_any_spacing() -> None:
    for spacing in (1.0, 2.0, 3.0):
        side = round(120 / spacing)
        hu = np.full((side,) * 3, 40, np.int16)
        middle = slice(round(54 / spacing), round(66 / spacing))
        hu[middle, middle, middle] = 800
        region = find_bone(isotropic(hu, spacing), dilation_mm=20.0)
        cell_mm = region.factor * spacing
        width = region.cells.any(axis=(1, 2)).sum() * cell_mm
        assert width == pytest.approx(12 + 40, abs=2 * cell_mm)


def test_covered_share_without_a_lesion_is_whole() -> None:
    region = BoneRegion(np.zeros((2, 2, 2), dtype=bool), 4, (8, 8, 8))
    assert region.covered_share(np.zeros((8, 8, 8), np.int32)) == 1.0
    assert region.covered_share(np.ones((8, 8, 8), np.int32)) == 0.0


def test_boxes_that_share_a_cell_touch_the_region() -> None:
    cells = np.zeros((4, 4, 4), dtype=bool)
    cells[2, 2, 2] = True
    region = BoneRegion(cells, 4, (14, 16, 16))
    boxes = np.array(
        [
            [8, 8, 8, 9, 9, 9],
            [7.5, 7.5, 7.5, 8.1, 8.1, 8.1],
            [0, 0, 0, 8, 8, 8],
            [12, 8, 8, 14, 12, 12],
            [-3, -3, -3, 20, 20, 20],
        ],
        dtype=np.float32,
    )
    assert region.touches(boxes).tolist() == [True, True, False, False, True]
    assert region.touches(boxes[:0]).shape == (0,)


def test_a_scan_little_larger_than_a_tile_takes_shorter_tiles() -> None:
    region = BoneRegion(np.ones((31, 33, 33), dtype=bool), 4, (122, 131, 131))
    config = InferenceConfig(tile_size=(128, 128, 128), overlap_vox=32)
    plan = plan_tiles(region, config)
    assert (len(plan), plan.size) == (4, (128, 96, 96))
    assert cells_in_cores(plan, region, overlap=32).all()


@pytest.mark.parametrize("dilation_mm", [0.0, 4.0, 9.0, 20.0])
def test_the_margin_is_a_distance(dilation_mm: float) -> None:
    voxels = np.full((90, 100, 110), 40, dtype=np.int16)
    rng = np.random.default_rng(0)
    for z, y, x in rng.integers(12, 80, (6, 3)):
        voxels[z : z + 10, y : y + 9, x : x + 8] = 600
    scan = isotropic(voxels, 1.0)
    dense = find_bone(scan, 0.0).cells
    assert dense.any()
    near = ndimage.distance_transform_edt(~dense) * 4 <= dilation_mm
    expected = ndimage.binary_fill_holes(near)
    assert np.array_equal(find_bone(scan, dilation_mm).cells, expected)


def test_tiles_are_pieces_of_the_resampled_scan() -> None:
    rng = np.random.default_rng(0)
    hu = rng.integers(-1000, 1000, (70, 90, 100)).astype(np.int16)
    affine = Volume.from_spacing(hu, (1.5, 0.7, 0.8)).affine
    affine[:3, 1] *= -1  # rows from posterior to anterior
    volume = Volume(hu, affine)
    whole = to_model_grid(volume, 1.0)
    scan = ModelView.of(volume, 1.0)
    plan = TilePlan(((0, 0, 0), (9, 31, 48)), (96, 32, 32), scan.shape)
    for start in plan.starts:
        there = tuple(slice(s, s + n) for s, n in zip(start, plan.size, strict=True))
        expected = whole.voxels[there]
        crop = plan.crop(scan, start)
        assert crop.shape == plan.size
        assert np.array_equal(crop[: len(expected)], expected)
