"""cohort.csv: what is read, what is refused and in which words, and the split by patient."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from osteomet.data.manifest import Case, Cohort, MaskKind, read_cohort, with_split, write_split
from osteomet.errors import AnnotationError, InputError
from osteomet.findings import PrimaryTumour

HEADER = "patient_id,image,mask,centre,primary"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.nii", "b.nii", "m.nii", "boxes.csv"):
        (tmp_path / name).touch()
    return tmp_path


def cohort_file(folder: Path, *lines: str, header: str = HEADER) -> Path:
    path = folder / "cohort.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def test_a_row_with_every_column(folder: Path) -> None:
    header = HEADER + ",scan_id,split,age,sex,mask_kind,boxes,ignore,lesions,remark"
    row = "p1,a.nii,m.nii,Ulm,Lung,s1,val,71.5,f,instance,boxes.csv,m.nii,boxes.csv,free text"
    cohort = read_cohort(cohort_file(folder, row, header=header))
    assert cohort.folder == folder
    assert cohort.cases == (
        Case(
            scan_id="s1",
            patient_id="p1",
            image=folder / "a.nii",
            mask=folder / "m.nii",
            centre="Ulm",
            primary=PrimaryTumour.LUNG,
            split="val",
            age=71.5,
            sex="F",
            mask_kind=MaskKind.INSTANCE,
            boxes=folder / "boxes.csv",
            ignore=folder / "m.nii",
            lesions=folder / "boxes.csv",
        ),
    )


def test_what_is_left_out_has_defaults(folder: Path) -> None:
    cohort = read_cohort(cohort_file(folder, "p1,a.nii,m.nii,Ulm,unknown"))
    (case,) = cohort.cases
    assert (case.scan_id, case.mask_kind, case.age, case.split) == ("p1", MaskKind.AUTO, None, None)
    assert not cohort.has_split


def test_a_patient_with_several_scans_and_one_without_lesions(folder: Path) -> None:
    rows = ["p1,a.nii,m.nii,Ulm,lung,", "p1,b.nii,m.nii,Ulm,lung,", "p2,b.nii,,Ulm,other,none"]
    cohort = read_cohort(cohort_file(folder, *rows, header=HEADER + ",mask_kind"))
    assert [case.scan_id for case in cohort.cases] == ["p1_1", "p1_2", "p2"]
    assert cohort.cases[2].mask is None


ALL = HEADER + ",scan_id,split,age,sex,mask_kind,boxes"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (",a.nii,m.nii,Ulm,lung,,,,,,", "patient_id is empty"),
        ("p1,,m.nii,Ulm,lung,,,,,,", "image is empty"),
        ("p1,no.nii,m.nii,Ulm,lung,,,,,,", "image 'no.nii' does not exist"),
        ("p1,a.nii,no.nii,Ulm,lung,,,,,,", "mask 'no.nii' does not exist"),
        ("p1,a.nii,m.nii,,lung,,,,,,", "centre is empty"),
        ("p1,a.nii,m.nii,Ulm,,,,,,,", "primary is empty; expected lung, other or unknown"),
        ("p1,a.nii,m.nii,Ulm,breast,,,,,,", "primary is 'breast'; expected one of lung, other"),
        ("p1,a.nii,m.nii,Ulm,lung,,dev,,,,", "split is 'dev'; expected one of train, val, test"),
        ("p1,a.nii,m.nii,Ulm,lung,,,old,,,", "age is 'old'; expected years"),
        ("p1,a.nii,m.nii,Ulm,lung,,,700,,,", "age is '700'"),
        ("p1,a.nii,m.nii,Ulm,lung,,,,x,,", "sex is 'x'; expected F or M"),
        ("p1,a.nii,m.nii,Ulm,lung,,,,,fuzzy,", "mask_kind is 'fuzzy'; expected one of auto"),
        ("p1,a.nii,,Ulm,lung,,,,,,", "neither mask nor boxes is given.*mask_kind 'none'"),
        ("p1,a.nii,m.nii,Ulm,lung,,,,,none,", "mask_kind is 'none' beside a mask"),
        ("p1,a.nii,,Ulm,lung,,,,,,no.csv", "boxes 'no.csv' does not exist"),
        ("p1,a.nii,m.nii,Ulm", "does not have the 11 values of the first line"),
        ("p1,a.nii,m.nii,Ulm,lung,,,,,,,,,", "does not have the 11 values of the first line"),
    ],
)
def test_a_wrong_row_is_named_by_its_line(folder: Path, row: str, message: str) -> None:
    path = cohort_file(folder, "p0,a.nii,m.nii,Ulm,lung,,,,,,", "", row, header=ALL)
    with pytest.raises(AnnotationError, match=rf"cohort\.csv, line 4: .*{message}"):
        read_cohort(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["p1,a.nii,m.nii,U,lung,s,,,,,", "p2,b.nii,m.nii,U,lung,s,,,,,"], "scan_id 's' stands in 2"),
        (["p1,a.nii,m.nii,U,lung,,val,,,,", "p2,b.nii,m.nii,U,lung,,,,,,"], "split is empty in 1 of 2"),
        (
            ["p1,a.nii,m.nii,U,lung,,val,,,,", "p1,b.nii,m.nii,U,lung,,train,,,,"],
            "patient 'p1' has split train and val",
        ),
        (
            ["p1,a.nii,m.nii,U,lung,,,,,,", "p1,b.nii,m.nii,U,other,,,,,,"],
            "patient 'p1' has primary lung and other",
        ),
    ],
)  # fmt: skip
def test_rows_that_contradict_each_other(folder: Path, rows: list[str], message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        read_cohort(cohort_file(folder, *rows, header=ALL))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("patient_id,image,mask,centre", "lacks the column 'primary'.*names patient_id, image"),
        ("patient_id;image;mask;centre;primary", "lacks the column 'patient_id'.*by commas"),
        (HEADER + ",mask_kinds", "unknown column 'mask_kinds': did you mean 'mask_kind'"),
        (HEADER + ",age,age", "the column 'age' twice"),
    ],
)
def test_wrong_columns(folder: Path, header: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_cohort(cohort_file(folder, "p1,a.nii,m.nii,Ulm,lung", header=header))


def test_files_that_are_no_cohort(folder: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_cohort(folder / "missing.csv")
    with pytest.raises(InputError, match="has no rows"):
        read_cohort(cohort_file(folder))
    (folder / "cohort.csv").write_bytes(b"\xff\xfe\x00,")
    with pytest.raises(InputError, match="not a CSV file in UTF-8"):
        read_cohort(folder / "cohort.csv")


def cohort_of(patients: int, scans: int = 1) -> Cohort:
    cases = [
        Case(
            scan_id=f"{p}-{s}",
            patient_id=f"p{p}",
            image=Path("a.nii"),
            mask=Path("m.nii"),
            centre="AB"[p % 2],
            primary=PrimaryTumour.LUNG if p % 3 == 0 else PrimaryTumour.OTHER,
        )
        for p in range(patients)
        for s in range(scans)
    ]
    return Cohort(tuple(cases), Path())


def test_a_split_shares_out_patients_primaries_and_centres() -> None:
    split = with_split(cohort_of(120, scans=2), seed=3)
    sides = {case.patient_id: case.split for case in split.cases}
    assert all(sides[case.patient_id] == case.split for case in split.cases)
    assert Counter(sides.values()) == {"train": 96, "val": 24}
    strata = Counter(
        (c.primary, c.centre) for c in split.of_split("val") if c.scan_id.endswith("0")
    )
    assert sorted(strata.values()) == [4, 4, 8, 8]


def test_a_split_depends_on_the_seed_and_not_on_the_order_of_rows() -> None:
    cohort = cohort_of(30)
    backwards = Cohort(cohort.cases[::-1], cohort.folder)
    split = with_split(cohort, seed=0)
    assert with_split(backwards, seed=0).cases[::-1] == split.cases
    assert with_split(cohort, seed=1).cases != split.cases


@pytest.mark.parametrize("patients", [2, 3, 4])
def test_every_side_of_a_small_cohort_gets_a_patient(patients: int) -> None:
    split = with_split(cohort_of(patients), seed=0, fractions={"train": 0.9, "val": 0.1})
    assert {case.split for case in split.cases} == {"train", "val"}


def test_too_few_patients_to_split() -> None:
    with pytest.raises(InputError, match="1 patients for the sides train, val"):
        with_split(cohort_of(1), seed=0)


def test_a_split_is_written_beside_what_was_there(folder: Path) -> None:
    rows = [f"p{i},a.nii,m.nii,Ulm,lung,'x;y' {i}" for i in range(5)]
    path = cohort_file(folder, *rows, header=HEADER + ",remark")
    split = with_split(read_cohort(path), seed=0)
    write_split(path, split)
    assert read_cohort(path).cases == split.cases
    with path.open(newline="") as file:
        assert [row["remark"] for row in csv.DictReader(file)] == [f"'x;y' {i}" for i in range(5)]
    assert sorted(p.name for p in folder.glob("*cohort*")) == ["cohort.csv"]


def test_a_split_is_not_written_over_another_cohort(folder: Path) -> None:
    path = cohort_file(folder, "p1,a.nii,m.nii,Ulm,lung", "p2,a.nii,m.nii,Ulm,lung")
    split = with_split(read_cohort(path), seed=0)
    cohort_file(folder, "p1,a.nii,m.nii,Ulm,lung")
    with pytest.raises(InputError, match="has 1 rows, 2 were read"):
        write_split(path, split)
