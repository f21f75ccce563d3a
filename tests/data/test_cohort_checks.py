"""Copies, leaks over the split and lopsided cohorts are found, and only those."""

from collections.abc import Sequence

import numpy as np
import pytest
from examined import record

from osteomet.checkup import Finding, Guess, ScanRecord, Severity
from osteomet.data.cohort_checks import check_cohort, check_confounding, near_copies

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE


def cohort(*more: ScanRecord, patients: int = 24) -> list[ScanRecord]:
    """A cohort without fault, and a few scans more."""
    plain = [
        record(f"p{n:02}", primary=("lung", "other")[n % 2], split=("train", "val")[n % 4 == 3])
        for n in range(patients)
    ]
    return [*plain, *more]


def found(scans: Sequence[ScanRecord], *faults: str) -> list[tuple[str, Severity]]:
    return [(one.check, one.severity) for one in check_cohort(scans, faults)]


def test_a_cohort_without_fault_is_left_alone() -> None:
    assert found(cohort()) == []
    assert found([scan.model_copy(update={"split": None}) for scan in cohort()]) == []


def test_faults_of_the_file_are_errors() -> None:
    assert found(cohort(), "line 3: age is 'old'") == [("faulty row", ERROR)]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"digest": "image of p00"}, ("same image twice", ERROR)),
        ({"digest": "image of p00", "patient_id": "p00"}, ("same image twice", WARNING)),
        ({"study_uid": "1.2.3"}, ("same study twice", ERROR)),
        ({"study_uid": "1.2.3", "patient_id": "p04"}, None),
        ({"mask_digest": "mask of p00"}, ("same mask twice", WARNING)),
        ({"patient_id": "p00", "split": "val"}, ("patient on two sides", ERROR)),
        ({"patient_id": "P-0"}, ("patients of alike names", NOTE)),
        ({"patient_id": "P-0", "split": "val"}, ("patients of alike names", WARNING)),
        ({"patient_id": "p00"}, None),
    ],
)  # fmt: skip
def test_a_scan_that_does_not_belong(
    changed: dict[str, str], expected: tuple[str, Severity] | None
) -> None:
    extra = record("extra", **{"split": "train", **changed})  # type: ignore[arg-type] # by name
    scans = cohort(extra)
    scans[4] = record("p04", split="train", study_uid="1.2.3")
    assert found(scans) == ([expected] if expected else [])


def test_copies_across_sides_of_one_patient_are_errors() -> None:
    scans = cohort(record("extra", "p00", digest="image of p00", split="val"))
    assert ("same image twice", ERROR) in found(scans)


def test_contradicting_rows() -> None:
    scans = cohort(
        record("x1", "x", sex="F", split="train"), record("x2", "x", sex="M", split="train")
    )
    assert found(scans) == [("contradicting rows", WARNING)]


def test_small_lopsided_and_empty() -> None:
    assert found(cohort(patients=8)) == [("few patients", WARNING)]
    lung = [scan.model_copy(update={"primary": "lung"}) for scan in cohort()]
    assert found(lung) == [("one primary only", WARNING)]
    assert found(cohort(record("t", split="test", lesions=()))) == []
    empty = [
        record(scan.scan_id, primary=scan.primary, split=scan.split, lesions=())
        if scan.split == "val"
        else scan
        for scan in cohort()
    ]
    assert found(empty) == [("side without lesions", ERROR)]


def guess(auc: float, p_value: float = 0.001, kind: str = "acquisition") -> Guess:
    return Guess(
        factor="centre", kind=kind, patients=90, lung=40, auc=auc, chance=(0.4, 0.6),
        p_value=p_value,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("one", "severity"),
    [
        (guess(0.9), ERROR),
        (guess(0.7), WARNING),
        (guess(0.9, kind="patient"), WARNING),
        (guess(0.55), None),
        (guess(0.7, p_value=0.02), None),
        (Guess(factor="age", kind="patient", patients=3, lung=1, note="too few"), None),
    ],
)
def test_confounding(one: Guess, severity: Severity | None) -> None:
    others = [guess(0.5, p_value=0.5)] * 9
    findings: tuple[Finding, ...] = check_confounding([one, *others])
    assert [finding.severity for finding in findings] == ([severity] if severity else [])


def test_near_copies() -> None:
    generator = np.random.default_rng(0)
    images = {n: generator.integers(-1000, 1000, 1728).astype(np.int16) for n in range(4)}
    images[2] = (images[0] + 60 + generator.integers(-5, 5, 1728)).astype(np.int16)
    images[3] = images[1]  # equal to the voxel: reported elsewhere
    scans = [record(name) for name in ("a", "b", "c")] + [record("d", digest="image of b")]
    (finding,) = near_copies(scans, images)
    assert (finding.scans, finding.severity) == (("a", "c"), WARNING)
    assert near_copies(scans, {}) == ()
