"""Bone is found with a margin, and lytic lesions are not lost."""

import numpy as np
import pytest
from scipy import ndimage

from osteomet.data.preprocess import ModelView
from osteomet.inference.bone import BoneRegion, find_bone
from osteomet.volume import Volume


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
