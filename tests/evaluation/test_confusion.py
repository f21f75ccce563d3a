"""Shares of a confusion matrix against scikit-learn; exact intervals against published ones."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from osteomet.evaluation.confusion import Confusion, confusion
from osteomet.evaluation.statistics import exact_interval


@pytest.mark.parametrize("seed", range(10))
def test_equals_scikit_learn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    truth, scores = generator.random(50) < 0.4, np.round(generator.random(50), 1)
    weights = generator.integers(1, 4, 50).astype(float)
    ours = confusion(truth, scores, 0.5, weights)
    called = scores >= 0.5
    given = {"sample_weight": weights}
    tn, fp, fn, tp = metrics.confusion_matrix(truth, called, **given).ravel().tolist()
    assert ours == Confusion(tp=tp, fn=fn, fp=fp, tn=tn)
    assert ours.accuracy == pytest.approx(metrics.accuracy_score(truth, called, **given))
    assert ours.sensitivity == pytest.approx(metrics.recall_score(truth, called, **given))
    assert ours.specificity == pytest.approx(metrics.recall_score(~truth, ~called, **given))
    assert ours.precision == pytest.approx(metrics.precision_score(truth, called, **given))
    assert ours.negative_predictive_value == pytest.approx(
        metrics.precision_score(~truth, ~called, **given)
    )
    assert ours.f1 == pytest.approx(metrics.f1_score(truth, called, **given))


def test_shares_of_nothing() -> None:
    nothing = Confusion(0.0, 0.0, 0.0, 0.0)
    assert np.isnan([nothing.accuracy, nothing.sensitivity, nothing.f1, nothing.precision]).all()


@pytest.mark.parametrize(
    ("events", "n", "low", "high"),
    [
        # Mendelian inheritance in Conover 1971, the example of R's binom.test.
        (682, 925, 0.7076683, 0.7654066),
        # The paper's test row: specificity, sensitivity and accuracy.
        (18, 18, 0.815, 1.0),
        (21, 26, 0.606, 0.934),
        (39, 44, 0.754, 0.962),
        # Nothing of n: the rule 1 - (alpha / 2) ** (1 / n).
        (0, 10, 0.0, 1 - 0.025**0.1),
    ],
)
def test_exact_interval_equals_published_ones(events: int, n: int, low: float, high: float) -> None:
    digits = 5e-8 if n == 925 else 5e-4
    assert exact_interval(events, n) == pytest.approx((low, high), abs=digits)


def test_exact_interval_is_that_of_the_beta_distribution() -> None:
    for events, n in [(3, 20), (19, 20), (50, 100)]:
        low = stats.beta.ppf(0.025, events, n - events + 1)
        high = stats.beta.ppf(0.975, events + 1, n - events)
        assert exact_interval(events, n) == pytest.approx((low, high))
    assert exact_interval(0, 0) is None
