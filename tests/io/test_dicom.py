"""A DICOM series from any place, stacked any way, gives the scan that was written."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from ct_series import (
    assert_same_scan,
    body,
    edit,
    field_at,
    files_of,
    linear_field,
    refused,
    reversed_slices,
    rotated,
    transposed,
    warned,
    write,
)
from pydicom import Dataset, dcmread

from osteomet.errors import GeometryError, InputError
from osteomet.io.scan import read_scan
from osteomet.io.volumes import write_volume
from osteomet.volume import Volume

STACKS = {
    "axial": body(),
    "reversed": reversed_slices(body()),
    "sagittal": transposed(body(), (2, 0, 1)),
    "coronal": transposed(body(), (1, 0, 2)),
    "oblique": rotated(body(), (20.0, 15.0)),
    "steep": rotated(body(), (100.0, 40.0)),
}


@pytest.mark.parametrize("name", STACKS)
def test_every_stack_is_the_same_scan_as_its_nifti(tmp_path: Path, name: str) -> None:
    volume = STACKS[name]
    write_volume(tmp_path / "scan.nii.gz", volume)
    from_dicom = read_scan(write(tmp_path / "dicom", volume))
    assert_same_scan(from_dicom.volume, volume)
    assert_same_scan(from_dicom.volume, read_scan(tmp_path / "scan.nii.gz").volume)
    assert from_dicom.volume.voxels.dtype == np.int16


def test_info_says_where_the_scan_came_from(tmp_path: Path) -> None:
    scan = read_scan(write(tmp_path / "ct", description="Thorax"))
    first = dcmread(files_of(tmp_path / "ct")[0])
    assert scan.warnings == (
        "the series has only 8 slices over 17.5 mm: most of a lesion may lie outside",
    )
    assert scan.info.source == "ct"
    assert scan.info.format == "dicom"
    assert scan.info.series_uid == first.SeriesInstanceUID
    assert scan.info.study_uid == first.StudyInstanceUID
    assert scan.info.frame_of_reference_uid == first.FrameOfReferenceUID
    assert scan.info.description == "Thorax"
    assert scan.info.chosen_because is None
    assert scan.info.shape_zyx == scan.volume.shape
    np.testing.assert_array_equal(scan.info.affine_lps, scan.volume.affine)
    assert "Doe" not in scan.info.model_dump_json()


def test_a_whole_scan_has_no_warnings(tmp_path: Path) -> None:
    assert read_scan(write(tmp_path / "ct", body((12, 22, 18)))).warnings == ()


def test_folders_are_searched_and_other_files_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "study" / "series")
    (tmp_path / "study" / "series" / "sub").mkdir()
    shutil.move(files_of(tmp_path / "study" / "series")[3], tmp_path / "study" / "series" / "sub")
    (tmp_path / "notes.txt").write_text("not DICOM")
    (tmp_path / "empty").touch()
    (tmp_path / "study" / "picture.png").write_bytes(b"\x89PNG" + bytes(300))
    assert_same_scan(read_scan(tmp_path).volume, body())


def test_one_file_stands_for_its_series_in_its_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "ct")
    for file in files_of(write(tmp_path / "other", body((12, 22, 18)), description="other")):
        shutil.move(file, folder / f"other_{file.name}")
    scan = read_scan(folder / "0003.dcm")
    assert_same_scan(scan.volume, body())
    assert scan.info.source == "0003.dcm"


def test_a_file_without_its_series_is_refused(tmp_path: Path) -> None:
    lone = tmp_path / "lone.dcm"
    shutil.copy(files_of(write(tmp_path / "ct"))[0], lone)
    refused(lone, GeometryError, "1 slice;", "at least 3", "whole series")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip(tmp_path: Path, compression: int) -> None:
    folder = write(tmp_path / "ct")
    with zipfile.ZipFile(tmp_path / "ct.zip", "w", compression) as archive:
        archive.writestr("__MACOSX/._0001.dcm", b"junk")
        archive.writestr("README", b"hello")
        for file in files_of(folder):
            archive.write(file, f"study/{file.name}")
    assert_same_scan(read_scan(tmp_path / "ct.zip").volume, body())


def test_zip_members_cannot_leave_the_archive(tmp_path: Path) -> None:
    folder = write(tmp_path / "a" / "ct")
    with zipfile.ZipFile(tmp_path / "a" / "evil.zip", "w") as archive:
        for file in files_of(folder):
            archive.write(file, f"../../{file.name}")
    before = sorted(tmp_path.rglob("*"))
    assert_same_scan(read_scan(tmp_path / "a" / "evil.zip").volume, body())
    assert sorted(tmp_path.rglob("*")) == before


def test_encrypted_and_damaged_zips_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ct.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files_of(write(tmp_path / "ct")):
            archive.write(file, file.name)
    whole = bytearray(path.read_bytes())
    broken = whole.copy()
    broken[broken.index(b"PK\x03\x04", 5000) - 9] ^= 0xFF  # inside the pixels of a member
    path.write_bytes(broken)
    refused(path, GeometryError, "missing", "1 file cannot be read", ".dcm")
    entry = whole.index(b"PK\x01\x02")
    whole[entry + 8] |= 1
    path.write_bytes(whole)
    refused(path, InputError, "encrypted", "unpack")
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, InputError, "is no DICOM image")


def test_what_is_not_there_or_is_no_scan(tmp_path: Path) -> None:
    refused(tmp_path / "missing", InputError, "no such file or folder")
    refused(tmp_path, InputError, "no DICOM image", "expected")
    (tmp_path / "scan.txt").write_text("hello")
    refused(tmp_path / "scan.txt", InputError, "is no DICOM image", "NIfTI")


def test_a_dicomdir_stands_for_its_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "disc")
    directory = Dataset()
    directory.DirectoryRecordSequence = []
    directory.file_meta = dcmread(files_of(folder)[0]).file_meta
    directory.save_as(folder / "DICOMDIR")
    assert_same_scan(read_scan(folder / "DICOMDIR").volume, body())


def test_files_without_preamble(tmp_path: Path) -> None:
    folder = write(tmp_path / "ct")
    for file in files_of(folder):
        dataset = dcmread(file)
        del dataset.file_meta
        dataset.preamble = None
        dataset.save_as(file, implicit_vr=True, little_endian=True)
    assert_same_scan(read_scan(folder).volume, body())


def test_gantry_tilt_is_moved_upright(tmp_path: Path) -> None:
    """Oracle: HU linear in the world, which linear interpolation reproduces exactly."""
    upright = linear_field()
    slope = np.array([0.3, -0.15])  # mm sideways per mm: along columns and along rows
    lean = np.array([slope[1], slope[0], 0.0]) * 2.0

    def tilt(dataset: Dataset, index: int) -> None:
        position = np.array(dataset.ImagePositionPatient, float) + index * lean
        dataset.ImagePositionPatient = [f"{value:.10g}" for value in position]
        here = upright.affine.copy()
        here[:3, 3] = position
        plane = field_at(Volume(np.zeros((1, *upright.shape[1:])), here))[0]
        dataset.PixelData = np.rint(plane + 1024).astype("<u2").tobytes()

    scan = read_scan(edit(write(tmp_path / "ct", upright), tilt))
    angle = np.degrees(np.arctan(np.hypot(*slope)))
    warned(scan, f"gantry tilt of {angle:.1f} degrees")
    volume = scan.volume
    np.testing.assert_allclose(volume.spacing_zyx_mm, upright.spacing_zyx_mm)
    inside = np.zeros(volume.shape, bool)
    first = volume.world_to_index(upright.affine[None, :3, 3])[0]
    for k in range(volume.shape[0]):
        low = first[1:] + k * lean[1::-1] / volume.spacing_zyx_mm[1:]
        top, left = np.ceil(low).astype(int)
        bottom, right = np.floor(low + upright.shape[1:] - np.ones(2)).astype(int) + 1
        inside[k, top:bottom, left:right] = True
    assert inside.mean() > 0.5
    assert np.abs(volume.voxels - field_at(volume))[inside].max() <= 1.0
    assert (volume.voxels[~inside] <= volume.voxels[inside].max()).all()
    assert volume.voxels.min() >= -1024


def test_a_lean_below_the_tolerance_stays_in_the_affine(tmp_path: Path) -> None:
    def lean(dataset: Dataset, index: int) -> None:
        x, y, z = map(float, dataset.ImagePositionPatient)
        dataset.ImagePositionPatient = [x + index * 0.002, y, z]

    scan = read_scan(edit(write(tmp_path / "ct", body((12, 22, 18))), lean))
    assert scan.warnings == ()
    np.testing.assert_array_equal(scan.volume.voxels, body((12, 22, 18)).voxels)
    assert scan.volume.affine[0, 0] == pytest.approx(0.002)


def test_slices_that_jump_sideways_are_put_in_line(tmp_path: Path) -> None:
    def jump(dataset: Dataset, index: int) -> None:
        x, y, z = map(float, dataset.ImagePositionPatient)
        dataset.ImagePositionPatient = [x + 1.6 * (index % 2), y, z]

    scan = read_scan(edit(write(tmp_path / "ct"), jump))
    warned(scan, "sideways", "1.6 mm")
    expected = body().voxels
    np.testing.assert_array_equal(scan.volume.voxels[::2, :, :-2], expected[::2])
    np.testing.assert_array_equal(scan.volume.voxels[1::2, :, 2:], expected[1::2])
    assert (scan.volume.voxels[1::2, :, :2] == -1024).all()


def test_slices_beside_each_other_are_refused(tmp_path: Path) -> None:
    def scatter(dataset: Dataset, index: int) -> None:
        x, y, z = map(float, dataset.ImagePositionPatient)
        dataset.ImagePositionPatient = [x + 50 * index, y, z]

    refused(edit(write(tmp_path / "ct"), scatter), GeometryError, "beside each other", "350 mm")


def test_missing_slices_are_refused_and_counted(tmp_path: Path) -> None:
    folder = write(tmp_path / "ct", body((16, 22, 18)))
    for name in ("0004.dcm", "0005.dcm", "0010.dcm"):
        (folder / name).unlink()
    refused(
        folder,
        GeometryError,
        "3 slices are missing",
        "2 between z = -295.5 and -288.0 mm (slices 3 and 4 of 13)",
        "1 between z = -280.5 and -275.5 mm",
        "2.50 mm",
    )


def test_two_increments_in_one_series_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "ct", body((16, 22, 18)))
    for index in range(8, 16, 2):
        files_of(folder)[-(16 - index)].unlink()
    refused(folder, GeometryError, "2.50 to 5.00 mm apart", "one increment")


def test_small_unevenness_is_read_as_it_is(tmp_path: Path) -> None:
    def wobble(dataset: Dataset, index: int) -> None:
        x, y, z = map(float, dataset.ImagePositionPatient)
        dataset.ImagePositionPatient = [x, y, z + 0.1 * (index == 3)]

    scan = read_scan(edit(write(tmp_path / "ct"), wobble))
    warned(scan, "0.10 mm off an even 2.50 mm")
    np.testing.assert_array_equal(scan.volume.voxels, body().voxels)


def test_unequal_steps_are_interpolated(tmp_path: Path) -> None:
    even = linear_field()

    def stretch(dataset: Dataset, index: int) -> None:
        x, y, z = map(float, dataset.ImagePositionPatient)
        moved = 0.6 * max(index - 4, 0)
        dataset.ImagePositionPatient = [x, y, z + moved]
        plane = field_at(even)[index] + 7 * moved
        dataset.PixelData = np.rint(plane + 1024).astype("<u2").tobytes()

    scan = read_scan(edit(write(tmp_path / "ct", even), stretch))
    warned(scan, "2.00 to 2.60 mm apart", "interpolated")
    assert scan.volume.spacing_zyx_mm[0] == pytest.approx((8 * 2.0 + 4 * 0.6) / 8)
    assert np.abs(scan.volume.voxels - field_at(scan.volume)).max() <= 1.0


def test_truncated_pixels_name_the_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "ct")
    file = files_of(folder)[4]
    file.write_bytes(file.read_bytes()[:-200])
    refused(folder, InputError, "0005.dcm", "truncated or damaged", "22 x 18 pixels")


def test_damaged_headers_are_named_with_the_gap_they_leave(tmp_path: Path) -> None:
    folder = write(tmp_path / "ct")
    file = files_of(folder)[4]
    file.write_bytes(file.read_bytes()[:200])
    refused(folder, GeometryError, "1 slice is missing", "0005.dcm")
    refused(file, InputError, "damaged DICOM")


def test_damaged_files_at_an_end_are_a_warning(tmp_path: Path) -> None:
    folder = write(tmp_path / "ct", body((12, 22, 18)))
    file = files_of(folder)[0]
    file.write_bytes(file.read_bytes()[:132] + b"\xff" * 40)
    scan = read_scan(folder)
    warned(scan, "0001.dcm", "left out")
    assert scan.volume.shape[0] == 11


def test_headers_without_a_place_are_refused(tmp_path: Path) -> None:
    def strip(dataset: Dataset, index: int) -> None:
        del dataset.ImagePositionPatient

    refused(
        edit(write(tmp_path / "ct"), strip), GeometryError, "no position", "ImagePositionPatient"
    )


def test_slices_that_all_lie_at_one_place_are_refused(tmp_path: Path) -> None:
    def pile(dataset: Dataset, index: int) -> None:
        dataset.ImagePositionPatient = [0, 0, 0]

    refused(edit(write(tmp_path / "ct"), pile), GeometryError, "1 slice in 8 images")


def test_pixels_without_a_size_are_refused(tmp_path: Path) -> None:
    def shrink(dataset: Dataset, index: int) -> None:
        dataset.PixelSpacing = [0, 0.8]

    refused(edit(write(tmp_path / "ct"), shrink), GeometryError, "PixelSpacing")


def test_a_folder_of_volumes_says_which_to_give(tmp_path: Path) -> None:
    write_volume(tmp_path / "scan.nii.gz", body())
    refused(tmp_path, InputError, "no DICOM image", "scan.nii.gz", "give the file itself")


def test_axes_that_are_no_axes_are_refused(tmp_path: Path) -> None:
    def skew(dataset: Dataset, index: int) -> None:
        dataset.ImageOrientationPatient = [1, 0, 0, 0.6, 0.8, 0]

    refused(edit(write(tmp_path / "ct"), skew), GeometryError, "perpendicular", "0.6")


def test_sizes_in_the_zip_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("osteomet.io.dicom_files.LARGEST_MEMBER_BYTES", 100)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(1000))
    refused(tmp_path / "bomb.zip", InputError, "unpacks to")
