"""Among several series: the thinnest axial CT of the body, and why."""

import shutil
from pathlib import Path

import numpy as np
from ct_series import (
    assert_same_scan,
    body,
    edit,
    files_of,
    refused,
    transposed,
    warned,
    write,
)
from pydicom import Dataset, dcmread
from pydicom.uid import SecondaryCaptureImageStorage, XRayRadiationDoseSRStorage, generate_uid

from osteomet.errors import GeometryError, InputError, NotCTError
from osteomet.io.scan import read_scan
from osteomet.volume import Volume


def with_spacing(count: int, step: float) -> Volume:
    return Volume.from_spacing(body((count, 22, 18)).voxels, (step, 0.75, 0.8))


def labelled(number: int, **attributes: object) -> object:
    def label(dataset: Dataset, index: int) -> None:
        dataset.SeriesNumber = number
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)

    return label


def series(folder: Path, number: int, volume: Volume, **attributes: object) -> Path:
    write(folder, volume, description=folder.name)
    return edit(folder, labelled(number, **attributes))  # type: ignore[arg-type]


def test_the_thinnest_axial_series_is_read_and_the_others_named(tmp_path: Path) -> None:
    series(tmp_path / "thick", 2, with_spacing(12, 5.0))
    series(tmp_path / "thin", 3, with_spacing(40, 1.5))
    series(tmp_path / "middle", 4, with_spacing(24, 2.5))
    scan = read_scan(tmp_path)
    assert scan.info.description == "thin"
    assert scan.info.chosen_because == (
        "series 3 'thin' was chosen of 3 series as the thinnest axial CT of the body (1.5 mm, 40 "
        "slices, 58 mm); left out: series 4 'middle' (axial, 2.5 mm, 24 slices), series 2 'thick' "
        "(axial, 5 mm, 12 slices)"
    )


def test_slice_thickness_counts_where_slices_overlap(tmp_path: Path) -> None:
    series(tmp_path / "overlapping", 1, with_spacing(60, 1.0), SliceThickness=5)
    series(tmp_path / "thin", 2, with_spacing(30, 2.0))
    assert read_scan(tmp_path).info.description == "thin"


def test_localizers_captures_dose_and_reformats_lose(tmp_path: Path) -> None:
    kept = with_spacing(12, 5.0)
    series(tmp_path / "wanted", 3, kept)
    series(
        tmp_path / "scout", 1, with_spacing(4, 1.0), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    series(tmp_path / "capture", 4, with_spacing(12, 1.0), SOPClassUID=SecondaryCaptureImageStorage)
    series(tmp_path / "sagittal", 5, transposed(body((20, 22, 18)), (2, 0, 1)))
    series(
        tmp_path / "mip",
        6,
        with_spacing(12, 1.0),
        ImageType=["DERIVED", "SECONDARY", "AXIAL", "MIP"],
    )
    series(tmp_path / "iodine", 7, with_spacing(12, 1.0), RescaleType="MGML")
    series(tmp_path / "mr", 8, with_spacing(12, 1.0), Modality="MR")
    series(tmp_path / "bolus", 9, with_spacing(2, 1.0))
    dose = tmp_path / "dose.dcm"
    shutil.copy(files_of(tmp_path / "wanted")[0], dose)
    dataset = dcmread(dose)
    dataset.Modality, dataset.SOPClassUID = "SR", XRayRadiationDoseSRStorage
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["dose"])
    dataset.SeriesNumber, dataset.SeriesDescription = 99, "Dose Report"
    del dataset.PixelData, dataset.Rows
    dataset.save_as(dose)
    scan = read_scan(tmp_path)
    assert_same_scan(scan.volume, kept)
    for words in (
        "series 1 'scout' (localizer)",
        "series 4 'capture' (secondary capture)",
        "series 5 'sagittal' (sagittal, 0.8 mm, 18 slices)",
        "series 6 'mip' (mip)",
        "series 7 'iodine' (in MGML, not HU)",
        "series 8 'mr' (modality MR)",
        "series 9 'bolus' (2 slices)",
        "series 99 'Dose Report' (modality SR)",
    ):
        assert words in str(scan.info.chosen_because), scan.info.chosen_because


def test_a_thin_series_of_a_small_region_loses(tmp_path: Path) -> None:
    series(tmp_path / "detail", 1, with_spacing(20, 0.5))
    series(tmp_path / "body", 2, with_spacing(30, 1.5))
    scan = read_scan(tmp_path)
    assert scan.info.description == "body"
    assert "series 1 'detail' (axial, 0.5 mm, 20 slices, only 10 mm long)" in str(
        scan.info.chosen_because
    )


def test_a_head_loses_to_a_body(tmp_path: Path) -> None:
    series(tmp_path / "head", 1, with_spacing(30, 1.0), BodyPartExamined="HEAD")
    series(tmp_path / "abdomen", 2, with_spacing(20, 3.0), BodyPartExamined="ABDOMEN")
    scan = read_scan(tmp_path)
    assert scan.info.description == "abdomen"
    assert "head)" in str(scan.info.chosen_because)


