"""Every figure of a cohort small enough to be computed on paper."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
from evaluation_cases import SHAPE, candidate, case

from osteomet.errors import AnnotationError, InputError
from osteomet.evaluation.cohort import Evaluation, evaluate_predictions
from osteomet.evaluation.scan import EvaluationCase, score_scan
from osteomet.findings import PrimaryTumour

LUNG, OTHER, UNKNOWN = PrimaryTumour.LUNG, PrimaryTumour.OTHER, PrimaryTumour.UNKNOWN
A = (0, 0, 0, 4, 4, 4)
B = (10, 10, 10, 14, 14, 14)
HALF_OF_B = (10, 10, 10, 14, 14, 12)
FAR = (0, 0, 30, 4, 4, 34)


def cases() -> Iterator[EvaluationCase]:
    # Lesion A found exactly, B by half of its mask; one false positive below the threshold.
    first = [candidate(A, 0.9), candidate(HALF_OF_B, 0.8), candidate(FAR, 0.3)]
    yield case("a1", [A, B], first, LUNG, 0.8, patient="a")
    # The same patient again: A is missed at the threshold, though it is a candidate.
    yield case("a2", [A], [candidate(A, 0.4)], LUNG, None, patient="a")
    # No lesion, but one reported.
    yield case("b", [], [candidate(FAR, 0.7)], OTHER, 0.8)
    # No lesion and none reported.
    yield case("c", [], [], OTHER, None)
    yield case("d", [B], [candidate(B, 0.6, mask=False)], UNKNOWN, 0.1)


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluate_predictions(cases(), resamples=100)


@pytest.mark.parametrize(
    ("name", "value", "n", "events"),
    [
        # 4 lesions, 5 scans; by score: hit, hit, miss, hit, hit, miss.
        ("sensitivity at 0.5 FP/scan", 4 / 4, 4, 4),
        ("sensitivity at 1 FP/scan", 4 / 4, 4, 4),
        ("sensitivity as reported", 3 / 4, 4, 3),
        ("false positives per scan as reported", 1 / 5, 5, 1),
        ("lesion-free scans without a report", 1 / 2, 2, 1),
        # 1 for A, 2/3 for half of B, 0 for d's lesion, which was hit without a mask.
        ("Dice per matched lesion", (1 + 2 / 3 + 0) / 3, 3, None),
        ("Dice per lesion", (1 + 2 / 3 + 0 + 0) / 4, 4, None),
        # Patient a: 64 + 32 voxels of 64 + 64 + 64 true ones; d: none.
        ("Dice per patient", (2 * 96 / (96 + 192) + 0) / 2, 2, None),
        ("Dice pooled", 2 * 96 / (96 + 64 + 192 + 64), 4, None),
        # a (lung) and b (other) tie at 0.8; c has none; d's primary is unknown.
        ("AUC", 0.5, 2, 1),
        ("AUC, all patients", (0.5 + 1) / 2, 3, 1),
        ("Brier score", (0.2**2 + 0.8**2) / 2, 2, 1),
    ],
)
def test_figures_by_hand(
    evaluation: Evaluation, name: str, value: float, n: int, events: int | None
) -> None:
    measured = evaluation[name]
    assert measured.value == pytest.approx(value)
    assert (measured.n, measured.events) == (n, events)


def test_what_was_left_out_is_said(evaluation: Evaluation) -> None:
    assert evaluation["Dice per patient"].note == "2 patients without lesions left out"
    assert "1 without a p_lung left out; 1 of unknown primary left out" in evaluation["AUC"].note
    assert "1 without a p_lung counted at 0.5" in evaluation["AUC, all patients"].note
    assert evaluation["Dice per lesion"].note == "1 misses count 0"


def test_intervals_hold_the_value(evaluation: Evaluation) -> None:
    for one in evaluation.estimates:
        assert one.value is not None
        if one.method == "DeLong":  # one lung patient has no variance
            assert one.low is None
            assert "no interval" in one.note
            continue
        assert one.low is not None
        assert one.high is not None
        assert one.low <= one.value <= one.high


def test_curve_and_counts(evaluation: Evaluation) -> None:
    assert evaluation.patients == 4
    assert [scan.scan_id for scan in evaluation.scans] == ["a1", "a2", "b", "c", "d"]
    assert evaluation.froc.at(0.0) == (0.8, 0.5, 0.0)
    assert evaluation.froc.at(0.2) == (0.4, 1.0, 0.2)


def test_a_cohort_without_a_lesion_has_no_sensitivity() -> None:
    evaluation = evaluate_predictions([case("c", [], [], OTHER, None)], resamples=20)
    for one in evaluation.estimates:
        defined = {"false positives per scan as reported", "lesion-free scans without a report"}
        assert (one.value is not None) == (one.name in defined)
        assert one.low is None


def test_ignore_regions_are_neither_rewarded_nor_punished() -> None:
    scan = case("e", [A], [candidate(A, 0.9), candidate(FAR, 0.8)], LUNG, 0.5)
    ignore = np.zeros(SHAPE, bool)
    ignore[0:6, 0:6, 28:36] = True
    result = score_scan(dataclasses.replace(scan, ignore=ignore))
    assert result.reported.hits.tolist() == [True]
    assert result.overlap.dice == 1.0
    assert score_scan(scan).reported.hits.tolist() == [True, False]


def test_what_cannot_be_evaluated_is_named() -> None:
    good = case("c", [], [], OTHER, None)
    with pytest.raises(InputError, match="no scan to evaluate"):
        evaluate_predictions([])
    with pytest.raises(InputError, match="scan c of patient c comes twice"):
        evaluate_predictions([good, good])
    with pytest.raises(InputError, match=r"thresholds \[0.5, 0.6\]"):
        evaluate_predictions([good, case("d", [], [], OTHER, None, threshold=0.6)])
    wrong = dataclasses.replace(good, instances=np.zeros((2, 2, 2), np.int16))
    with pytest.raises(AnnotationError, match=r"c: the label map has \(2, 2, 2\) voxels"):
        evaluate_predictions([wrong])
