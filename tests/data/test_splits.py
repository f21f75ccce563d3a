"""Protocols: shares, strata, seeds, and patients who would be on two sides."""

from collections import Counter
from pathlib import Path

import pytest

from osteomet.data.manifest import Cohort, read_cohort
from osteomet.data.splits import (
    check_sides,
    external_centre,
    folds,
    random_shares,
    write_protocol,
)
from osteomet.errors import AnnotationError, ConfigError, InputError, ReportError

HEADER = "patient_id,image,mask,centre,primary,scan_id\n"
# As in the paper: centre A 56 lung and 50 other, centre B 89 and 176.
PAPER = {("A", "lung"): 56, ("A", "other"): 50, ("B", "lung"): 89, ("B", "other"): 176}


def write_rows(folder: Path, rows: list[tuple[str, str, str]]) -> Path:
    """Write a cohort of patient, centre and primary; one scan a row."""
    (folder / "ct.nii.gz").write_bytes(b"")
    lines = [
        f"{patient},ct.nii.gz,ct.nii.gz,{centre},{primary},s{number}\n"
        for number, (patient, centre, primary) in enumerate(rows)
    ]
    path = folder / "cohort.csv"
    path.write_text(HEADER + "".join(lines))
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        (f"{centre}{primary}{n}", centre, primary)
        for (centre, primary), count in PAPER.items()
        for n in range(count)
    ]
    rows += rows[:7] + rows[-7:]  # some patients have two scans
    return write_rows(tmp_path_factory.mktemp("cohort"), rows)


@pytest.fixture(scope="module")
def cohort(source: Path) -> Cohort:
    return read_cohort(source)


def patients(cohort: Cohort) -> Counter[tuple[str | None, str, str]]:
    of = {case.patient_id: (case.split, case.centre, case.primary.value) for case in cohort.cases}
    return Counter(of.values())


def test_p1_trains_on_one_centre_and_tests_on_the_other(cohort: Cohort) -> None:
    counts = patients(external_centre(cohort, "B"))
    assert counts["test", "A", "lung"] == 56
    assert counts["test", "A", "other"] == 50
    assert counts["train", "B", "lung"] + counts["val", "B", "lung"] == 89
    assert counts["val", "B", "lung"] == pytest.approx(0.15 * 89, abs=1)
    assert counts["val", "B", "other"] == pytest.approx(0.15 * 176, abs=1)
    assert {centre for side, centre, _ in counts if side != "test"} == {"B"}


def test_p2_shares_out_one_centre(cohort: Cohort) -> None:
    split = random_shares(cohort, centre="B")
    counts = patients(split)
    sides = Counter[str]()
    for (side, centre, primary), count in counts.items():
        assert centre == "B"
        sides[str(side)] += count
        share = {"train": 0.70, "val": 0.15, "test": 0.15}[str(side)]
        assert count == pytest.approx(share * PAPER["B", primary], abs=1)
    assert sum(sides.values()) == 265
    assert sides["train"] in (185, 186)


def test_each_patient_tests_in_one_fold(cohort: Cohort) -> None:
    made = folds(cohort, 5)
    tested = Counter(
        patient for fold in made for patient in {case.patient_id for case in fold.of_split("test")}
    )
    assert tested == Counter({case.patient_id: 1 for case in cohort.cases})
    for fold in made:
        counts = patients(fold)
        for (centre, primary), count in PAPER.items():
            assert counts["test", centre, primary] == pytest.approx(count / 5, abs=1)
            assert counts["val", centre, primary] == pytest.approx(0.15 * 0.8 * count, abs=2)
        check_sides(fold.cases)


def test_a_seed_repeats_itself_whatever_the_order(cohort: Cohort) -> None:
    turned = Cohort(cohort.cases[::-1], cohort.folder)
    for draw in (
        lambda one, seed: external_centre(one, "B", seed=seed),
        lambda one, seed: random_shares(one, seed=seed),
        lambda one, seed: folds(one, 4, seed=seed)[2],
    ):
        sides = {case.scan_id: case.split for case in draw(cohort, 1).cases}
        assert sides == {case.scan_id: case.split for case in draw(turned, 1).cases}
        assert sides != {case.scan_id: case.split for case in draw(cohort, 2).cases}


def test_a_patient_in_both_centres_is_refused(tmp_path: Path) -> None:
    rows = [("x", "A", "lung"), ("x", "B", "lung"), ("y", "B", "lung"), ("z", "B", "other")]
    path = write_rows(tmp_path, rows)
    with pytest.raises(AnnotationError, match="patient 'x' would be on the sides"):
        write_protocol("p1", path, tmp_path / "new.csv", centre="B")
    assert not (tmp_path / "new.csv").exists()


def test_what_has_no_split_is_said(cohort: Cohort, tmp_path: Path) -> None:
    few = read_cohort(write_rows(tmp_path, [("x", "A", "lung"), ("y", "A", "other")]))
    with pytest.raises(InputError, match="no scan is of centre 'C'; there are A, B"):
        random_shares(cohort, centre="C")
    with pytest.raises(InputError, match="all scans are of centre 'A'"):
        external_centre(few, "A")
    with pytest.raises(InputError, match="2 patients for 3 folds"):
        folds(few, 3)
    with pytest.raises(InputError, match="1 folds"):
        folds(few, 1)


def test_files_read_back_and_the_source_stays(source: Path, tmp_path: Path) -> None:
    before = source.read_bytes()
    made = write_protocol("kfold", source, tmp_path / "folds", fold_count=3)
    assert [one.path.name for one in made] == ["fold-1.csv", "fold-2.csv", "fold-3.csv"]
    for one in made:
        again = read_cohort(one.path)
        assert all(case.image.exists() for case in again.cases)
        counts = patients(again)
        for side, by_primary in one.patients.items():
            lung = sum(n for (s, _, p), n in counts.items() if (s, p) == (side, "lung"))
            assert by_primary[0] == lung
    first = made[0].path.read_bytes()
    write_protocol("kfold", source, tmp_path / "folds", fold_count=3)
    assert made[0].path.read_bytes() == first
    assert source.read_bytes() == before


def test_wrong_protocols_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected one of p1, p2, kfold"):
        write_protocol("p3", source, tmp_path / "new.csv")
    with pytest.raises(ConfigError, match="without a centre"):
        write_protocol("p1", source, tmp_path / "new.csv")
    with pytest.raises(ReportError, match="is the cohort that is read"):
        write_protocol("p2", source, source)
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="cannot be made"):
        write_protocol("p2", source, tmp_path / "file" / "new.csv")
