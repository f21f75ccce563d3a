"""DICOM data sets: drawings are matched with their scans, and lesions stay where they were."""

import csv
from pathlib import Path

import numpy as np
import pytest
from ct_series import PATIENT, edit, files_of
from data_sets import LESION, OTHER, SHAPE, nnunet, put, scan, spreadsheet, table
from drawings import ring, write_rtstruct, write_seg
from pydicom import Dataset

from osteomet.data.adapters.spine_mets import levels
from osteomet.data.annotations import instances_on_scan, read_annotations
from osteomet.data.importing import Imported, import_cohort
from osteomet.data.manifest import Case, MaskKind, read_cohort
from osteomet.errors import InputError
from osteomet.findings import PrimaryTumour
from osteomet.io.dicom_writer import write_ct_series
from osteomet.io.scan import read_scan


def series(folder: Path, patient: str = PATIENT, description: str = "CT") -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_ct_series(scan(), folder, patient_id=patient, description=description)
    return folder


def part(where: tuple[slice, slice, slice]) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[where] = True
    return mask


def voxels(case: Case) -> np.ndarray:
    volume = read_scan(case.image).volume
    labels = volume.with_voxels(instances_on_scan(case, volume)[0])
    return labels.closest_lps().voxels


def check(result: Imported) -> list[Case]:
    """Load everything the way training does."""
    cases = read_cohort(result.cohort).cases
    for case in cases:
        read_annotations(case, read_scan(case.image).volume, 1.0)
    text = result.cohort.read_text(encoding="utf-8") + str(result.notes)
    assert not any(name in text for name in PATIENT.split("^"))
    return list(cases)


def both() -> np.ndarray:
    return part(LESION) + 2 * part(OTHER)


def test_segmentations_find_their_series(tmp_path: Path) -> None:
    """Two CT of one patient in one folder tree, the drawings elsewhere, one CT without any."""
    source = tmp_path / "set"
    first, second = (series(source / name, description=name) for name in ("thin", "thick"))
    series(source / "third", description="third")
    write_seg(source / "seg" / "1.dcm", first, {"Lesion": part(LESION) | part(OTHER)})
    write_seg(source / "seg" / "2.dcm", second, {"Lesion 1": part(LESION), "Lesion 2": part(OTHER)})
    result = import_cohort("dicom-seg", source, tmp_path / "out")
    cases = check(result)
    assert [case.image for case in cases] == [tmp_path / "out" / ".." / "set" / n for n in ("thick", "thin")][::-1]  # fmt: skip
    assert [case.mask_kind for case in cases] == [MaskKind.AUTO, MaskKind.INSTANCE]
    for case in cases:
        np.testing.assert_array_equal(voxels(case), both())
    assert cases[0].patient_id == cases[1].patient_id
    assert [note.outcome for note in result.notes] == ["skipped"]
    assert "without SEG" in result.notes[0].note


def test_one_folder_for_everything(tmp_path: Path) -> None:
    """Then the cohort points at a file of the series, and its neighbours of others are not read."""
    source = tmp_path / "set"
    first, second = (series(tmp_path / name, description=name) for name in ("a", "b"))
    source.mkdir()
    for name, folder in (("a", first), ("b", second)):
        write_seg(source / f"seg_{name}.dcm", folder, {"Lesion": part(LESION)})
        for file in files_of(folder):
            file.rename(source / f"{name}{file.name}")
    cases = check(import_cohort("dicom-seg", source, tmp_path / "out"))
    assert sorted(case.image.name for case in cases) == ["a0001.dcm", "b0001.dcm"]
    assert {read_scan(case.image).info.series_uid for case in cases} == {c.scan_id for c in cases}


def test_scattered_files_are_copied(tmp_path: Path) -> None:
    source = tmp_path / "set"
    folder = series(source / "a")
    write_seg(source / "seg.dcm", folder, {"Lesion": part(LESION)})
    (source / "b").mkdir()
    for file in files_of(folder)[::2]:
        file.rename(source / "b" / file.name)
    (case,) = check(import_cohort("dicom-seg", source, tmp_path / "out"))
    assert case.image.parent.name == "images"
    np.testing.assert_array_equal(read_scan(case.image).volume.voxels, scan().voxels)
    np.testing.assert_array_equal(voxels(case) > 0, part(LESION))


def test_contours_find_their_scan_by_frame_of_reference(tmp_path: Path) -> None:
    source = tmp_path / "set"
    folder = series(source / "ct")
    contours = [ring(scan(), k, (10.2, 8.1), 3.3) for k in (3, 4, 5)]
    write_rtstruct(source / "rs" / "rs.dcm", folder, {"GTV": contours}, series_uid="1.2.3")
    (case,) = check(import_cohort("dicom-rtstruct", source, tmp_path / "out"))
    assert voxels(case)[3:6].any(axis=(1, 2)).all()
    assert case.image.name == "ct"


def test_a_drawing_of_another_scan_is_skipped(tmp_path: Path) -> None:
    source = tmp_path / "set"
    here, away = series(source / "here", "P1"), series(tmp_path / "away", "P2")
    write_seg(source / "1.dcm", here, {"Lesion": part(LESION)})
    write_seg(source / "2.dcm", away, {"Lesion": part(LESION)})
    write_seg(source / "3.dcm", here, {"Liver": part(OTHER)}, lesions=False)
    result = import_cohort("dicom-seg", source, tmp_path / "out")
    (case,) = check(result)
    np.testing.assert_array_equal(voxels(case) > 0, part(LESION))
    assert any(n.scan == "2.dcm" and "no CT series that is here" in n.note for n in result.notes)
    assert any("Liver" in note.note and note.outcome == "used" for note in result.notes)


