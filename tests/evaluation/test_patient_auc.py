"""AUC and Brier score against scikit-learn, with ties, weights and missing predictions."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from osteomet.errors import AnnotationError
from osteomet.evaluation.primary import auc, brier, merge_scans
from osteomet.findings import PrimaryTumour


def random_patients(seed: int, n: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    is_lung = generator.random(n) < 0.4
    p_lung = np.round(np.clip(generator.normal(0.4 + 0.2 * is_lung, 0.2), 0, 1), 1)  # many ties
    return is_lung, p_lung, generator.integers(0, 4, n).astype(float)


@pytest.mark.parametrize("seed", range(20))
def test_equals_scikit_learn_with_ties_and_weights(seed: int) -> None:
    is_lung, p_lung, weights = random_patients(seed)
    ones = np.ones(len(p_lung))
    assert auc(is_lung, p_lung, ones) == pytest.approx(roc_auc_score(is_lung, p_lung))
    expected = roc_auc_score(is_lung, p_lung, sample_weight=weights)
    assert auc(is_lung, p_lung, weights) == pytest.approx(expected)
    assert brier(is_lung, p_lung, ones) == pytest.approx(brier_score_loss(is_lung, p_lung))


def test_auc_counts_pairs() -> None:
    is_lung, p_lung, _ = random_patients(1)
    pairs = [
        (a > b) + 0.5 * (a == b)
        for a in p_lung[is_lung].tolist()
        for b in p_lung[~is_lung].tolist()
    ]
    assert auc(is_lung, p_lung, np.ones(len(p_lung))) == pytest.approx(np.mean(pairs))


def test_all_tied_is_chance_whatever_the_order() -> None:
    is_lung = np.array([True, True, False, False, False])
    assert auc(is_lung, np.full(5, 0.3), np.ones(5)) == 0.5
    assert auc(is_lung[::-1], np.full(5, 0.3), np.ones(5)) == 0.5


@pytest.mark.parametrize("is_lung", [[], [True], [False, False]])
def test_auc_of_one_class_is_not_defined(is_lung: list[bool]) -> None:
    n = len(is_lung)
    assert np.isnan(auc(np.array(is_lung, bool), np.full(n, 0.5), np.ones(n)))


def test_a_class_without_weight_is_not_there() -> None:
    assert np.isnan(auc(np.array([True, False]), np.array([0.6, 0.4]), np.array([1.0, 0.0])))


def test_scans_of_a_patient_become_one() -> None:
    lung = PrimaryTumour.LUNG
    assert merge_scans("p", [lung] * 3, [0.2, None, 0.6]).p_lung == pytest.approx(0.4)
    assert merge_scans("p", [lung] * 2, [None, None]).p_lung is None
    with pytest.raises(AnnotationError, match="patient p has scans with primaries lung, other"):
        merge_scans("p", [lung, PrimaryTumour.OTHER], [0.5, 0.5])
