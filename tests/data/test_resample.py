"""Slab-wise resampling against one axis at a time in numpy."""

import numpy as np
import pytest
from scipy import ndimage

from osteomet.data import resample
from osteomet.data.resample import (
    AxisTaps,
    resample_linear,
    resample_occupancy,
    resample_slabs,
)


def linear_by_axis(
    values: np.ndarray, step: tuple[float, ...], shape: tuple[int, ...]
) -> np.ndarray:
    values = values.astype(np.float64)
    for axis in range(3):
        n = values.shape[axis]
        centers = ((np.arange(shape[axis]) + 0.5) * step[axis] - 0.5).clip(0, n - 1)
        low = np.floor(centers).astype(int)
        weight = np.expand_dims(centers - low, [a for a in range(3) if a != axis])
        high = np.minimum(low + 1, n - 1)
        values = values.take(low, axis) * (1 - weight) + values.take(high, axis) * weight
    return values


@pytest.mark.parametrize(
    ("step", "shape"),
    [
        ((0.4, 1.25, 1.25), (30, 14, 15)),
        ((1.0, 1.0, 1.0), (12, 17, 18)),
        ((1.4, 0.7, 0.3), (9, 25, 60)),
        ((0.1, 1.0, 1.5), (121, 17, 12)),
    ],
)
@pytest.mark.parametrize("slab_voxels", [600, 8_000_000])
def test_linear_resampling_equals_one_axis_at_a_time(
    step: tuple[float, float, float],
    shape: tuple[int, int, int],
    slab_voxels: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resample, "SLAB_VOXELS", slab_voxels)
    values = np.random.default_rng(0).integers(-1024, 3000, (12, 17, 18)).astype(np.int16)
    expected = linear_by_axis(values, step, shape)
    assert np.abs(resample_linear(values, step, shape) - expected).max() < 0.51


def test_any_strides_give_the_same() -> None:
    values = np.random.default_rng(0).integers(-1024, 3000, (9, 8, 7)).astype(np.int16)
    turned = np.flip(values.transpose(2, 0, 1), 1)
    step, shape = (0.8, 0.5, 1.3), (8, 18, 6)
    expected = resample_linear(np.ascontiguousarray(turned), step, shape)
    assert np.array_equal(resample_linear(turned, step, shape), expected)


@pytest.mark.parametrize(
    "step", [(4.0, 1.0, 1.0), (1.0, 4.0, 4.0), (4.0, 4.0, 4.0), (2.5, 3.0, 3.0)]
)
def test_shrinking_averages_so_that_no_slice_is_skipped(step: tuple[float, float, float]) -> None:
    values = np.zeros((24, 24, 24), dtype=np.int16)
    values[11, 11, 11] = 10_000
    z, y, x = (int(24 / s) for s in step)
    shrunk = resample_linear(values, step, (z, y, x))
    assert shrunk.sum() == pytest.approx(10_000 / np.prod(step), rel=0.08)


def test_a_constant_stays_one_beyond_the_border() -> None:
    values = np.full((3, 4, 5), -777, dtype=np.int16)
    assert (resample_linear(values, (2.2, 2.2, 2.2), (2, 2, 3)) == -777).all()


def test_float_hu_beyond_int16_are_clipped_not_wrapped() -> None:
    values = np.full((2, 2, 2), 1e6, dtype=np.float32)
    assert (resample_linear(values, (1.0, 1.0, 1.0), (2, 2, 2)) == 32767).all()


@pytest.mark.parametrize("step", [0.3, 1.0, 1.7, 6.0])
def test_weights_of_each_voxel_sum_to_one(step: float) -> None:
    n = max(1, round(20 / step))
    taps = AxisTaps.of(20, 0, n, step)
    assert taps.index.min() == 0
    assert np.allclose(taps.weight.sum(axis=0), np.ones(n))


def test_occupancy_equals_resampling_the_whole_mask() -> None:
    whole = np.zeros((14, 15, 16), dtype=np.int16)
    region = (slice(3, 8), slice(0, 6), slice(9, 16))
    mask = np.random.default_rng(1).random((5, 6, 7)) > 0.4
    whole[region] = mask * 1000
    step, target = (0.7, 1.3, 1.1), (slice(2, 14), slice(0, 8), slice(5, 15))
    filled = resample_occupancy(mask, region, (14, 15, 16), step, target)
    expected = linear_by_axis(whole, step, (20, 12, 15))[target]
    assert np.abs(filled * 1000 - expected).max() < 0.01


@pytest.mark.parametrize(
    ("shape", "spacing_mm"), [((20, 31, 27), (3.0, 0.9, 0.9)), ((25, 40, 36), (1.25, 0.7, 0.7))]
)
def test_linear_resampling_is_that_of_others(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> None:
    """nnU-Net and scikit-image resize to a shape through the same function of SciPy."""
    values = np.random.default_rng(0).integers(-1024, 3000, shape).astype(np.int16)
    target = tuple(round(n * s) for n, s in zip(shape, spacing_mm, strict=True))
    step = tuple(n / m for n, m in zip(shape, target, strict=True))
    centers = [(np.arange(n) + 0.5) * s - 0.5 for n, s in zip(target, step, strict=True)]
    grid = np.stack(np.meshgrid(*centers, indexing="ij"))
    expected = ndimage.map_coordinates(values.astype(float), grid, order=1, mode="nearest")
    (z, y, x), (dz, dy, dx) = target, step
    # Half a HU of rounding, and float32 against float64.
    assert np.abs(resample_linear(values, (dz, dy, dx), (z, y, x)) - expected).max() < 0.51


@pytest.mark.parametrize("step", [(0.4, 1.25, 0.9), (2.5, 3.0, 1.7), (1.0, 1.0, 1.0)])
@pytest.mark.parametrize("slab_voxels", [600, 8_000_000])
def test_a_window_is_that_part_of_the_whole(
    step: tuple[float, float, float], slab_voxels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).integers(-1024, 3000, (24, 33, 30)).astype(np.int16)
    z, y, x = (int(n / s) for n, s in zip(values.shape, step, strict=True))
    whole = resample_linear(values, step, (z, y, x))
    window = (slice(3, z - 1), slice(2, y // 2), slice(x // 3, x))
    monkeypatch.setattr(resample, "SLAB_VOXELS", slab_voxels)
    slabs = list(resample_slabs(values, step, window, multiple=4))
    assert all(len(slab) % 4 == 0 for slab in slabs[:-1])
    # Sums of the same products may be grouped otherwise.
    assert np.abs(np.concatenate(slabs).astype(int) - whole[window]).max() <= 1
    assert (np.concatenate(slabs) != whole[window]).mean() < 0.001