def test_no_drawings_at_all(tmp_path: Path) -> None:
    series(tmp_path / "set" / "ct")
    with pytest.raises(InputError, match=r"holds 1 DICOM series and none of modality RTSTRUCT"):
        import_cohort("dicom-rtstruct", tmp_path / "set", tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("T1, T2 T3, T4", "T1 T2 T3 T4"),
        ("L5;T12/ l1", "T12 L1 L5"),
        ("T11-L1 and s1", "T11 T12 L1 S1"),
        ("T 4 - 6", "T4 T5 T6"),
        ("C7 vertebra", "C7"),
        ("none", ""),
        ("", ""),
    ],
)
def test_levels_of_the_spine(text: str, expected: str) -> None:
    assert " ".join(levels(text)) == expected


def test_spine_mets(tmp_path: Path) -> None:
    source = tmp_path / "set"
    spreadsheet(
        source / "Spine-Mets-CT-SEG_Clinical.xlsx",
        (10, 61, "F", "Breast", "L1", "", "L1", ""),
        (20, 70, "M", "Lung, NSCLC", "T11, T12 L2", "T12", "", "L2"),
        (30, 50, "M", "Lung", "", "", "", ""),
    )
    names = {"T12 vertebra": part(LESION), "L1 vertebra": part(OTHER)}
    for patient in ("10", "20", "30", "40"):
        folder = series(source / patient / "study" / "ct", patient)
        write_seg(source / patient / "study" / "seg" / "1-1.dcm", folder, names, lesions=False)
    result = import_cohort("spine-mets", source, tmp_path / "out")
    first, second = check(result)
    np.testing.assert_array_equal(voxels(first) > 0, part(OTHER))
    np.testing.assert_array_equal(voxels(second) > 0, part(LESION))
    assert (first.primary, second.primary) == (PrimaryTumour.OTHER, PrimaryTumour.LUNG)
    assert (second.age, second.sex, second.mask_kind) == (70, "M", MaskKind.INSTANCE)
    assert second.lesions is not None
    with second.lesions.open(encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [{"label": "1", "level": "T12", "type": "sclerotic"}]
    reasons = {note.scan: note.note for note in result.notes}
    assert reasons["20"] == "T11, L2 have lesions and no segment: they count as background"
    assert "names no vertebra" in reasons["30"]
    assert "no row" in reasons["40"]


def test_myeloma_takes_lesions_and_not_vertebrae(tmp_path: Path) -> None:
    source = tmp_path / "set"
    for patient, label in (("Myel_001", "Lesions"), ("Myel_002", "Segment_1")):
        folder = series(source / patient / "ct", patient, f"{patient}_konv")
        write_seg(source / patient / "seg1" / "1.dcm", folder, {"T5": part(LESION)}, lesions=False)
        drawn = {label: part(LESION) | part(OTHER)}
        write_seg(source / patient / "seg2" / "1.dcm", folder, drawn)
    cases = check(import_cohort("myeloma", source, tmp_path / "out"))
    assert [case.scan_id for case in cases] == ["Myel_001", "Myel_002"]
    for case in cases:
        np.testing.assert_array_equal(voxels(case), both())
        assert case.primary is PrimaryTumour.OTHER


def test_autopet_of_the_challenge(tmp_path: Path) -> None:
    names = ("fdg_0011f3_2003", "fdg_0022aa_2004", "psma_95b8_2018")
    source = nnunet(tmp_path / "set", names, labels={"background": 0, "tumor": 1})
    in_air = part((slice(3, 6), slice(0, 2), slice(0, 3)))
    half = part((slice(7, 9), slice(1, 5), slice(6, 10)))
    for name in names:
        both_kinds = (part(LESION) | in_air | half).astype(np.int16)
        put(source / "labelsTr" / f"{name}.nii.gz", scan().with_voxels(both_kinds))
    rows = (
        "PETCT_0011f3,LUNG_CANCER,063Y,M",
        "PETCT_0022aa,NEGATIVE,70,F",
        "PETCT_0022aa,LYMPHOMA,71,F",
    )
    table(source / "fdg_metadata.csv", "Subject ID,diagnosis,age,sex", *rows)
    cases = check(import_cohort("autopet", source, tmp_path / "out"))
    assert [case.primary.value for case in cases] == ["lung", "other", "other"]
    assert (cases[0].age, cases[0].sex) == (63, "M")
    for case in cases:
        found = voxels(case) > 0
        assert found[LESION].mean() > 0.9
        assert not found[in_air].any()
        ignore = instances_on_scan(case, read_scan(case.image).volume)[1]
        assert ignore is not None or found[half].any()


def test_autopet_of_tcia(tmp_path: Path) -> None:
    """The drawing names the PET series, which is not there: its frame of reference is the CT's."""
    source = tmp_path / "set"
    folder = series(source / "PETCT_1" / "study" / "ct", "PETCT_1")
    path = write_seg(source / "PETCT_1" / "study" / "seg" / "1.dcm", folder, {"x": part(LESION)})

    def refer_to_pet(dataset: Dataset, _: int) -> None:
        dataset.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3"

    edit(path.parent, refer_to_pet)
    table(source / "fdg_metadata.csv", "Subject ID,diagnosis", "PETCT_1,LUNG_CANCER")
    (case,) = check(import_cohort("autopet", source, tmp_path / "out"))
    assert case.primary is PrimaryTumour.LUNG
    assert (voxels(case) > 0)[LESION].mean() > 0.9
