"""Every format becomes a cohort that loads, with the lesions where they were."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from data_sets import (
    LESION,
    OTHER,
    SHAPE,
    blds,
    deeplesion,
    label_map,
    nndetection,
    nnunet,
    put,
    scan,
    table,
    uls23,
)
from typer.testing import CliRunner

from osteomet.cli.app import build_app
from osteomet.data.annotations import instances_on_scan, read_annotations
from osteomet.data.importing import FORMATS, Imported, import_cohort
from osteomet.data.manifest import Case, read_cohort
from osteomet.errors import AnnotationError, ConfigError, InputError
from osteomet.findings import PrimaryTumour
from osteomet.io.scan import read_scan


def voxels(case: Case) -> np.ndarray:
    """The lesions of a case as training and evaluation see them, on the axes of ``scan``."""
    volume = read_scan(case.image).volume
    read_annotations(case, volume, 1.0)
    labels = volume.with_voxels(instances_on_scan(case, volume)[0])
    return labels.closest_lps().voxels


def check(result: Imported) -> dict[str, Case]:
    """Load everything the way training does, and return the cases by scan_id."""
    cohort = read_cohort(result.cohort)
    assert cohort.cases == result.cases
    for case in cohort.cases:
        read_annotations(case, read_scan(case.image).volume, 1.0)
    assert not list(result.cohort.parent.rglob(".*"))
    return {case.scan_id: case for case in cohort.cases}


def two_lesions() -> np.ndarray:
    expected = np.zeros(SHAPE, dtype=int)
    expected[LESION], expected[OTHER] = 1, 2
    return expected


LAYOUTS = {
    "folders": ("images/a.nii.gz", "masks/a.nii.gz"),
    "decathlon": ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"),
    "suffixes": ("a_ct.nii.gz", "a_mask.nii.gz"),
    "cases": ("a/image.nrrd", "a/mask.nii.gz"),
    "words": ("a/ct.nii", "a/a_seg.mha"),
}


@pytest.mark.parametrize("layout", list(LAYOUTS)[:4])
def test_nifti_pairs(tmp_path: Path, layout: str) -> None:
    source = tmp_path / "set"
    image, mask = (source / name for name in LAYOUTS[layout])
    put(image, scan())
    put(mask, label_map())
    put(source / "b_ct.nii.gz", scan())
    result = import_cohort("nifti", source, tmp_path / "out")
    cases = check(result)
    np.testing.assert_array_equal(voxels(cases["a"]), two_lesions())
    assert cases["a"].primary is PrimaryTumour.UNKNOWN
    assert [(note.scan, note.outcome) for note in result.notes] == [("b", "skipped")]
    assert "1 scans and 0 masks" in result.notes[0].note
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cohort.csv", "notes.csv"]
    text = result.cohort.read_text(encoding="utf-8")
    assert f",../set/{LAYOUTS[layout][0]},../set/{LAYOUTS[layout][1]}," in text


def test_a_mask_on_another_grid_is_skipped(tmp_path: Path) -> None:
    put(tmp_path / "set" / "a_ct.nii.gz", scan())
    put(tmp_path / "set" / "a_mask.nii.gz", label_map())
    put(tmp_path / "set" / "b_ct.nii.gz", scan())
    moved = label_map()
    moved.affine[0, 3] += 5
    put(tmp_path / "set" / "b_mask.nii.gz", moved)
    (tmp_path / "set" / "c_ct.nii.gz").write_bytes(b"damaged")
    put(tmp_path / "set" / "c_mask.nii.gz", label_map())
    result = import_cohort("nifti", tmp_path / "set", tmp_path / "out")
    assert list(check(result)) == ["a"]
    reasons = {note.scan: note.note for note in result.notes}
    assert "5.00 mm from those of b_ct.nii.gz" in reasons["b"]
    assert "damaged" in reasons["c"]
    with (tmp_path / "out" / "notes.csv").open(encoding="utf-8") as file:
        assert {row["scan"] for row in csv.DictReader(file)} == {"b", "c"}


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    put(tmp_path / "set" / "a_ct.nii.gz", scan())
    with pytest.raises(
        InputError, match=r"no scan in the format nifti can be used \(1 were skipped"
    ):
        import_cohort("nifti", tmp_path / "set", tmp_path / "out")
    assert not (tmp_path / "out" / "cohort.csv").exists()


def test_nnunet_points_at_its_files(tmp_path: Path) -> None:
    result = import_cohort("nnunet", nnunet(tmp_path / "Dataset001_X"), tmp_path / "out")
    cases = check(result)
    np.testing.assert_array_equal(voxels(cases["b"]), two_lesions())
    assert cases["a"].centre == "Dataset001_X"
    assert cases["a"].split is None
    assert result.notes == ()
    assert not (tmp_path / "out" / "masks").exists()


def test_nnunet_with_organs_and_ignored_voxels(tmp_path: Path) -> None:
    labels = {"background": 0, "liver": 1, "tumour": 2, "ignore": 3}
    source = nnunet(
        tmp_path / "set",
        channel_names={"0": "PET", "1": "CT"},
        labels=labels,
        classification_labels={"primary_tumor_origin": {"0": "NSCLC", "1": "Breast carcinoma"}},
    )
    for name in "ab":
        put(source / "imagesTr" / f"{name}_0001.nii.gz", scan())
    put(source / "labelsTr" / "a.nii.gz", label_map(1, 2))
    put(source / "labelsTr" / "b.nii.gz", label_map(3, 2))
    table(source / "cls_data.csv", "identifier,label", "a,0", "b,1")
    cases = check(import_cohort("nnunet", source, tmp_path / "out"))
    expected = two_lesions() == 2
    np.testing.assert_array_equal(voxels(cases["a"]), expected)
    assert cases["a"].primary is PrimaryTumour.LUNG
    assert cases["b"].primary is PrimaryTumour.OTHER
    assert cases["a"].image.name == "a_0001.nii.gz"
    assert cases["a"].ignore is None
    assert cases["b"].ignore is not None
    ignore = instances_on_scan(cases["b"], read_scan(cases["b"].image).volume)[1]
    assert ignore is not None
    np.testing.assert_array_equal(ignore, two_lesions() == 1)


def test_decathlon(tmp_path: Path) -> None:
    source = nnunet(
        tmp_path / "Task01", ("x_1", "x_2", "x_3"), channel_names=None, modality={"0": "CT"}, labels={"0": "background", "1": "cancer"}
    )  # fmt: skip
    for path in list((source / "imagesTr").iterdir()):
        path.rename(path.with_name(path.name.replace("_0000", "")))
        put(path.with_name("._" + path.name), scan())
    put(source / "imagesTs" / "x_4.nii.gz", scan())
    put(source / "labelsTs" / "x_4.nii.gz", label_map())
    cases = check(import_cohort("msd", source, tmp_path / "out"))
    assert cases["x_4"].split == "test"
    assert {case.split for name, case in cases.items() if name != "x_4"} == {"train", "val"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channel_names": {"0": "T1"}}, "its channels are T1; expected one called CT"),
        ({"labels": {"background": 0, "liver": 1, "spleen": 2}}, "there are liver, spleen"),
        ({"labels": {"background": 0, "liver": "x"}}, "its labels cannot be read"),
    ],
)
def test_nnunet_that_is_of_no_use(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        import_cohort("nnunet", nnunet(tmp_path / "set", **settings), tmp_path / "out")


def test_nndetection(tmp_path: Path) -> None:
    cases = check(import_cohort("nndetection", nndetection(tmp_path / "Task1"), tmp_path / "out"))
    np.testing.assert_array_equal(voxels(cases["a"]), two_lesions())
    assert cases["a"].primary is PrimaryTumour.LUNG
    assert cases["b"].primary is PrimaryTumour.OTHER


def test_boxes_alone(tmp_path: Path) -> None:
    result = import_cohort("blds", blds(tmp_path / "set"), tmp_path / "out")
    cases = check(result)
    assert list(cases) == ["1", "2"]
    found = read_annotations(cases["2"], read_scan(cases["2"].image).volume, 1.0)
    assert len(found.boxes) == 2
    assert found.masks == ()
    assert [note.scan for note in result.notes] == ["3.nii.gz"]


def test_uls23_keeps_crops_of_a_patient_together(tmp_path: Path) -> None:
    cases = check(import_cohort("uls23", uls23(tmp_path / "set"), tmp_path / "out"))
    patients = [case.patient_id for case in cases.values()]
    assert patients == ["bone_00001", "bone_00001", "bone_00002"]
    for case in cases.values():
        np.testing.assert_array_equal(voxels(case), two_lesions() == 1)


def test_deeplesion(tmp_path: Path) -> None:
    result = import_cohort("deeplesion", deeplesion(tmp_path / "set"), tmp_path / "out")
    (case,) = check(result).values()
    volume = read_scan(case.image).volume
    np.testing.assert_array_equal(volume.closest_lps().voxels, scan().voxels)
    np.testing.assert_allclose(volume.spacing_zyx_mm, scan().spacing_zyx_mm)
    (box,) = volume.boxes_from_world(read_boxes(case, tmp_path))
    # 13 x 14 pixels less 5 on each side; slice 106 is the sixth from the head, fifth from the foot
    np.testing.assert_allclose(box[[1, 4]], [8.5, 12.5], atol=1e-3)
    np.testing.assert_allclose(box[[2, 5]], [6.5, 9.5], atol=1e-3)
    np.testing.assert_allclose(
        box[[0, 3]], 4.5 + np.array([-1, 1]) * 4.8 * 1.2 / 2.5 / 2, atol=1e-3
    )
    assert (case.patient_id, case.age, case.sex) == ("deeplesion_7", 63, "F")
    assert [note.scan for note in result.notes] == ["000009_01_01_050.png"]


def read_boxes(case: Case, folder: Path) -> np.ndarray:
    assert case.boxes is not None
    with case.boxes.open(encoding="utf-8") as file:
        return np.array([[float(v) for v in row.values()] for row in csv.DictReader(file)])


def test_a_table_of_patients(tmp_path: Path) -> None:
    source = nnunet(tmp_path / "set", ("a", "b", "c", "d"))
    rows = (
        "a,p1,Lung adenocarcinoma,north,64,F,train",
        "b,p1,,north,,,train",
        "c,p2,breast,south,,M,test",
    )
    patients = table(tmp_path / "p.csv", "scan_id,patient_id,primary,centre,age,sex,split", *rows)
    result = import_cohort("nnunet", source, tmp_path / "out", patients=patients)
    cases = check(result)
    assert [case.patient_id for case in cases.values()] == ["p1", "p1", "p2", "d"]
    primaries = [case.primary.value for case in cases.values()]
    assert primaries == ["lung", "lung", "other", "unknown"]
    assert [case.split for case in cases.values()] == ["train", "train", "test", "train"]
    assert (cases["a"].centre, cases["a"].age, cases["c"].sex) == ("north", 64, "M")
    notes = {(note.scan, note.note) for note in result.notes}
    assert ("d", "the table of patients has no row for it") in notes
    assert any(scan == "b" and "became lung" in text for scan, text in notes)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["name,primary", "a,lung"], "expected scan_id or patient_id"),
        (["scan_id,sex", "a,X"], "line 2: sex is 'X'"),
        (["scan_id,age", "a,old"], "line 2: age is 'old'"),
        (["scan_id,split", "a,dev"], "line 2: split is 'dev'"),
        (["scan_id,age", "a,1", "a,2"], "line 3: scan_id 'a' stands in two rows"),
        (["scan_id,age", ",1"], "line 2: scan_id is empty"),
    ],
)
def test_a_wrong_table(tmp_path: Path, lines: list[str], message: str) -> None:
    source, patients = nnunet(tmp_path / "set"), table(tmp_path / "p.csv", *lines)
    with pytest.raises((InputError, AnnotationError), match=message):
        import_cohort("nnunet", source, tmp_path / "out", patients=patients)


def test_a_finished_cohort_is_never_overwritten(tmp_path: Path) -> None:
    source = nnunet(tmp_path / "set")
    import_cohort("nnunet", source, tmp_path / "out")
    with pytest.raises(InputError, match="is already there"):
        import_cohort("nnunet", source, tmp_path / "out")


def test_what_a_user_mistypes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no format 'nifty'"):
        import_cohort("nifty", tmp_path, tmp_path / "out")
    with pytest.raises(ConfigError, match="is no regular expression"):
        import_cohort("nifti", tmp_path, tmp_path / "out", lesions="(")
    for name in FORMATS:
        with pytest.raises(InputError):
            import_cohort(name, tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    for name in FORMATS:
        with pytest.raises(InputError):
            import_cohort(name, tmp_path / "empty", tmp_path / "out")


def test_the_command_line(tmp_path: Path) -> None:
    source = nnunet(tmp_path / "set")
    put(source / "imagesTr" / "c_0000.nii.gz", scan())
    arguments = ["import", "nnunet", str(source), "-o", str(tmp_path / "out"), "--centre", "north"]
    result = CliRunner().invoke(build_app(), arguments)
    assert result.exit_code == 0, result.output
    assert "skipped: c: it has no label map" in result.output
    assert "2 scans in" in result.output
    cases = read_cohort(tmp_path / "out" / "cohort.csv").cases
    assert {case.centre for case in cases} == {"north"}


def test_settings_that_are_no_object(tmp_path: Path) -> None:
    source = nnunet(tmp_path / "set")
    (source / "dataset.json").write_text(json.dumps([1]), encoding="utf-8")
    with pytest.raises(InputError, match="holds a list; expected an object"):
        import_cohort("nnunet", source, tmp_path / "out")
