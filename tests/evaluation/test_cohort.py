"""Every figure of a cohort small enough to be computed on paper."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
from evaluation_cases import SHAPE, candidate, case

from osteomet.errors import AnnotationError, InputError
from osteomet.evaluation.cohort import Evaluation, Options, evaluate_predictions
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
        # By score: hit, hit, miss, hit, hit: precision 1 up to a sensitivity of 1/2, then 4/5.
        ("average precision at box IoU 0.1", (51 * 1 + 50 * 0.8) / 101, 4, None),
        # The box around half of B has an IoU of exactly one half, so the hits are the same.
        ("average precision at box IoU 0.5", (51 * 1 + 50 * 0.8) / 101, 4, None),
        ("sensitivity, below 10 mm", 3 / 4, 4, 3),
        ("patients with a lesion found", 1.0, 2, 2),
        ("patients with any report", 1.0, 2, 2),
        ("lesion-free patients without a report", 1 / 2, 2, 1),
        # Best scores 0.9 and 0.6 with a lesion, 0.7 and 0 without.
        ("AUC, any lesion", 3 / 4, 4, 2),
        # A matches with an IoU of 1. Half of B, b's report and the empty mask of d match nothing,
        # nor do B, A of the second scan and d's lesion.
        ("panoptic quality", 1 / (1 + 6 / 2), 4, 1),
        ("segmentation quality", 1.0, 1, None),
        ("recognition quality", 1 / (1 + 6 / 2), 4, 1),
        ("voxel sensitivity pooled", 96 / (192 + 64), 4, None),
        ("voxel sensitivity per patient", (96 / 192 + 0) / 2, 2, None),
        ("voxel specificity pooled", 1 - 64 / (5 * 16000 - 256), 4, None),
        ("voxel accuracy pooled", 1 - (64 + 160) / (5 * 16000), 4, None),
        # 64 voxels of 2 mm3 in patient b.
        ("reported volume in ml", 0.128 / 2, 2, 1),
        # Of the patients with a prediction: lung at 0.8 is right, other at 0.8 is not.
        ("accuracy", 1 / 2, 2, 1),
        ("sensitivity", 1.0, 1, 1),
        ("specificity", 0.0, 1, 0),
        ("F1", 2 / 3, 2, 1),
        # Patient c has none, which counts as wrong.
        ("accuracy, all patients", 1 / 3, 3, 1),
        ("specificity, all patients", 0.0, 2, 0),
        ("expected calibration error", 0.3, 2, 1),
        ("mean p_lung", 0.8, 2, 1),
        ("net benefit at 0.5", 1 / 2 - 1 / 2, 2, 1),
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


def test_calibration_under_another_prior() -> None:
    """The findings say what the predictions assume; the patients are weighted to what is asked."""
    scans = [case("a", [], [], LUNG, 0.6), case("b", [], [], OTHER, 0.2)]
    for scan in scans:
        primary = scan.findings.primary.model_copy(update={"training_prior_lung": 0.4})
        object.__setattr__(scan, "findings", scan.findings.model_copy(update={"primary": primary}))
    # Of the patients at hand half have lung cancer: odds times (0.5 / 0.5) / (0.4 / 0.6).
    moved = [9 / 13, 3 / 11]
    own = evaluate_predictions(scans, resamples=0)
    assert own["mean p_lung, prior 0.500"].value == pytest.approx(sum(moved) / 2)
    brier = ((1 - moved[0]) ** 2 + moved[1] ** 2) / 2
    assert own["Brier score, prior 0.500"].value == pytest.approx(brier)
    # At a share of 0.1 the odds are 6 times lower than at 0.4, and b counts 9 times as much as a.
    moved = [0.2, 1 / 25]
    asked = evaluate_predictions(scans, resamples=0, options=Options(prior_lung=0.1))
    expected = 0.1 * (1 - moved[0]) ** 2 + 0.9 * moved[1] ** 2
    assert asked["Brier score, prior 0.100"].value == pytest.approx(expected)
    assert "weighted to it" in asked["Brier score, prior 0.100"].note
    for scan in scans:  # predicted for another share: that one is left behind, not the training's
        primary = scan.findings.primary.model_copy(update={"prior_lung": 0.5})
        object.__setattr__(scan, "findings", scan.findings.model_copy(update={"primary": primary}))
    again = evaluate_predictions(scans, resamples=0)
    assert again["mean p_lung, prior 0.500"].value == pytest.approx(0.4)


def test_masks_beyond_the_scan_are_named() -> None:
    beyond = candidate((18, 0, 0, 22, 4, 4), 0.9)
    with pytest.raises(InputError, match="mask of candidate 0 reaches beyond"):
        evaluate_predictions([case("c", [], [beyond], OTHER, None)])


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
