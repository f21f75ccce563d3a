"""Counts of right and wrong calls at one threshold, and what papers make of them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from osteomet.evaluation.statistics import ratio


@dataclass(frozen=True)
class Confusion:
    """True and false positives and negatives; weighted counts may be fractions.

    A share of nothing is NaN: sensitivity, say, without a positive.
    """

    tp: float
    fn: float
    fp: float
    tn: float

    @property
    def n(self) -> float:
        return self.tp + self.fn + self.fp + self.tn

    @property
    def accuracy(self) -> float:
        return ratio(self.tp + self.tn, self.n)

    @property
    def sensitivity(self) -> float:
        return ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> float:
        return ratio(self.tn, self.tn + self.fp)

    @property
    def precision(self) -> float:
        return ratio(self.tp, self.tp + self.fp)

    @property
    def negative_predictive_value(self) -> float:
        return ratio(self.tn, self.tn + self.fn)

    @property
    def f1(self) -> float:
        return ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)


def confusion(
    is_positive: Bool[np.ndarray, " n"],
    scores: Float[np.ndarray, " n"],
    threshold: float,
    weights: Float[np.ndarray, " n"],
) -> Confusion:
    """Count calls, positive from ``threshold`` up, each patient ``weights`` times."""
    called = scores >= threshold
    return Confusion(
        tp=float(weights[is_positive & called].sum()),
        fn=float(weights[is_positive & ~called].sum()),
        fp=float(weights[~is_positive & called].sum()),
        tn=float(weights[~is_positive & ~called].sum()),
    )
