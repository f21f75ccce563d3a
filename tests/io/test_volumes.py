"""NIfTI, NRRD and MetaImage: what was written is read, what is damaged is refused."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from ct_series import assert_same_scan, body, refused, reversed_slices, rotated, transposed, warned

from osteomet.errors import AnnotationError, GeometryError, InputError, NotCTError, ReportError
from osteomet.io.scan import read_scan
from osteomet.io.volumes import read_labels, read_volume, write_labels, write_volume
from osteomet.volume import Volume

SUFFIXES = {".nii": "nifti", ".nii.gz": "nifti", ".nrrd": "nrrd", ".mha": "metaimage"}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "volume",
    [body(), reversed_slices(body()), transposed(body(), (2, 0, 1)), rotated(body(), (20.0, 15.0))],
)
def test_round_trip(tmp_path: Path, suffix: str, volume: Volume) -> None:
    path = tmp_path / f"scan{suffix}"
    write_volume(path, volume)
    scan = read_scan(path)
    assert_same_scan(scan.volume, volume)
    np.testing.assert_allclose(scan.volume.affine, volume.affine, atol=2e-5)
    assert scan.info.format == SUFFIXES[suffix]
    assert scan.info.source == path.name
    assert scan.warnings == ()
    assert sorted(tmp_path.iterdir()) == [path]


def test_views_are_written_as_they_look(tmp_path: Path) -> None:
    flipped = rotated(body(), (170.0, 10.0)).closest_lps()
    assert not flipped.voxels.flags.c_contiguous
    write_volume(tmp_path / "scan.nii.gz", flipped)
    assert_same_scan(read_scan(tmp_path / "scan.nii.gz").volume, flipped)


@pytest.mark.parametrize("kind", [np.int32, np.float32, np.float64])
def test_whole_hu_of_any_type_become_int16(tmp_path: Path, kind: type) -> None:
    write_volume(tmp_path / "scan.nii.gz", body().with_voxels(body().voxels.astype(kind)))
    volume = read_scan(tmp_path / "scan.nii.gz").volume
    assert volume.voxels.dtype == np.int16
    np.testing.assert_array_equal(volume.voxels, body().voxels)
    assert volume.voxels.flags.writeable


def test_float_hu_stay_float(tmp_path: Path) -> None:
    write_volume(tmp_path / "scan.nii.gz", body().with_voxels(body().voxels + np.float32(0.25)))
    volume = read_scan(tmp_path / "scan.nii.gz").volume
    assert volume.voxels.dtype == np.float32
    np.testing.assert_array_equal(volume.voxels, body().voxels + np.float32(0.25))


def image_with(array: np.ndarray, path: Path, *, is_vector: bool = False) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=is_vector), str(path))
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_one_point_in_time_is_3d(tmp_path: Path, suffix: str) -> None:
    path = image_with(body().voxels[None], tmp_path / f"scan{suffix}")
    np.testing.assert_array_equal(read_scan(path).volume.voxels, body().voxels)


def test_what_is_not_one_scalar_volume_is_refused(tmp_path: Path) -> None:
    voxels = body().voxels
    refused(
        image_with(np.stack([voxels] * 2), tmp_path / "4d.nii.gz"),
        GeometryError,
        "18 x 22 x 8 x 2",
        "3D",
    )
    refused(image_with(voxels[0], tmp_path / "2d.mha"), GeometryError, "18 x 22", "3D")
    refused(
        image_with(voxels[:1], tmp_path / "thin.nrrd"), GeometryError, "18 x 22 x 1", "at least 3"
    )
    colours = np.stack([voxels] * 3, axis=-1)
    refused(
        image_with(colours, tmp_path / "rgb.mha", is_vector=True), NotCTError, "3 values a voxel"
    )


def test_values_that_are_no_hu_are_refused(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 6, 7)).astype(np.uint8)
    refused(image_with(picture, tmp_path / "mr.nii.gz"), NotCTError, "between 0 and 255", "8-bit")


def test_padding_and_nan_are_read_as_air_with_a_warning(tmp_path: Path) -> None:
    voxels = body().voxels.astype(np.float32)
    voxels[:, :2], voxels[0, 5, 5] = -3024, np.nan
    scan = read_scan(image_with(voxels, tmp_path / "scan.nii.gz"))
    assert (scan.volume.voxels[:, :2] == -1024).all()
    assert scan.volume.voxels.dtype == np.int16
    warned(scan, "padding")
    warned(scan, "1 voxels are not a number")


def test_what_cannot_be_read(tmp_path: Path) -> None:
    refused(tmp_path / "missing.nii.gz", InputError, "no such file")
    for name in ("junk.nii.gz", "junk.nii", "junk.nrrd", "junk.mha"):
        (tmp_path / name).write_bytes(b"this is no image" * 40)
        refused(tmp_path / name, InputError)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_truncated_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    write_volume(path, body())
    path.write_bytes(path.read_bytes()[:-100])
    refused(path, InputError)


def test_labels_keep_their_values_and_place(tmp_path: Path) -> None:
    labels = body().with_voxels(np.arange(8 * 22 * 18).reshape(8, 22, 18))
    write_labels(tmp_path / "labels.nii.gz", labels)
    found = read_labels(tmp_path / "labels.nii.gz")
    assert found.voxels.dtype == np.int16
    np.testing.assert_array_equal(found.voxels, labels.voxels)
    np.testing.assert_allclose(found.affine, labels.affine, atol=1e-5)
    assert (
        sitk.ReadImage(str(tmp_path / "labels.nii.gz"))
        .GetPixelIDTypeAsString()
        .startswith("16-bit")
    )


@pytest.mark.parametrize(
    ("largest", "pixels"),
    [(1, "8-bit un"), (300, "16-bit s"), (40_000, "16-bit un"), (70_000, "32-bit s")],
)
def test_labels_are_written_in_the_narrowest_type(
    tmp_path: Path, largest: int, pixels: str
) -> None:
    voxels = np.zeros((3, 4, 5), np.int64)
    voxels[1, 2, 3] = largest
    write_labels(tmp_path / "labels.nii.gz", Volume.from_spacing(voxels, (1.0, 1.0, 1.0)))
    image = sitk.ReadImage(str(tmp_path / "labels.nii.gz"))
    assert image.GetPixelIDTypeAsString().startswith(pixels)
    assert read_labels(tmp_path / "labels.nii.gz").voxels.max() == largest


def test_empty_label_maps_and_single_slices_are_fine(tmp_path: Path) -> None:
    write_labels(
        tmp_path / "a.nii.gz", Volume.from_spacing(np.zeros((1, 4, 5), np.int16), (1.0, 1.0, 1.0))
    )
    assert read_labels(tmp_path / "a.nii.gz").voxels.sum() == 0


def test_labels_stored_as_floats(tmp_path: Path) -> None:
    path = image_with(np.array([[[0.0, 2.0], [3.0, 0.0]]], np.float32), tmp_path / "labels.nii.gz")
    assert read_labels(path).voxels.ravel().tolist() == [0, 2, 3, 0]
    image_with(np.array([[[0.0, 0.5]]], np.float32), path)
    with pytest.raises(AnnotationError, match="fractions"):
        read_labels(path)


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scan.nii.gz"
    write_volume(path, body())

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr(sitk, "WriteImage", fail)
    with pytest.raises(ReportError, match="cannot be written"):
        write_volume(path, body(seed=1))
    monkeypatch.undo()
    np.testing.assert_array_equal(read_volume(path).volume.voxels, body().voxels)
    assert sorted(tmp_path.iterdir()) == [path]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="writable folder"):
        write_volume(tmp_path / "missing" / "scan.nii.gz", body())
    with pytest.raises(ReportError, match=r"\.nii\.gz"):
        write_volume(tmp_path / "scan.txt", body())