def test_a_head_alone_is_read(tmp_path: Path) -> None:
    series(tmp_path / "head", 1, with_spacing(30, 1.0), BodyPartExamined="HEAD")
    assert read_scan(tmp_path).info.description == "head"


def test_a_coronal_series_alone_is_read_with_a_warning(tmp_path: Path) -> None:
    volume = transposed(body((20, 22, 18)), (1, 0, 2))
    scan = read_scan(write(tmp_path / "ct", volume))
    assert_same_scan(scan.volume, volume)
    warned(scan, "coronal")


def test_the_choice_does_not_depend_on_file_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        series(tmp_path / name / "one", 1, with_spacing(12, 2.0))
        series(tmp_path / name / "two", 2, with_spacing(12, 2.0))
    for file in files_of(tmp_path / "b" / "one"):
        file.rename(file.with_name(f"z{file.name}"))
    (tmp_path / "b" / "one").rename(tmp_path / "b" / "zone")
    first, second = read_scan(tmp_path / "a"), read_scan(tmp_path / "b")
    assert first.info.series_uid == second.info.series_uid
    assert first.info.description == "one"


def test_a_series_is_chosen_by_uid(tmp_path: Path) -> None:
    series(tmp_path / "thin", 1, with_spacing(30, 1.0))
    series(tmp_path / "thick", 2, with_spacing(12, 5.0))
    uid = str(dcmread(files_of(tmp_path / "thick")[0]).SeriesInstanceUID)
    scan = read_scan(tmp_path, uid)
    assert scan.info.series_uid == uid
    assert scan.info.chosen_because == "chosen by its UID"


def test_an_unknown_uid_lists_what_is_there(tmp_path: Path) -> None:
    series(tmp_path / "thin", 1, with_spacing(30, 1.0))
    series(tmp_path / "mr", 2, with_spacing(12, 5.0), Modality="MR")
    uids = [str(dcmread(files_of(tmp_path / name)[0]).SeriesInstanceUID) for name in ("thin", "mr")]
    refused(
        tmp_path,
        InputError,
        "no series 1.2.3",
        f"{uids[0]} (CT, series 1 'thin', 30 images)",
        f"{uids[1]} (MR, series 2 'mr', 12 images)",
        uid="1.2.3",
    )
    refused(tmp_path, NotCTError, "series 2 'mr'", "modality MR", "expected CT", uid=uids[1])


def test_a_folder_without_ct_names_the_modality(tmp_path: Path) -> None:
    series(tmp_path / "mr", 1, body(), Modality="MR")
    refused(tmp_path, NotCTError, "series 1 'mr': modality MR; expected CT")
    series(tmp_path / "pet", 2, body(), Modality="PT")
    refused(tmp_path, NotCTError, "no CT scan", "modality MR", "modality PT")


def test_only_a_localizer(tmp_path: Path) -> None:
    series(tmp_path / "scout", 1, body(), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    refused(tmp_path, NotCTError, "series 1 'scout'", "localizer")


def test_localizers_inside_the_series_are_left_out(tmp_path: Path) -> None:
    folder = write(tmp_path / "ct")
    scout = transposed(body((6, 22, 18)), (1, 0, 2))
    for file in files_of(write(tmp_path / "scout", scout))[:2]:
        dataset = dcmread(file)
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        dataset.SeriesInstanceUID = dcmread(files_of(folder)[0]).SeriesInstanceUID
        dataset.save_as(folder / f"scout{file.name}")
    shutil.rmtree(tmp_path / "scout")
    scan = read_scan(folder)
    assert_same_scan(scan.volume, body())
    warned(scan, "2 images", "left out")


def test_too_few_slices(tmp_path: Path) -> None:
    refused(write(tmp_path / "ct", body((2, 22, 18))), GeometryError, "2 slices", "at least 3")


def test_several_patients_are_a_warning(tmp_path: Path) -> None:
    series(tmp_path / "one", 1, with_spacing(12, 1.0))
    series(tmp_path / "two", 2, with_spacing(12, 2.0), PatientID="Doe")
    warned(read_scan(tmp_path), "2 patients")


def test_anonymised_files_need_not_say_that_they_are_ct(tmp_path: Path) -> None:
    def strip(dataset: Dataset, index: int) -> None:
        del dataset.Modality, dataset.SOPClassUID

    scan = read_scan(edit(write(tmp_path / "ct"), strip))
    np.testing.assert_array_equal(scan.volume.voxels, body().voxels)


def test_a_damaged_series_does_not_stop_the_others(tmp_path: Path) -> None:
    series(tmp_path / "good", 1, with_spacing(12, 2.0))
    series(tmp_path / "bad", 2, with_spacing(12, 1.0), ImageOrientationPatient=[1, 0, 0, 1, 0, 0])
    scan = read_scan(tmp_path)
    assert scan.info.description == "good"
    assert "ImageOrientationPatient is [1.0, 0.0" in str(scan.info.chosen_because)
