"""Calibration against scikit-learn and torchmetrics; another prior against Bayes' rule."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from torchmetrics.functional.classification import binary_calibration_error

from osteomet.evaluation.calibration import (
    calibration_line,
    prior_weights,
    reliability,
    shift_prior,
)


def patients(seed: int, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    p_lung = generator.beta(2, 3, n)
    return generator.random(n) < np.clip(1.3 * p_lung - 0.1, 0, 1), p_lung


@pytest.mark.parametrize("seed", range(6))
def test_curve_and_error_equal_libraries(seed: int) -> None:
    is_lung, p_lung = patients(seed)
    curve = reliability(is_lung, p_lung, np.ones(len(p_lung)))
    observed, predicted = calibration_curve(is_lung, p_lung, n_bins=10)
    there = curve.patients > 0
    assert np.allclose(curve.observed[there], observed)
    assert np.allclose(curve.predicted[there], predicted)
    expected = binary_calibration_error(
        torch.from_numpy(p_lung), torch.from_numpy(is_lung).long(), n_bins=10
    )
    assert curve.expected_error == pytest.approx(float(expected), abs=1e-6)


def test_weights_count_patients_more_than_once() -> None:
    is_lung, p_lung = patients(0, 40)
    weights = np.random.default_rng(0).integers(0, 4, 40)
    repeated = np.repeat(np.arange(40), weights)
    weighted = reliability(is_lung, p_lung, weights.astype(float))
    plain = reliability(is_lung[repeated], p_lung[repeated], np.ones(len(repeated)))
    assert weighted.expected_error == pytest.approx(plain.expected_error)
    line = calibration_line(is_lung, p_lung, weights.astype(float))
    assert line == pytest.approx(
        calibration_line(is_lung[repeated], p_lung[repeated], np.ones(len(repeated)))
    )


def test_bounds_belong_to_the_bin_below() -> None:
    curve = reliability(np.array([True] * 4), np.array([0.0, 0.1, 0.2, 1.0]), np.ones(4))
    assert curve.patients.tolist() == [2, 1, 0, 0, 0, 0, 0, 0, 0, 1]
    assert np.isnan(reliability(np.zeros(0, bool), np.zeros(0), np.zeros(0)).expected_error)


@pytest.mark.parametrize("seed", range(4))
def test_line_equals_scikit_learn(seed: int) -> None:
    is_lung, p_lung = patients(seed)
    odds = np.log(p_lung / (1 - p_lung))[:, None]
    fitted = LogisticRegression(C=np.inf, tol=1e-10).fit(odds, is_lung)
    slope, intercept = calibration_line(is_lung, p_lung, np.ones(len(p_lung)))
    assert slope == pytest.approx(fitted.coef_[0, 0], abs=1e-4)
    assert intercept == pytest.approx(fitted.intercept_[0], abs=1e-4)


@pytest.mark.parametrize(
    ("is_lung", "p_lung"),
    [
        ([True, True, True], [0.2, 0.5, 0.9]),
        ([True, False, True], [0.4, 0.4, 0.4]),
        ([False, False, True, True], [0.1, 0.2, 0.8, 0.9]),
    ],
)
def test_no_line_where_there_is_none(is_lung: list[bool], p_lung: list[float]) -> None:
    line = calibration_line(np.array(is_lung), np.array(p_lung), np.ones(len(p_lung)))
    assert np.isnan(line).all()


def test_another_prior_is_bayes_rule() -> None:
    evidence = np.linspace(-3, 4, 50)
    lung, other = stats.norm.pdf(evidence, 1, 1), stats.norm.pdf(evidence, 0, 1.4)

    def posterior(share: float) -> np.ndarray:
        return share * lung / (share * lung + (1 - share) * other)

    assert np.allclose(shift_prior(posterior(0.34), 0.34, 0.53), posterior(0.53))
    assert np.allclose(shift_prior(posterior(0.34), 0.34, 0.34), posterior(0.34))
    with pytest.raises(ValueError, match="wanted share is 1"):
        shift_prior(posterior(0.34), 0.34, 1.0)


def test_weights_give_the_share_that_is_asked_for() -> None:
    is_lung, _ = patients(1, 50)
    weights = prior_weights(is_lung, np.ones(50), 0.2)
    assert weights.sum() == pytest.approx(50)
    assert weights[is_lung].sum() == pytest.approx(10)
    assert not prior_weights(np.ones(3, bool), np.ones(3), 0.2).any()


def test_moved_predictions_are_calibrated_where_the_share_is_another() -> None:
    """Calibrated at 40 % lung; the same patients as if 10 % were, moved and not moved."""
    generator = np.random.default_rng(0)
    is_lung = generator.random(60_000) < 0.4
    evidence = generator.normal(is_lung, 1.0)
    lung, other = stats.norm.pdf(evidence, 1, 1), stats.norm.pdf(evidence, 0, 1)
    p_lung = 0.4 * lung / (0.4 * lung + 0.6 * other)
    weights = prior_weights(is_lung, np.ones(len(is_lung)), 0.1)
    moved = reliability(is_lung, shift_prior(p_lung, 0.4, 0.1), weights)
    assert moved.expected_error < 0.01
    assert reliability(is_lung, p_lung, weights).expected_error > 0.2
