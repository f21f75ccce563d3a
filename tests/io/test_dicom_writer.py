"""The writer makes series that SimpleITK, a reader that is not ours, reads the same."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from ct_series import PATIENT, body, files_of, rotated, write
from pydicom import dcmread
from pydicom.uid import CTImageStorage

from osteomet.errors import ReportError
from osteomet.io.dicom_writer import write_ct_series
from osteomet.volume import Volume

REQUIRED = [
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "Modality",
    "Manufacturer",
    "ReferringPhysicianName",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "StudyID",
    "SeriesNumber",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "ImageType",
    "AcquisitionNumber",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "KVP",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleIntercept",
    "RescaleSlope",
    "PixelData",
    "PatientPosition",
]
"""Types 1 and 2 of the modules of CT Image Storage (PS3.3 A.3)."""


def test_slices_have_what_the_standard_requires(tmp_path: Path) -> None:
    folder = write(tmp_path / "ct")
    for number, file in enumerate(files_of(folder), start=1):
        dataset = dcmread(file)
        missing = [keyword for keyword in REQUIRED if keyword not in dataset]
        assert missing == []
        assert dataset.SOPClassUID == CTImageStorage
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        assert dataset.InstanceNumber == number
        assert dataset.PatientID == PATIENT


@pytest.mark.parametrize("volume", [body(), rotated(body(), (25.0, 10.0))])
def test_simpleitk_reads_the_same(tmp_path: Path, volume: Volume) -> None:
    folder = write(tmp_path / "ct", volume)
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), volume.voxels)
    np.testing.assert_allclose(image.GetOrigin(), volume.affine[:3, 3], atol=1e-5)
    np.testing.assert_allclose(image.GetSpacing(), volume.spacing_zyx_mm[::-1], atol=1e-5)
    axes = volume.affine[:3, 2::-1] / image.GetSpacing()
    np.testing.assert_allclose(np.reshape(image.GetDirection(), (3, 3)), axes, atol=1e-5)


def test_the_same_volume_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one"), write(tmp_path / "two")
    assert [f.read_bytes() for f in files_of(one)] == [f.read_bytes() for f in files_of(two)]


def test_seed_and_description_tell_series_apart(tmp_path: Path) -> None:
    def uids(name: str, **options: str) -> tuple[str, str]:
        dataset = dcmread(files_of(write(tmp_path / name, **options))[0])
        return dataset.StudyInstanceUID, dataset.SeriesInstanceUID

    base, described, seeded = uids("a"), uids("b", description="thin"), uids("c", seed="1")
    assert base[0] == described[0] != seeded[0]
    assert len({base[1], described[1], seeded[1]}) == 3


def test_the_uid_is_returned(tmp_path: Path) -> None:
    uid = write_ct_series(body(), tmp_path / "ct", patient_id="P1")
    assert uid == dcmread(files_of(tmp_path / "ct")[0]).SeriesInstanceUID


def test_values_below_air_and_fractions(tmp_path: Path) -> None:
    volume = body().with_voxels(body().voxels + np.float32(0.4))
    volume.voxels[0, 0, 0] = -1200.3
    image = sitk.ReadImage(str(files_of(write(tmp_path / "ct", volume))[0]))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image)[0], np.rint(volume.voxels[0]))


def test_values_that_16_bits_cannot_hold_are_refused(tmp_path: Path) -> None:
    volume = body().with_voxels(body().voxels.astype(np.int32))
    volume.voxels[0, 0, 0] = 70_000
    with pytest.raises(ReportError, match="70000"):
        write(tmp_path / "ct", volume)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "ct").mkdir()
    (tmp_path / "ct" / "mine").touch()
    with pytest.raises(ReportError, match="not empty"):
        write(tmp_path / "ct")
    assert [file.name for file in (tmp_path / "ct").iterdir()] == ["mine"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "ct").mkdir()
    assert len(files_of(write(tmp_path / "ct"))) == 8


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ReportError, match="cannot be written"):
        write(tmp_path / "file" / "ct")
    (tmp_path / "ct").touch()
    with pytest.raises(ReportError):
        write(tmp_path / "ct")
