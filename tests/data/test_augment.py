"""What is drawn for a patch: maps, boxes that move with them, and changes of intensity."""

import numpy as np
import pytest
from patch_placements import TURNED, placement_of, source_points

from osteomet.config import AugmentConfig
from osteomet.data.augment import (
    BLUR_REACH,
    IntensityChange,
    Placement,
    blur_taps,
    draw_intensities,
    draw_matrix,
)


@pytest.mark.parametrize("seed", range(5))
def test_boxes_move_with_the_image(seed: int) -> None:
    """A ball's box and hull, moved, against the ball's voxels in the moved image."""
    placement = placement_of(seed, shape=(40, 40, 40))
    inverse = np.linalg.inv(placement.matrix)
    center, radius = placement.center + np.array([2.0, -1.5, 1.0]), 6.0
    box = np.concatenate([center - radius, center + radius])[None]
    (moved,) = placement.move_boxes(box, hull=False)
    inside = ((source_points(placement) - center) ** 2).sum(axis=-1) < radius**2
    index = np.argwhere(inside)
    seen = np.concatenate([index.min(axis=0), index.max(axis=0) + 1])
    assert np.abs(moved - seen).max() < 1.0
    (hull,) = placement.move_boxes(box, hull=True)
    corners = np.array(np.meshgrid(*np.reshape(box, (2, 3)).T)).reshape(3, -1).T
    patch = (corners - placement.center) @ inverse.T + 20
    assert np.allclose(hull, np.concatenate([patch.min(axis=0), patch.max(axis=0)]))


def test_moving_no_boxes_gives_none() -> None:
    assert placement_of(0).move_boxes(np.zeros((0, 6)), hull=True).shape == (0, 6)


def test_zoom_is_length_in_the_patch_over_length_in_the_scan() -> None:
    placement = Placement(np.diag([0.5, -0.5, 0.5]), np.zeros(3), (4, 4, 4), False)
    assert placement.zoom == pytest.approx(2.0)


def test_drawn_maps_keep_angles_and_the_range_of_scales() -> None:
    scales = []
    for seed in range(50):
        matrix, aligned = draw_matrix(TURNED, np.random.default_rng(seed))
        square = matrix.T @ matrix
        assert np.allclose(square, square[0, 0] * np.eye(3))
        assert not aligned
        scales.append(square[0, 0] ** -0.5)
    assert 0.7 <= min(scales) < 0.8
    assert 1.3 < max(scales) <= 1.4


def test_without_augmentation_nothing_moves() -> None:
    still = AugmentConfig(flip=False, spatial_probability=0.0)
    matrix, aligned = draw_matrix(still, np.random.default_rng(0))
    assert aligned
    assert np.array_equal(matrix, np.eye(3))


def test_nothing_is_drawn_without_a_chance() -> None:
    config = AugmentConfig(intensity_probability=0.0, thick_slices_probability=0.0)
    change = draw_intensities(config, 1.0, 1000, np.random.default_rng(0))
    assert change == IntensityChange(noise_start=change.noise_start)
    assert not change.smears


def test_each_change_has_its_chance_and_its_range() -> None:
    config = AugmentConfig()
    draws = [draw_intensities(config, 0.5, 1000, np.random.default_rng(k)) for k in range(2000)]
    ranges = {
        "slice_vox": (2, 8), "blur_vox": (0.0, 2.0), "contrast": config.contrast,
        "gamma": config.gamma, "shift_hu": (-30, 30), "noise_hu": (-25, 25),
    }  # fmt: skip
    for name, (low, high) in ranges.items():
        neutral = getattr(IntensityChange(), name)
        drawn = [v for v in (getattr(one, name) for one in draws) if v != neutral]
        # a thickness of one voxel, one in fifteen, is no change
        chance = 0.15 * 14 / 15 if name == "slice_vox" else 0.5
        assert len(drawn) / 2000 == pytest.approx(chance, abs=0.035), name
        assert low <= min(drawn) < low + 0.1 * (high - low), name
        assert high - 0.1 * (high - low) < max(drawn) <= high, name
    starts = [one.noise_start for one in draws]
    assert 0 <= min(starts) < 10
    assert 990 < max(starts) <= 1000


@pytest.mark.parametrize("sigma", [0.3, 0.8, 1.7])
def test_taps_of_a_blur_sum_to_one(sigma: float) -> None:
    taps = blur_taps(sigma)
    assert len(taps) == np.ceil(BLUR_REACH * sigma) + 1
    assert 2 * taps.sum() - taps[0] == pytest.approx(1)
    assert blur_taps(0.05).tolist() == [1]
