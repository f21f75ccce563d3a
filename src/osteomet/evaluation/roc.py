"""ROC curves of patients: points, the area's variance, and a test of two areas.

The area is the share of pairs of a lung and another patient in which the lung patient has the
higher score, ties counting one half. DeLong's variance treats it as what it is, a mean over
patients of both kinds, and needs no assumption about the scores.

Source: DeLong, DeLong and Clarke-Pearson, Biometrics 1988; 44: 837-845; computed from midranks as
in Sun and Xu, IEEE Signal Processing Letters 2014; 21: 1389-1393.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from osteomet.evaluation.statistics import CONFIDENCE

_Z = float(stats.norm.ppf(0.5 + CONFIDENCE / 2))


@dataclass(frozen=True, eq=False)
class ROC:
    """Sensitivity against 1 - specificity, one point per distinct score.

    Attributes:
        thresholds: ``(k,)`` falling; a patient counts as lung from this score up. The first is
            infinity.
        sensitivity: ``(k,)`` never falling; NaN without a lung patient.
        specificity: ``(k,)`` never rising; NaN without another patient.
    """

    thresholds: Float[np.ndarray, " k"]
    sensitivity: Float[np.ndarray, " k"]
    specificity: Float[np.ndarray, " k"]

    def youden(self) -> tuple[float, float]:
        """Return the threshold with the largest sensitivity + specificity - 1, and that index.

        Of equal ones the highest threshold. Choose it on validation patients, never on those
        that are reported.

        Source: Youden, Cancer 1950; 3: 32-35.
        """
        index = self.sensitivity + self.specificity - 1
        best = int(np.argmax(np.round(index, 12)))
        return float(self.thresholds[best]), float(index[best])


def roc_curve(
    is_lung: Bool[np.ndarray, " n"],
    scores: Float[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"],
) -> ROC:
    """Return the curve; both shares are NaN for a kind of patient that is missing."""
    values, place = np.unique(-scores, return_inverse=True)
    lung = np.bincount(place, weights * is_lung, len(values))
    other = np.bincount(place, weights * ~is_lung, len(values))
    caught = np.concatenate([[0.0], np.cumsum(lung)])
    wrong = np.concatenate([[0.0], np.cumsum(other)])
    nothing = np.full(len(caught), np.nan)
    return ROC(
        np.concatenate([[np.inf], -values]),
        caught / caught[-1] if caught[-1] else nothing,
        1 - wrong / wrong[-1] if wrong[-1] else nothing,
    )


def delong(
    is_lung: Bool[np.ndarray, " n"], scores: Sequence[Float[np.ndarray, " n"]]
) -> tuple[Float[np.ndarray, " models"], Float[np.ndarray, "models models"]]:
    """Return the areas of several scores of the same patients, and their covariance.

    NaN with fewer than two patients of either kind.
    """
    lung, other = int(is_lung.sum()), int((~is_lung).sum())
    models = len(scores)
    if min(lung, other) < 2:
        return np.full(models, np.nan), np.full((models, models), np.nan)
    of_lung, of_other = np.empty((models, lung)), np.empty((models, other))
    for row, score in enumerate(scores):
        ranks = stats.rankdata(score)
        # Rank among all less rank among one's own kind: pairs won against the other kind.
        of_lung[row] = (ranks[is_lung] - stats.rankdata(score[is_lung])) / other
        of_other[row] = 1 - (ranks[~is_lung] - stats.rankdata(score[~is_lung])) / lung
    covariance = np.atleast_2d(np.cov(of_lung)) / lung + np.atleast_2d(np.cov(of_other)) / other
    return of_lung.mean(axis=1), covariance


def delong_interval(
    is_lung: Bool[np.ndarray, " n"], scores: Float[np.ndarray, " n"]
) -> tuple[float, float] | None:
    """Return DeLong's interval of the area, cut to [0, 1].

    None where it says nothing: fewer than two patients of either kind, or a variance of 0, as
    where the kinds are separated perfectly, which small cohorts are by chance.
    """
    areas, covariance = delong(is_lung, [scores])
    spread = math.sqrt(max(float(covariance[0, 0]), 0.0)) if np.isfinite(areas[0]) else 0.0
    if spread < 1e-12:
        return None
    area = float(areas[0])
    return max(area - _Z * spread, 0.0), min(area + _Z * spread, 1.0)


@dataclass(frozen=True)
class AreaTest:
    """Difference of two areas of the same patients, with DeLong's interval and two-sided test.

    Attributes:
        p_value: of no difference; None where the difference has no variance.
    """

    difference: float
    low: float | None
    high: float | None
    p_value: float | None


def delong_test(
    is_lung: Bool[np.ndarray, " n"],
    ours: Float[np.ndarray, " n"],
    theirs: Float[np.ndarray, " n"],
) -> AreaTest | None:
    """Compare two scores of the same patients; None with fewer than two of either kind."""
    areas, covariance = delong(is_lung, [ours, theirs])
    if not np.isfinite(areas).all():
        return None
    difference = float(areas[0] - areas[1])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if variance < 1e-24:
        return AreaTest(difference, None, None, None)
    spread = math.sqrt(variance)
    p_value = 2 * float(stats.norm.sf(abs(difference) / spread))
    return AreaTest(difference, difference - _Z * spread, difference + _Z * spread, p_value)
