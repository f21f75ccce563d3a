"""NIfTI headers that ITK passes over in silence, written byte by byte."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from ct_series import body, refused, warned

from osteomet.errors import GeometryError, InputError
from osteomet.io import nifti as checks
from osteomet.io.scan import read_scan
from osteomet.volume import Volume

UPRIGHT = np.array([[-0.8, 0, 0, 5], [0, -0.75, 0, 6], [0, 0, 2.5, 7.0]])


def nifti(
    path: Path,
    *,
    volume: Volume | None = None,
    order: str = "<",
    sform: np.ndarray = UPRIGHT,
    codes: tuple[int, int] = (0, 1),
    slope: tuple[float, float] = (1.0, 0.0),
) -> Path:
    """Write the test patient with a NIfTI-1 header of our own, its qform at the origin."""
    voxels = (body() if volume is None else volume).voxels
    header = bytearray(352)
    struct.pack_into(f"{order}i", header, 0, 348)
    struct.pack_into(f"{order}8h", header, 40, 3, *voxels.shape[::-1], 1, 1, 1, 1)
    kind = (4, 16) if voxels.dtype == np.int16 else (16, 32)
    struct.pack_into(f"{order}2h", header, 70, *kind)
    struct.pack_into(f"{order}4f", header, 76, 1, 0.8, 0.75, 2.5)
    struct.pack_into(f"{order}3f", header, 108, 352, *slope)
    header[123] = 2  # mm
    struct.pack_into(f"{order}2h", header, 252, *codes)
    struct.pack_into(f"{order}12f", header, 280, *sform.ravel())
    header[344:348] = b"n+1\0"
    content = bytes(header) + voxels.astype(voxels.dtype.newbyteorder(order)).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_ras_becomes_lps(tmp_path: Path, order: str, name: str) -> None:
    scan = read_scan(nifti(tmp_path / name, order=order))
    np.testing.assert_array_equal(scan.volume.voxels, body().voxels)
    np.testing.assert_allclose(
        scan.volume.affine,
        [[0, 0, 0.8, -5], [0, 0.75, 0, -6], [2.5, 0, 0, 7], [0, 0, 0, 1]],
        atol=1e-6,
    )
    assert scan.warnings == ()


def test_slope_and_intercept(tmp_path: Path) -> None:
    scan = read_scan(nifti(tmp_path / "scan.nii.gz", slope=(1.0, -24.0)))
    np.testing.assert_array_equal(scan.volume.voxels, body().voxels - 24)
    assert scan.volume.voxels.dtype == np.int16


def test_an_uncompressed_file_may_be_called_gz(tmp_path: Path) -> None:
    path = nifti(tmp_path / "scan.nii").rename(tmp_path / "scan.nii.gz")
    np.testing.assert_array_equal(read_scan(path).volume.voxels, body().voxels)


@pytest.mark.parametrize("place", [0.5, 0.99])
def test_a_flipped_bit_is_found(tmp_path: Path, place: float) -> None:
    path = nifti(tmp_path / "scan.nii.gz")
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 0x10
    path.write_bytes(content)
    refused(path, InputError, "truncated or damaged")


def test_truncation_says_how_much_is_there(tmp_path: Path) -> None:
    path = nifti(tmp_path / "scan.nii")
    path.write_bytes(path.read_bytes()[:-1000])
    refused(path, InputError, "5688 of 6688 bytes")
    path.write_bytes(path.read_bytes()[:20])
    refused(path, InputError, "truncated or damaged")
    path.write_bytes(b"")
    refused(path, InputError)


def test_axes_that_are_not_orthogonal_are_refused(tmp_path: Path) -> None:
    sheared = UPRIGHT.copy()
    sheared[0, 1] = 0.1
    refused(nifti(tmp_path / "scan.nii.gz", sform=sheared), GeometryError, "not orthogonal", "0.13")


def test_axes_off_by_a_rounding_error_are_read(tmp_path: Path) -> None:
    rounded = UPRIGHT.copy()
    rounded[0, 1] = 0.0004
    scan = read_scan(nifti(tmp_path / "scan.nii.gz", sform=rounded))
    np.testing.assert_allclose(scan.volume.affine[:3, 3], [-5, -6, 7], atol=1e-3)
    np.testing.assert_allclose(scan.volume.spacing_zyx_mm, (2.5, 0.75, 0.8), atol=1e-3)


def test_axes_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    for value in (np.nan, 0.0):
        damaged = UPRIGHT.copy()
        damaged[:, 0] = value
        refused(nifti(tmp_path / "scan.nii.gz", sform=damaged), GeometryError)


def test_no_orientation_is_a_warning(tmp_path: Path) -> None:
    scan = read_scan(nifti(tmp_path / "scan.nii.gz", codes=(0, 0)))
    warned(scan, "does not say how the axes lie")
    np.testing.assert_allclose(scan.volume.spacing_zyx_mm, (2.5, 0.75, 0.8), atol=1e-6)


def test_qform_and_sform_that_disagree_are_a_warning(tmp_path: Path) -> None:
    scan = read_scan(nifti(tmp_path / "scan.nii.gz", codes=(1, 2)))
    warned(scan, "qform and sform")


@pytest.mark.parametrize("order", "<>")
def test_what_is_no_number_is_air_and_not_the_water_that_itk_makes_of_it(
    tmp_path: Path, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "CHUNK", 1024)
    voxels = body().voxels.astype(np.float32)
    voxels[0, 0, 0] = voxels[3, 4, 5] = np.nan
    voxels[7, 21, 17] = np.inf
    scan = read_scan(
        nifti(tmp_path / "scan.nii.gz", volume=body().with_voxels(voxels), order=order)
    )
    expected = body().voxels.copy()
    expected[[0, 3, 7], [0, 4, 21], [0, 5, 17]] = -1024
    np.testing.assert_array_equal(scan.volume.voxels, expected)
    warned(scan, "3 voxels are not a number")
