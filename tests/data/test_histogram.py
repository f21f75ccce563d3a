"""Peaks, steps, clipping and noise are read off scans that were spoilt in a known way."""

import numpy as np
import pytest
import trunk_phantom as phantom
from scipy import ndimage

from osteomet.data.histogram import measure_hu


def test_peaks_of_a_trunk() -> None:
    hu = measure_hu(phantom.trunk().voxels)
    assert hu.air_hu == pytest.approx(phantom.AIR, abs=5)
    assert hu.fat_hu == pytest.approx(phantom.FAT, abs=5)
    assert hu.soft_tissue_hu == pytest.approx(phantom.MUSCLE, abs=5)
    assert hu.step_hu == pytest.approx(1, abs=0.3)
    assert (hu.low, hu.high) == (phantom.trunk().voxels.min(), phantom.trunk().voxels.max())


@pytest.mark.parametrize("shift", [-45, 30])
def test_peaks_move_with_the_scan(shift: int) -> None:
    before, after = (measure_hu(phantom.trunk().voxels + np.int16(by)) for by in (0, shift))
    assert before.fat_hu is not None
    assert before.air_hu is not None
    assert after.fat_hu == before.fat_hu + shift
    assert after.air_hu == before.air_hu + shift


def test_padding_is_no_air() -> None:
    voxels = phantom.trunk().voxels
    voxels[:, :8] = -1024
    assert measure_hu(voxels).air_hu == pytest.approx(phantom.AIR, abs=5)
    voxels[~phantom.skin()] = -1024
    assert measure_hu(voxels).air_hu is None


@pytest.mark.parametrize("noise_hu", [8.0, 15.0, 40.0])
def test_noise_is_what_was_added(noise_hu: float) -> None:
    hu = measure_hu(phantom.trunk(noise_hu=noise_hu).voxels)
    assert hu.noise_hu == pytest.approx(noise_hu, rel=0.12)
    assert hu.noise_grain == pytest.approx(0, abs=0.1)


def test_a_smooth_kernel_has_coarse_grain() -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=phantom.SHAPE), (0, 1, 1))
    voxels = phantom.trunk(noise_hu=0).voxels + 15 * noise / noise.std()
    hu = measure_hu(voxels.astype(np.float32))
    assert hu.noise_grain is not None
    assert hu.noise_grain > 0.5


def test_eight_bits_leave_steps() -> None:
    voxels = phantom.trunk().voxels.astype(float)
    coarse = np.rint((voxels + 1024) / 8) * 8 - 1024
    assert measure_hu(coarse.astype(np.int16)).step_hu == pytest.approx(8, rel=0.25)


def test_a_window_leaves_many_voxels_at_its_end() -> None:
    voxels = phantom.trunk().voxels
    assert measure_hu(voxels).at_high_share < 1e-4
    assert measure_hu(voxels.clip(-1024, 400)).at_high_share > 0.01


def test_air_alone_has_no_tissue_and_no_noise() -> None:
    hu = measure_hu(np.full((5, 6, 7), -1024, dtype=np.int16))
    assert (hu.air_hu, hu.fat_hu, hu.soft_tissue_hu, hu.noise_hu, hu.noise_grain) == (None,) * 5
