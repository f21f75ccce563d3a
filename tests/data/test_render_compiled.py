"""Compiled loops against scipy and numpy, and images with their lesions moved together."""

import numpy as np
import pytest
import torch
from patch_placements import block_of, placement_of, source_points
from scipy import ndimage

from osteomet.config import PreprocessConfig
from osteomet.data.augment import IntensityChange, Placement, noise_supply
from osteomet.data.render_batch import normalise
from osteomet.data.render_compiled import (
    bend,
    blur,
    change_intensities,
    normalise_in_place,
    sample_image,
    sample_lesions,
    thick_slices,
)

WINDOW_HU = (-300.0, 1300.0)


@pytest.mark.parametrize("seed", range(3))
def test_turned_patches_equal_interpolation_of_the_whole_scan(seed: int) -> None:
    scan = np.random.default_rng(9).integers(-1000, 1000, (60, 60, 60)).astype(np.int16)
    placement = placement_of(seed)
    points = np.moveaxis(source_points(placement) - 0.5, -1, 0)
    expected = ndimage.map_coordinates(scan.astype(float), points, order=1)
    image = sample_image(block_of(scan, placement), placement)
    assert image.dtype == np.float32
    assert np.abs(image - expected).max() < 0.2


@pytest.mark.parametrize("seed", range(3))
def test_turned_lesions_equal_the_nearest_voxels_of_the_whole_scan(seed: int) -> None:
    scan = np.zeros((60, 60, 60), dtype=np.int16)
    scan[22:30, 25:31, 20:35], scan[31:33, 30:40, 28:30], scan[2:4, 2:4, 2:4] = 7, 3, 5
    scan[38:46, 32:40, 30:38][ball(4)] = 2
    ids = np.array([2, 3, 5, 7])
    boxes = np.array([box_of(scan == one) for one in ids], dtype=float)
    placement = placement_of(seed)
    points = np.moveaxis(source_points(placement) - 0.5, -1, 0)
    expected = ndimage.map_coordinates(scan, points, order=0)
    instances, counts, seen = sample_lesions(block_of(scan, placement), placement, ids, boxes)
    assert (instances != expected).sum() <= 2  # float32 may break a tie the other way
    assert counts.tolist() == [(instances == one).sum() for one in ids]
    assert counts[2] == 0 < counts[0]
    for count, box, one in zip(counts, seen, ids, strict=True):
        assert box.tolist() == (box_of(instances == one) if count else [0] * 6)


def ball(radius: int) -> np.ndarray:
    inside: np.ndarray = ((np.indices((2 * radius,) * 3) + 0.5 - radius) ** 2).sum(0) < radius**2
    return inside


def box_of(mask: np.ndarray) -> list[int]:
    index = np.argwhere(mask)
    return [*index.min(axis=0).tolist(), *(index.max(axis=0) + 1).tolist()]


def test_flipped_patches_are_mirror_images() -> None:
    scan = np.random.default_rng(9).integers(-1000, 1000, (60, 60, 60)).astype(np.int16)
    labels = (scan > 900).astype(np.int16)
    placement = Placement(np.diag([-1.0, 1, -1]), np.array([30.0, 31, 32]), (20, 24, 28), True)
    mirrored = (slice(39, 19, -1), slice(19, 43), slice(45, 17, -1))
    assert np.array_equal(sample_image(block_of(scan, placement), placement), scan[mirrored])
    everywhere = np.array([[0.0, 0, 0, 60, 60, 60]])
    instances, _, _ = sample_lesions(
        block_of(labels, placement), placement, np.array([1]), everywhere
    )
    assert np.array_equal(instances, labels[mirrored])


def test_no_lesions_are_an_empty_map() -> None:
    placement = placement_of(0)
    block = np.zeros(placement.source_box()[1], dtype=np.int16)
    instances, counts, boxes = sample_lesions(
        block, placement, np.zeros(0, dtype=np.int64), np.zeros((0, 6))
    )
    assert not instances.any()
    assert (counts.shape, boxes.shape) == ((0,), (0, 6))


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


def test_changes_come_in_a_scanners_order() -> None:
    hu = np.random.default_rng(0).normal(200, 200, (8, 9, 10)).astype(np.float32)
    change = IntensityChange(
        slice_vox=2, slice_phase=1, blur_vox=0.7, contrast=1.1, gamma=0.95,
        shift_hu=-12.0, noise_hu=-9.0, noise_start=100,
    )  # fmt: skip
    noise = noise_supply(hu.size)
    expected = blur(thick_slices(hu.copy(), 2, 1), 0.7) * np.float32(1.1)
    bend(expected, 0.95, WINDOW_HU)
    expected += -12 - 9 * noise[100 : 100 + hu.size].reshape(hu.shape)
    changed = change_intensities(hu.copy(), change, WINDOW_HU, noise)
    np.testing.assert_allclose(changed, expected, atol=1e-3)
    assert np.array_equal(change_intensities(hu.copy(), IntensityChange(), WINDOW_HU, noise), hu)


def test_normalised_as_at_inference() -> None:
    config = PreprocessConfig(mean_hu=90.0, std_hu=70.0)
    hu = np.random.default_rng(0).normal(200, 600, (8, 9, 10)).astype(np.float32)
    expected = normalise(torch.from_numpy(hu.copy()), config).numpy()
    np.testing.assert_allclose(normalise_in_place(hu.copy(), config), expected, atol=1e-5)
