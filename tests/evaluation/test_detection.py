"""The hit rule, one clause at a time, and FROC against re-matching and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from osteomet.box_arrays import box_iou, instance_boxes
from osteomet.evaluation.detection import (
    PooledMatches,
    ScanMatches,
    froc,
    match_candidates,
)

NONE = np.zeros((0, 6))


def cube(corner: float, side: float = 10.0) -> list[float]:
    return [corner, 0.0, 0.0, corner + side, side, side]


def matched(
    boxes: list[list[float]],
    scores: list[float],
    lesions: list[list[float]],
    ignore: list[list[float]] | None = None,
) -> ScanMatches:
    return match_candidates(
        np.array(boxes).reshape(-1, 6),
        np.array(scores, dtype=np.float64),
        np.array(lesions).reshape(-1, 6),
        None if ignore is None else np.array(ignore).reshape(-1, 6),
    )


def scan(scores: list[float], lesion: list[int], lesions: int) -> ScanMatches:
    return ScanMatches(np.array(scores), np.array(lesion), np.arange(len(scores)), lesions)


def random_scan(seed: int, size: float = 40.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidates, scores of few values so that some are equal, and lesions."""
    generator = np.random.default_rng(seed)
    lesions = generator.integers(0, 5)
    candidates = generator.integers(0, 15)
    low = generator.uniform(0, size, (lesions + candidates, 3))
    boxes = np.concatenate([low, low + generator.uniform(5, 25, low.shape)], axis=1)
    scores = generator.integers(1, 10, candidates) / 10
    return boxes[lesions:], scores, boxes[:lesions]


def test_iou_equals_voxel_counting() -> None:
    generator = np.random.default_rng(0)
    corners = np.sort(generator.integers(0, 12, (8, 2, 3)), axis=1).reshape(8, 6)
    grid = np.stack(np.meshgrid(*[np.arange(12)] * 3, indexing="ij"), axis=-1)
    inside = [((grid >= box[:3]) & (grid < box[3:])).all(axis=-1) for box in corners]
    iou = box_iou(corners[:4].astype(float), corners[4:].astype(float))
    for i in range(4):
        for j in range(4):
            one, other = inside[i], inside[4 + j]
            union = np.count_nonzero(one | other)
            expected = np.count_nonzero(one & other) / union if union else 0.0
            assert iou[i, j] == pytest.approx(expected)


def test_a_hit_needs_an_iou_of_a_tenth() -> None:
    # Overlap o of two cubes of side 10 along one axis: IoU = o / (20 - o), 0.1 at o = 20 / 11.
    just = 10 - 20 / 11
    result = matched([cube(just - 1e-6)], [0.9], [cube(0)])
    assert result.lesion.tolist() == [0]
    assert matched([cube(just + 1e-6)], [0.9], [cube(0)]).lesion.tolist() == [-1]


def test_the_highest_score_takes_the_lesion_and_a_duplicate_is_a_false_positive() -> None:
    result = matched([cube(0), cube(3)], [0.5, 0.8], [cube(0)])
    assert result.scores.tolist() == [0.8, 0.5]
    assert result.candidate.tolist() == [1, 0]
    assert result.lesion.tolist() == [0, -1]


def test_one_candidate_over_two_lesions_hits_the_one_it_overlaps_most() -> None:
    lesions = [cube(0), cube(12)]
    assert matched([[0.0, 0, 0, 20, 10, 10]], [0.9], lesions).lesion.tolist() == [0]


def test_a_candidate_takes_a_free_lesion_when_its_best_is_taken() -> None:
    lesions = [cube(0), cube(12)]
    spans = [0.0, 0, 0, 20, 10, 10]
    assert matched([cube(0), spans], [0.9, 0.8], lesions).lesion.tolist() == [0, 1]


def test_equal_scores_choose_in_the_order_of_their_overlap() -> None:
    result = matched([cube(4), cube(1)], [0.7, 0.7], [cube(0)])
    assert result.candidate.tolist() == [1, 0]
    assert result.hits.tolist() == [True, False]


def test_ignored_candidates_are_dropped_but_hits_stay() -> None:
    region = [cube(100, 40)]
    inside_small = [110.0, 0, 0, 115, 5, 5]  # all of it inside, though its IoU is tiny
    overlapping = [95.0, 0, 0, 145, 40, 40]
    beside = cube(60)
    boxes = [inside_small, overlapping, beside]
    assert matched(boxes, [0.9, 0.8, 0.7], [], region).candidate.tolist() == [2]
    # The same small box is a lesion: it counts, wherever it lies.
    assert matched(boxes, [0.9, 0.8, 0.7], [inside_small], region).lesion.tolist() == [0, -1]


@pytest.mark.parametrize("ignore", [None, []])
def test_empty_scans(ignore: list[list[float]] | None) -> None:
    nothing = matched([], [], [], ignore)
    assert (len(nothing.scores), nothing.lesions) == (0, 0)
    assert matched([cube(0)], [0.5], [], ignore).lesion.tolist() == [-1]
    missed = matched([], [], [cube(0)], ignore)
    assert (len(missed.scores), missed.lesions) == (0, 1)


