"""How sure a figure is: a bootstrap over patients.

Lesions and scans of one patient resemble each other, so the patient is what is drawn, with
replacement. A draw is a vector of weights, how often each patient was drawn; every statistic
here and beside is a function of such weights, and with ones it gives the figure itself. So a
figure and its interval cannot come from two formulas.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

Weights = Float[np.ndarray, " patients"]
Statistic = Callable[[Weights], float]
"""A figure from the weight of each patient; NaN where it is not defined."""

CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A figure, its interval, and how much it rests on.

    Attributes:
        n: units that the figure is taken over.
        unit: what those are, in the plural: ``lesions``.
        events: units of the kind that is counted, such as hits; None for a mean.
        note: what a reader must know, such as what was left out.
        value: None where the figure is not defined: no lesion, say, or one class only.
        low: lower bound of the central 95 % of the resamples; None where there is none.
        high: upper bound.
    """

    name: str
    n: int
    unit: str
    events: int | None = None
    note: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None


def weighted_mean(values: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"]) -> float:
    """Return the mean; NaN without weight."""
    total = float(weights.sum())
    return float((values * weights).sum() / total) if total > 0 else float("nan")


def ratio(part: float, whole: float) -> float:
    """Return ``part / whole``; NaN where nothing is counted."""
    return part / whole if whole > 0 else float("nan")


def bootstrap(
    statistic: Statistic, patients: int, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float] | None:
    """Return the percentile interval of a statistic over resampled patients.

    Resamples in which the statistic is not defined, without any lesion for instance, are
    left out.

    Args:
        statistic: the figure, from the weight of each patient.
        patients: how many there are.
        resamples: draws; 0 turns intervals off.
        seed: the same seed draws the same patients, so figures of one cohort are comparable.

    Returns:
        The bounds; None with fewer than 2 patients or no resample that defines the figure.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    if patients < 2 or resamples < 1:
        return None
    draws = _draws(patients, resamples, seed)
    values = np.array([statistic(weights) for weights in draws.astype(np.float64)])
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(values, [tail, 100 - tail]).tolist()
    return low, high


def measure(
    described: Estimate,
    statistic: Statistic,
    patients: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Return the described figure with its value and interval."""
    value = statistic(np.ones(patients))
    if not np.isfinite(value):
        return described
    interval = bootstrap(statistic, patients, resamples=resamples, seed=seed)
    low, high = interval or (None, None)
    return replace(described, value=value, low=low, high=high)


def _draws(patients: int, resamples: int, seed: int) -> Int[np.ndarray, "resamples patients"]:
    generator = np.random.default_rng(seed)
    return generator.multinomial(patients, np.full(patients, 1 / patients), size=resamples)
