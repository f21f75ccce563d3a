"""Dice against counting voxels one by one, and figures of voxels against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, recall_score

from osteomet.evaluation.segmentation import Overlap, dice, overlap_table, pooled_overlap

SHAPE = (6, 7, 8)


def random_mask(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE) < 0.4


def counted(a: np.ndarray, b: np.ndarray) -> float:
    pairs = list(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
    return 2 * sum(x and y for x, y in pairs) / sum(x + y for x, y in pairs)


@pytest.mark.parametrize("seed", range(5))
def test_dice_equals_counting(seed: int) -> None:
    a, b = random_mask(seed), random_mask(seed + 100)
    assert dice(a, b) == pytest.approx(counted(a, b))


def test_dice_of_nothing() -> None:
    empty, full = np.zeros(SHAPE, bool), np.ones(SHAPE, bool)
    assert np.isnan(dice(empty, empty))
    assert dice(empty, full) == 0.0
    assert dice(full, full) == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_voxels_equal_scikit_learn(seed: int) -> None:
    predicted, true = random_mask(seed), random_mask(seed + 100)
    overlap = Overlap(
        float((predicted & true).sum()), float(predicted.sum()), float(true.sum()), 336.0
    )
    a, b = true.ravel(), predicted.ravel()
    assert overlap.dice == pytest.approx(f1_score(a, b))
    assert overlap.sensitivity == pytest.approx(recall_score(a, b))
    assert overlap.specificity == pytest.approx(recall_score(a, b, pos_label=False))
    assert overlap.accuracy == pytest.approx(accuracy_score(a, b))


def test_a_patient_without_any_lesion_has_no_dice() -> None:
    assert np.isnan(Overlap().dice)
    assert np.isnan(Overlap(0.0, 0.0, 0.0, 9.0).sensitivity)
    assert Overlap(0.0, 2.0, 0.0, 10.0).dice == 0.0
    assert Overlap(0.0, 2.0, 0.0, 10.0).specificity == pytest.approx(0.8)
    assert (Overlap(1.0, 2.0, 3.0, 4.0) + Overlap(1.0, 1.0, 1.0, 1.0)) == Overlap(
        2.0, 3.0, 4.0, 5.0
    )


def test_pooled_by_hand() -> None:
    patients = [
        Overlap(1.0, 2.0, 2.0, 9.0),
        Overlap(0.0, 1.0, 0.0, 9.0),
        Overlap(5.0, 6.0, 8.0, 9.0),
    ]
    table = overlap_table(patients)
    assert pooled_overlap(table, np.ones(3)).dice == pytest.approx(2 * 6 / (4 + 1 + 14))
    assert pooled_overlap(table, np.array([2.0, 0, 0])).dice == pytest.approx(0.5)
    assert np.isnan(pooled_overlap(table, np.zeros(3)).dice)
    assert overlap_table([]).shape == (0, 4)
