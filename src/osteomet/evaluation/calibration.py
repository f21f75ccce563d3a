"""Whether a predicted probability means what it says, here and where lung cancer is rarer.

The curve sets the share of lung patients in each bin of ``p_lung`` against the mean prediction
there. The expected calibration error is the mean distance of the two, weighted by patients; it
depends on the bins, which are ten of equal width. Slope and intercept of a logistic regression on
the log-odds do not: 1 and 0 are perfect, a slope below 1 means predictions too extreme.

A model carries the share of lung cancer of its training patients as its prior. Under another share
the same evidence means another probability: ``shift_prior`` moves it, and weights on the patients
make a cohort count as if that share were theirs.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit, logit

BINS = 10
_EDGE = 1e-6
"""Predictions are cut to [1e-6, 1 - 1e-6] before log-odds are taken."""

_STEPS = 50
_STEEPEST = 100.0
"""A fit beyond this slope is a perfect separation, which has none."""


@dataclass(frozen=True, eq=False)
class Reliability:
    """Bins of predictions; NaN in empty ones.

    Attributes:
        edges: ``(k + 1,)``.
        patients: ``(k,)`` weight in each bin.
        lung: ``(k,)`` weight of lung patients.
        predicted: ``(k,)`` mean ``p_lung``.
        observed: ``(k,)`` share of lung patients.
    """

    edges: Float[np.ndarray, " edges"]
    patients: Float[np.ndarray, " k"]
    lung: Float[np.ndarray, " k"]
    predicted: Float[np.ndarray, " k"]
    observed: Float[np.ndarray, " k"]

    @property
    def expected_error(self) -> float:
        """Mean distance of prediction and share, weighted by patients; NaN without any."""
        total = self.patients.sum()
        if total <= 0:
            return float("nan")
        distance = np.abs(np.nan_to_num(self.predicted - self.observed))
        return float((distance * self.patients).sum() / total)


def reliability(
    is_lung: Bool[np.ndarray, " n"],
    p_lung: Float[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"],
    bins: int = BINS,
) -> Reliability:
    """Return the calibration curve over bins of equal width, closed on the right.

    Source: Naeini, Cooper and Hauskrecht, AAAI 2015 (expected calibration error).
    """
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, p_lung, side="left") - 1, 0, bins - 1)
    # Without patients NumPy counts in integers.
    patients = np.bincount(place, weights, bins).astype(np.float64)
    lung = np.bincount(place, weights * is_lung, bins).astype(np.float64)
    predicted = np.bincount(place, weights * p_lung, bins).astype(np.float64)
    there = patients > 0
    empty = np.full(bins, np.nan)
    return Reliability(
        edges,
        patients,
        lung,
        np.divide(predicted, patients, out=empty.copy(), where=there),
        np.divide(lung, patients, out=empty.copy(), where=there),
    )


def calibration_line(
    is_lung: Bool[np.ndarray, " n"],
    p_lung: Float[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"],
) -> tuple[float, float]:
    """Return slope and intercept of a logistic regression of the truth on the log-odds.

    NaN where there is no such line: one kind of patient only, equal predictions, or kinds that
    are separated perfectly.

    Source: Cox, Biometrika 1958; 45: 562-565; Van Calster et al., BMC Medicine 2019; 17: 230.
    """
    odds = logit(np.clip(p_lung, _EDGE, 1 - _EDGE))
    design = np.stack([odds, np.ones(len(odds))])
    line = np.array([1.0, 0.0])
    for _ in range(_STEPS):
        chance = expit(line @ design)
        gradient = design @ (weights * (is_lung - chance))
        hessian = (design * (weights * chance * (1 - chance))) @ design.T
        if abs(line[0]) > _STEEPEST or np.linalg.det(hessian) < 1e-10:
            return float("nan"), float("nan")
        step = np.linalg.solve(hessian, gradient)
        line += step
        if np.abs(step).max() < 1e-8:
            return float(line[0]), float(line[1])
    return float("nan"), float("nan")


def shift_prior(
    p_lung: Float[np.ndarray, " n"], assumed: float, wanted: float
) -> Float[np.ndarray, " n"]:
    """Return the probabilities that the same evidence gives under another share of lung cancer.

    Args:
        p_lung: as predicted.
        assumed: share that the predictions assume, within (0, 1).
        wanted: share where they are used, within (0, 1).

    Source: Saerens, Latinne and Decaestecker, Neural Computation 2002; 14: 21-41.
    """
    for name, share in {"assumed": assumed, "wanted": wanted}.items():
        if not 0 < share < 1:
            raise ValueError(f"the {name} share is {share}; expected one within (0, 1)")
    lung = p_lung * wanted / assumed
    other = (1 - p_lung) * (1 - wanted) / (1 - assumed)
    shifted: Float[np.ndarray, " n"] = lung / (lung + other)
    return shifted


def prior_weights(
    is_lung: Bool[np.ndarray, " n"], weights: Float[np.ndarray, " n"], share: float
) -> Float[np.ndarray, " n"]:
    """Return weights under which ``share`` of the patients have lung cancer, total unchanged.

    Zeros where one kind of patient is missing: no weight makes up for it.
    """
    total, lung = weights.sum(), (weights * is_lung).sum()
    if not 0 < lung < total:
        return np.zeros(len(weights))
    factor = np.where(is_lung, share * total / lung, (1 - share) * total / (total - lung))
    scaled: Float[np.ndarray, " n"] = weights * factor
    return scaled
