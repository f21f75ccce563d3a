"""The bootstrap against SciPy's, and what it does where there is too little to draw from."""

import numpy as np
import pytest
from scipy import stats

from osteomet.evaluation.statistics import (
    Estimate,
    bootstrap,
    measure,
    ratio,
    weighted_mean,
)


def test_interval_of_a_mean_equals_scipy() -> None:
    values = np.random.default_rng(0).exponential(size=80)
    ours = bootstrap(lambda weights: weighted_mean(values, weights), 80, resamples=8000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=8000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours is not None
    assert ours == pytest.approx(theirs, abs=0.02)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        values = generator.normal(size=40)
        low, high = bootstrap(
            lambda w, v=values: weighted_mean(v, w), 40, resamples=300, seed=trial
        ) or (0, 0)
        covered += low <= 0 <= high
    assert 0.88 <= covered / 200 <= 0.98


def test_a_seed_repeats_itself() -> None:
    values = np.random.default_rng(0).random(20)

    def interval(seed: int) -> tuple[float, float] | None:
        return bootstrap(
            lambda weights: weighted_mean(values, weights), 20, resamples=50, seed=seed
        )

    assert interval(3) == interval(3)
    assert interval(3) != interval(4)


def test_resamples_without_a_value_are_left_out() -> None:
    # Defined only where patient 0 is drawn, and then always 1.
    interval = bootstrap(lambda weights: ratio(weights[0], weights[0]), 3, resamples=200)
    assert interval == (1.0, 1.0)


@pytest.mark.parametrize(("patients", "resamples"), [(0, 100), (1, 100), (5, 0)])
def test_no_interval_without_patients_or_draws(patients: int, resamples: int) -> None:
    assert bootstrap(lambda weights: 1.0, patients, resamples=resamples) is None


def test_no_interval_where_no_resample_defines_it() -> None:
    assert bootstrap(lambda weights: float("nan"), 5, resamples=20) is None


def test_an_undefined_figure_keeps_its_name_and_has_no_value() -> None:
    described = Estimate("AUC", 3, "patients", events=0)
    assert measure(described, lambda weights: float("nan"), 3) == described


def test_the_value_is_the_statistic_at_weights_of_one() -> None:
    measured = measure(
        Estimate("drawn", 4, "patients"), lambda weights: float(weights[0]), 4, resamples=500
    )
    assert measured.value == 1.0
    assert (measured.low, measured.high) == (0.0, 3.0)


def test_mean_and_ratio_of_nothing() -> None:
    assert np.isnan(weighted_mean(np.zeros(0), np.zeros(0)))
    assert np.isnan(ratio(0.0, 0.0))
