"""Net benefit against its definition on scikit-learn's counts, and a worked example."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from osteomet.evaluation.decision import THRESHOLDS, net_benefit, net_benefit_of_all


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definition(seed: int) -> None:
    generator = np.random.default_rng(seed)
    is_lung, p_lung = generator.random(80) < 0.4, generator.random(80)
    weights = generator.integers(1, 3, 80).astype(float)
    ours = net_benefit(is_lung, p_lung, weights, THRESHOLDS)
    for place, t in enumerate(THRESHOLDS.tolist()):
        _, fp, _, tp = confusion_matrix(is_lung, p_lung >= t, sample_weight=weights).ravel()
        expected = tp / weights.sum() - fp / weights.sum() * t / (1 - t)
        assert ours[place] == pytest.approx(expected)


def test_example_by_hand() -> None:
    # Of 100 patients 20 have it; the model calls 15 of them and 10 others: at 20 % a false call
    # costs a quarter of a right one.
    is_lung = np.arange(100) < 20
    p_lung = np.where((np.arange(100) < 15) | (np.arange(100) >= 90), 0.9, 0.1)
    at = np.array([0.2])
    assert net_benefit(is_lung, p_lung, np.ones(100), at) == pytest.approx(0.15 - 0.10 / 4)
    assert net_benefit_of_all(is_lung, np.ones(100), at) == pytest.approx(0.20 - 0.80 / 4)


def test_acting_on_all_breaks_even_at_the_prevalence() -> None:
    is_lung = np.arange(10) < 3
    assert net_benefit_of_all(is_lung, np.ones(10), np.array([0.3])) == pytest.approx(0.0)
    assert np.isnan(net_benefit(is_lung, np.ones(10), np.zeros(10), np.array([0.3]))).all()