def test_froc_by_hand() -> None:
    # Two scans with 3 lesions together, and one without.
    scans = [
        scan([0.9, 0.6, 0.3], [0, -1, 1], 2),
        scan([0.8, 0.6], [-1, 0], 1),
        scan([0.5], [-1], 0),
    ]
    curve = froc(scans)
    assert curve.thresholds.tolist() == [np.inf, 0.9, 0.8, 0.6, 0.5, 0.3]
    assert curve.sensitivity == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 1])
    assert curve.false_positives == pytest.approx([0, 0, 1 / 3, 2 / 3, 1, 1])
    assert (curve.scans, curve.lesions) == (3, 3)


def test_the_limit_of_false_positives_is_never_exceeded() -> None:
    curve = froc([scan([0.9, 0.8, 0.7, 0.6, 0.5], [0, -1, -1, 1, -1], 2)])
    assert curve.at(0.0) == (0.9, 0.5, 0.0)
    assert curve.at(1.9) == (0.9, 0.5, 0.0)  # no credit for the way to 2 false positives
    assert curve.at(2.0) == (0.6, 1.0, 2.0)
    assert curve.at(99.0) == (0.6, 1.0, 2.0)  # 0.5 would add a false positive and no hit
    assert curve.operating_threshold(2.0) == 0.6


def test_many_limits_at_once_give_what_each_gives() -> None:
    scans = [match_candidates(*random_scan(seed)) for seed in range(6)]
    rates = np.array([0.0, 0.2, 0.5, 1.0, 3.0, 100.0])
    expected = [froc(scans).sensitivity_at(rate) for rate in rates.tolist()]
    assert froc(scans).sensitivities_at(rates).tolist() == expected


def test_candidates_of_one_score_are_admitted_together() -> None:
    curve = froc([scan([0.5, 0.5, 0.5], [0, -1, -1], 1)])
    assert curve.thresholds.tolist() == [np.inf, 0.5]
    assert curve.sensitivity_at(1.0) == 0.0
    assert curve.operating_threshold(1.0) == 1.0
    assert curve.sensitivity_at(2.0) == 1.0


def test_froc_without_lesions_or_candidates() -> None:
    no_lesion = froc([scan([0.5], [-1], 0)])
    assert np.isnan(no_lesion.sensitivity).all()
    assert np.isnan(no_lesion.sensitivity_at(1.0))
    assert no_lesion.operating_threshold(1.0) == 1.0
    nothing = froc([match_candidates(NONE, np.zeros(0), NONE)])
    assert nothing.false_positives.tolist() == [0.0]
    with pytest.raises(ValueError, match="no scan"):
        froc([])


@pytest.mark.parametrize("seed", range(20))
def test_one_matching_serves_every_threshold(seed: int) -> None:
    scans = [random_scan(100 * seed + place) for place in range(4)]
    curve = froc([match_candidates(*one) for one in scans])
    lesions = sum(len(truth) for _, _, truth in scans)
    for threshold, sensitivity, false_positives in zip(
        curve.thresholds, curve.sensitivity, curve.false_positives, strict=True
    ):
        hits = misses = 0
        for boxes, scores, truth in scans:
            kept = scores >= threshold
            again = match_candidates(boxes[kept], scores[kept], truth)
            hits += int(again.hits.sum())
            misses += int((~again.hits).sum())
        assert false_positives == pytest.approx(misses / 4)
        if lesions:
            assert sensitivity == pytest.approx(hits / lesions)


def test_froc_equals_scaled_roc_of_scikit_learn() -> None:
    matches = [match_candidates(*random_scan(seed)) for seed in range(30)]
    hits = np.concatenate([one.hits for one in matches])
    scores = np.concatenate([one.scores for one in matches])
    fpr, tpr, thresholds = roc_curve(hits, scores, drop_intermediate=False)
    curve = froc(matches)
    assert curve.thresholds == pytest.approx(thresholds)
    assert curve.sensitivity * curve.lesions == pytest.approx(tpr * hits.sum())
    assert curve.false_positives * curve.scans == pytest.approx(fpr * (~hits).sum())


def test_a_weight_counts_a_patient_that_often() -> None:
    matches = [match_candidates(*random_scan(seed)) for seed in range(5)]
    owner = np.array([0, 0, 1, 2, 3])  # patient 0 has two scans
    weighted = PooledMatches(matches, owner).froc(np.array([2.0, 0, 1, 3]))
    repeated = froc([matches[place] for place in (0, 1, 0, 1, 3, 4, 4, 4)])
    assert (weighted.scans, weighted.lesions) == (repeated.scans, repeated.lesions)
    for limit in (0.0, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0):
        assert weighted.sensitivity_at(limit) == pytest.approx(repeated.sensitivity_at(limit))


def test_boxes_of_instances() -> None:
    instances = np.zeros((6, 7, 8), dtype=np.int16)
    instances[1:3, 2, 3:6] = 4
    instances[5, 6, 7] = 2
    ids, boxes = instance_boxes(instances)
    assert ids.tolist() == [2, 4]
    assert boxes.tolist() == [[5, 6, 7, 6, 7, 8], [1, 2, 3, 3, 3, 6]]
    ids, boxes = instance_boxes(np.zeros((2, 2, 2), dtype=np.uint8))
    assert (ids.shape, boxes.shape) == ((0,), (0, 6))
