"""Torch in a batch against the compiled loops: the same lesions, the same images to rounding."""

import numpy as np
import pytest
import torch
from patch_placements import block_of, placement_of

from osteomet.config import PreprocessConfig
from osteomet.data import render_compiled
from osteomet.data.augment import IntensityChange, Placement, noise_supply
from osteomet.data.render_batch import (
    blur_matrix,
    change_intensities,
    lesion_extents,
    normalise,
    sample_image,
    sample_instances,
    slice_matrix,
)

WINDOW_HU = (-300.0, 1300.0)
CPU = torch.device("cpu")
FLIPPED = Placement(np.diag([-1.0, 1, -1]), np.array([30.0, 31, 32]), (20, 24, 28), True)
PLACEMENTS = [FLIPPED, *(placement_of(seed) for seed in range(4))]
NOTHING = IntensityChange()


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_images_equal_those_of_the_compiled_loops(placement: Placement) -> None:
    scan = np.random.default_rng(9).integers(-1000, 1000, (60, 60, 60)).astype(np.int16)
    block = block_of(scan, placement).copy()
    expected = render_compiled.sample_image(block, placement)
    image = sample_image(torch.from_numpy(block), placement)
    assert image.dtype == torch.float32
    assert np.abs(image.numpy() - expected).max() < (0.2 if not placement.aligned else 1e-9)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_lesions_equal_those_of_the_compiled_loops(placement: Placement) -> None:
    scan = np.zeros((60, 60, 60), dtype=np.int16)
    scan[22:30, 25:31, 20:35], scan[31:33, 30:40, 28:30], scan[2:4, 2:4, 2:4] = 7, 3, 5
    ids = np.array([3, 5, 7])
    boxes = np.array([[31, 30, 28, 33, 40, 30], [2, 2, 2, 4, 4, 4], [22, 25, 20, 30, 31, 35.0]])
    block = block_of(scan, placement).copy()
    expected, count, box = render_compiled.sample_lesions(block, placement, ids, boxes)
    instances = sample_instances(torch.from_numpy(block), placement, CPU)
    assert np.array_equal(instances.numpy(), expected)
    empty = sample_instances(None, placement, CPU)
    assert not empty.any()
    counts, extents = lesion_extents(torch.stack([empty, instances]), [ids[:0], ids])
    assert (counts[0].shape, extents[0].shape) == ((0,), (0, 6))
    assert np.array_equal(counts[1], count)
    assert np.array_equal(extents[1], box)


def test_a_batch_without_lesions_has_no_extents() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    counts, boxes = lesion_extents(torch.zeros(2, 4, 5, 6, dtype=torch.int16), [nothing, nothing])
    assert [len(one) for one in counts] == [0, 0]
    assert [one.shape for one in boxes] == [(0, 6), (0, 6)]


@pytest.mark.parametrize("n", [1, 5, 20])
@pytest.mark.parametrize("sigma", [0.0, 0.4, 1.9])
def test_blur_is_a_matrix_on_each_axis(n: int, sigma: float) -> None:
    hu = np.random.default_rng(0).normal(0, 300, (n, n, n)).astype(np.float32)
    matrix = blur_matrix(sigma, n)
    expected = np.einsum("az,by,cx,zyx->abc", matrix, matrix, matrix, hu, optimize=True)
    assert np.abs(render_compiled.blur(hu.copy(), sigma) - expected).max() < 1e-2
    assert np.allclose(matrix.sum(axis=1), 1)


@pytest.mark.parametrize("n", [1, 6, 14])
@pytest.mark.parametrize(("factor", "phase"), [(1, 0), (2, 1), (3, 0), (3, 7), (5, 3), (99, 40)])
def test_thick_slices_are_a_matrix(n: int, factor: int, phase: int) -> None:
    hu = np.random.default_rng(0).normal(0, 300, (n, 3, 2)).astype(np.float32)
    expected = np.tensordot(slice_matrix(factor, phase, n), hu, axes=1)
    result = render_compiled.thick_slices(hu, factor, phase)
    np.testing.assert_allclose(result, expected, atol=1e-3)


CHANGES = [
    NOTHING,
    IntensityChange(slice_vox=3, slice_phase=17),
    IntensityChange(blur_vox=0.9),
    IntensityChange(contrast=0.86, shift_hu=-20.0),
    IntensityChange(gamma=1.1),
    IntensityChange(gamma=0.9),
    IntensityChange(noise_hu=-20.0, noise_start=55),
    IntensityChange(3, 1, 0.6, 1.1, 1.05, 12.0, 9.0, 17),
]


def test_a_batch_is_changed_like_each_patch() -> None:
    shape = (18, 12, 14)
    noise = noise_supply(18 * 12 * 14)
    hu = np.random.default_rng(0).normal(200, 400, (len(CHANGES), *shape)).astype(np.float32)
    changed = change_intensities(
        torch.from_numpy(hu.copy()), CHANGES, WINDOW_HU, torch.from_numpy(noise)
    ).numpy()
    for k, change in enumerate(CHANGES):
        expected = render_compiled.change_intensities(hu[k].copy(), change, WINDOW_HU, noise)
        assert np.abs(changed[k] - expected).max() < 0.02, change
        assert change == NOTHING or np.abs(changed[k] - hu[k]).max() > 1
    assert np.array_equal(changed[0], hu[0])


def test_normalised_like_each_patch() -> None:
    config = PreprocessConfig(mean_hu=90.0, std_hu=70.0)
    hu = np.random.default_rng(0).normal(200, 600, (2, 8, 9, 10)).astype(np.float32)
    batch = normalise(torch.from_numpy(hu.copy()), config).numpy()
    for k in range(2):
        alone = render_compiled.normalise_in_place(hu[k].copy(), config)
        np.testing.assert_allclose(batch[k], alone, atol=1e-6)


def test_normalising_clips_then_scales() -> None:
    config = PreprocessConfig(window_hu=(-100.0, 500.0), mean_hu=100.0, std_hu=200.0)
    hu = torch.tensor([-1024, -100, 100, 500, 3000], dtype=torch.int16)
    assert normalise(hu, config).tolist() == [-1.0, -1.0, 0.0, 2.0, 2.0]
