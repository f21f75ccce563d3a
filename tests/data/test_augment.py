"""Image, instances and boxes of a patch move together, and compiled code equals plain code."""

import numpy as np
import pytest
from scipy import ndimage

from osteomet.config import AugmentConfig
from osteomet.data import augment
from osteomet.data.augment import (
    IntensityAugmentation,
    Placement,
    bend,
    blur,
    draw_matrix,
    sample_image,
    sample_instances,
    thick_slices,
)

WINDOW_HU = (-300.0, 1300.0)

TURNED = AugmentConfig(spatial_probability=1.0, rotate_degrees=40.0, scale=(0.7, 1.4))


def placement_of(seed: int, shape: tuple[int, int, int] = (20, 24, 28)) -> Placement:
    rng = np.random.default_rng(seed)
    matrix, aligned = draw_matrix(TURNED, rng)
    return Placement(matrix, rng.uniform(25, 35, 3), shape, aligned)


def source_points(placement: Placement) -> np.ndarray:
    """Edges of the scan at which the centres of a patch's voxels lie."""
    edges = np.stack(np.indices(placement.shape), axis=-1) + 0.5
    return (edges - np.array(placement.shape) / 2) @ placement.matrix.T + placement.center


def block_of(scan: np.ndarray, placement: Placement) -> np.ndarray:
    corner, size = placement.source_box()
    z, y, x = (slice(c, c + n) for c, n in zip(corner, size, strict=True))
    block = scan[z, y, x]
    assert block.shape == size
    return block


@pytest.fixture(params=[True, False], ids=["numba", "without-numba"])
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param and not augment.NUMBA_ENABLED:
        pytest.skip("numba is not installed")
    monkeypatch.setattr(augment, "NUMBA_ENABLED", request.param)
    return bool(request.param)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("seed", range(3))
def test_turned_patches_equal_interpolation_of_the_whole_scan(seed: int) -> None:
    scan = np.random.default_rng(9).integers(-1000, 1000, (60, 60, 60)).astype(np.int16)
    labels = np.random.default_rng(8).integers(0, 5, (60, 60, 60)).astype(np.int16)
    placement = placement_of(seed)
    points = np.moveaxis(source_points(placement) - 0.5, -1, 0)
    expected = ndimage.map_coordinates(scan.astype(float), points, order=1)
    image = sample_image(block_of(scan, placement), placement)
    assert image.dtype == np.float32
    assert np.abs(image - expected).max() < 0.2
    instances = sample_instances(block_of(labels, placement), placement)
    nearest = labels[tuple(np.floor(points + 0.5).astype(int))]
    assert (instances == nearest).mean() > 0.9999  # float32 may break a tie the other way


def test_flipped_patches_are_mirror_images() -> None:
    scan = np.random.default_rng(9).integers(-1000, 1000, (60, 60, 60)).astype(np.int16)
    placement = Placement(np.diag([-1.0, 1, -1]), np.array([30.0, 31, 32]), (20, 24, 28), True)
    expected = scan[20:40, 19:43, 18:46][::-1, :, ::-1]
    assert np.array_equal(sample_image(block_of(scan, placement), placement), expected)
    assert np.array_equal(sample_instances(block_of(scan, placement), placement), expected)


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


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("sigma", [0.3, 0.8, 1.7])
def test_blur_equals_scipy(sigma: float) -> None:
    hu = np.random.default_rng(0).normal(0, 300, (9, 11, 6)).astype(np.float32)
    expected = ndimage.gaussian_filter(
        hu.astype(float), sigma, mode="nearest", radius=int(np.ceil(2.5 * sigma))
    )
    assert np.abs(blur(hu.copy(), sigma) - expected).max() < 1e-2


def test_no_blur_returns_the_same_values() -> None:
    hu = np.random.default_rng(0).normal(0, 300, (5, 6, 7)).astype(np.float32)
    assert np.array_equal(blur(hu.copy(), 0.0), hu)


@pytest.mark.parametrize(
    "change",
    [
        {"noise_hu": 25.0},
        {"shift_hu": 30.0},
        {"blur_mm": 1.0},
        {"contrast": (0.85, 1.15)},
        {"gamma": (0.9, 1.1)},
        {"thick_slices_probability": 1.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_intensity_change_stays_in_its_range(change: dict[str, object]) -> None:
    none = {
        "noise_hu": 0.0,
        "shift_hu": 0.0,
        "blur_mm": 0.0,
        "contrast": (1.0, 1.0),
        "gamma": (1.0, 1.0),
        "thick_slices_probability": 0.0,
    }
    config = AugmentConfig.model_validate({**none, **change, "intensity_probability": 1.0})
    change_hu = IntensityAugmentation(config, 1.0, (24, 24, 24), WINDOW_HU)
    before = np.random.default_rng(0).normal(200, 100, (24, 24, 24)).astype(np.float32)
    moved = []
    for seed in range(20):
        after = change_hu(before.copy(), np.random.default_rng(seed))
        difference = after - before
        assert abs(difference.mean()) < (70 if "gamma" in change else 31)
        smears = "blur_mm" in change or "thick_slices_probability" in change
        assert difference.std() < (105 if smears else 27)
        moved.append(float(np.abs(difference).mean()))
    assert max(moved) > 5


def test_intensity_changes_have_their_chance() -> None:
    config = AugmentConfig(intensity_probability=0.0, thick_slices_probability=0.0)
    before = np.random.default_rng(1).normal(200, 100, (8, 8, 8)).astype(np.float32)
    change_hu = IntensityAugmentation(config, 1.0, (8, 8, 8), WINDOW_HU)
    assert np.array_equal(change_hu(before.copy(), np.random.default_rng(0)), before)


@pytest.mark.parametrize("phase", [0, 1, 2, 7])
def test_thick_slices_are_means_joined_by_lines(phase: int) -> None:
    hu = np.random.default_rng(0).normal(0, 300, (14, 3, 2)).astype(np.float32)
    runs = [range(max(k, 0), min(k + 3, 14)) for k in range(-(phase % 3), 14, 3)]
    middles = [k + 1 for k in range(-(phase % 3), 14, 3)]
    means = np.stack([hu[list(run)].mean(axis=0) for run in runs])
    expected = np.empty_like(hu)
    for y, x in np.ndindex(3, 2):
        expected[:, y, x] = np.interp(np.arange(14), middles, means[:, y, x])
    np.testing.assert_allclose(thick_slices(hu, 3, phase), expected, atol=1e-3)


def test_thin_slices_and_very_thick_ones() -> None:
    hu = np.random.default_rng(0).normal(0, 300, (6, 3, 2)).astype(np.float32)
    assert np.array_equal(thick_slices(hu, 1), hu)
    mean = np.broadcast_to(hu.mean(axis=0), hu.shape)
    np.testing.assert_allclose(thick_slices(hu, 99), mean, atol=1e-3)


def test_gamma_keeps_the_ends_of_the_window_and_all_beyond() -> None:
    hu = np.array([[[-1000.0, -300.0, 500.0, 1300.0, 3000.0]]], dtype=np.float32)
    bend(hu, 1.1, WINDOW_HU)
    expected = [-1000, -300, -300 + 1600 * 0.5**1.1, 1300, 3000]
    np.testing.assert_allclose(hu[0, 0], expected, atol=1e-2)
