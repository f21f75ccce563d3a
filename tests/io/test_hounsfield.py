"""Values that cannot be HU are refused; the smallest exact type is kept."""

import numpy as np
import pytest

from osteomet.errors import NotCTError
from osteomet.io.hounsfield import settle


def values(*numbers: float, kind: type = np.float32) -> np.ndarray:
    return np.array(numbers, kind).reshape(1, 1, -1)


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.int64, np.float32, np.float64])
def test_whole_hu_become_int16(kind: type) -> None:
    settled, warnings = settle(values(-1000, 0, 1200, kind=kind))
    assert settled.dtype == np.int16
    assert settled.ravel().tolist() == [-1000, 0, 1200]
    assert warnings == ()


def test_fractions_stay_float32() -> None:
    settled, _ = settle(values(-1000.5, 0, 1200, kind=np.float64))
    assert settled.dtype == np.float32
    assert settled[0, 0, 0] == -1000.5


def test_int16_is_settled_in_place_and_read_only_arrays_are_copied() -> None:
    scan = values(-1000, -2000, 1200, kind=np.int16)
    assert np.shares_memory(settle(scan)[0], scan)
    assert scan.ravel().tolist() == [-1000, -1024, 1200]
    view = values(-1000, -2000, 1200, kind=np.int16)
    view.flags.writeable = False
    assert settle(view)[0].ravel().tolist() == [-1000, -1024, 1200]
    assert view[0, 0, 1] == -2000


def test_noise_and_metal_are_kept() -> None:
    settled, warnings = settle(values(-1207, 3382, kind=np.int32))
    assert settled.ravel().tolist() == [-1207, 3382]
    assert warnings == ()


def test_what_is_no_number_becomes_air() -> None:
    settled, warnings = settle(values(np.nan, np.inf, -np.inf, -900, 300))
    assert settled.ravel().tolist() == [-1024, -1024, -1024, -900, 300]
    assert settled.dtype == np.int16
    assert warnings == ("3 voxels are not a number: read as air (-1024 HU)",)


@pytest.mark.parametrize(
    ("numbers", "guess"),
    [
        ((0, 128, 255), "8-bit"),
        ((0.0, 0.3, 1.0), "normalised"),
        ((-2.5, 0, 4.0), "normalised"),
        ((0, 1024, 4095), "intercept"),
        ((7, 7, 7), "blank"),
        ((-3024, -3024, -3024), "blank"),
        ((np.nan, np.nan, np.nan), "blank"),
    ],
)
def test_values_that_are_no_hu_are_refused(numbers: tuple[float, ...], guess: str) -> None:
    with pytest.raises(NotCTError, match=guess):
        settle(values(*numbers))


def test_values_of_no_scanner_are_a_warning() -> None:
    settled, warnings = settle(values(-1000, 60000, kind=np.int32))
    assert settled.dtype == np.float32
    assert "60000 HU" in warnings[0]
