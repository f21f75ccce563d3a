"""Two models on the same patients: differences, with intervals that use the pairing.

Both models see the same easy and hard patients, so that a difference is surer than two separate
intervals suggest. Each resample draws patients once, for both; the areas under the ROC curves are
also compared by DeLong's test.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from osteomet.errors import InputError
from osteomet.evaluation.cohort import Evaluation
from osteomet.evaluation.primary import auc
from osteomet.evaluation.primary_figures import PRIMARY
from osteomet.evaluation.roc import delong_test
from osteomet.evaluation.scored import Labelled
from osteomet.evaluation.statistics import BOOTSTRAP, percentile_interval, resample_families


@dataclass(frozen=True)
class Difference:
    """A figure of two models, ours less theirs.

    Attributes:
        n: units of ours that the figure is taken over; ``n_theirs`` of theirs.
        low: lower bound of the difference's 95 % interval; None where there is none.
        p_value: two-sided, of no difference; not corrected for the number of figures.
        method: of interval and p-value: paired bootstrap or paired DeLong.
    """

    name: str
    section: str
    n: int
    n_theirs: int
    unit: str
    ours: float
    theirs: float
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    method: str


def compare(ours: Evaluation, theirs: Evaluation) -> tuple[Difference, ...]:
    """Compare two evaluations figure by figure, by the settings of ours.

    Figures that one of them lacks are left out; those of size classes and thresholds are named
    after them, so that only like is compared with like.

    Raises:
        InputError: they are of different scans.
    """
    _check(ours, theirs)
    draws = ours.patients, ours.resamples, ours.seed
    sampled = [_columns(one, resample_families(one.families, *draws)) for one in (ours, theirs)]
    differences = []
    for section, estimates in ours.sections.items():
        for one in estimates:
            other = next((o for o in theirs.sections.get(section, ()) if o.name == one.name), None)
            if one.value is None or other is None or other.value is None:
                continue
            gap = sampled[0][section, one.name] - sampled[1][section, one.name]
            low, high = percentile_interval(gap) or (None, None)
            differences.append(
                Difference(
                    one.name,
                    section,
                    one.n,
                    other.n,
                    one.unit,
                    one.value,
                    other.value,
                    one.value - other.value,
                    low,
                    high,
                    _p_value(gap),
                    f"paired {BOOTSTRAP}",
                )
            )
    return (*_areas(ours, theirs), *differences)


def _areas(ours: Evaluation, theirs: Evaluation) -> list[Difference]:
    """Compare the AUC by DeLong's test, over the patients that both predicted."""
    first, second = (Labelled.of_cohort(one.cohort) for one in (ours, theirs))
    both = np.isfinite(first.p_lung) & np.isfinite(second.p_lung)
    is_lung = first.is_lung[both]
    test = delong_test(is_lung, first.p_lung[both], second.p_lung[both])
    if test is None:
        return []
    n = int(both.sum())
    ones = np.ones(n)
    area, other_area = (auc(is_lung, one.p_lung[both], ones) for one in (first, second))
    return [
        Difference(
            "AUC, patients that both predicted",
            PRIMARY,
            n,
            n,
            "patients",
            area,
            other_area,
            test.difference,
            test.low,
            test.high,
            test.p_value,
            "paired DeLong",
        )
    ]


def _columns(
    evaluation: Evaluation, sampled: Sequence[Float[np.ndarray, "resamples _"]]
) -> dict[tuple[str, str], Float[np.ndarray, " resamples"]]:
    """Return the resampled values of each figure, by section and name."""
    return {
        (family.section, described.name): table[:, column]
        for family, table in zip(evaluation.families, sampled, strict=True)
        for column, described in enumerate(family.described)
    }


def _p_value(gap: Float[np.ndarray, " resamples"]) -> float | None:
    """Return twice the share of resamples on the rarer side of 0, never below one resample.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 15.4.
    """
    finite = gap[np.isfinite(gap)]
    if not len(finite):
        return None
    rarer = min(int((finite <= 0).sum()), int((finite >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(finite) + 1))


def _check(ours: Evaluation, theirs: Evaluation) -> None:
    scans = [
        {(s.patient_id, s.scan_id, s.primary): s.reported.lesions for s in one.scans}
        for one in (ours, theirs)
    ]
    apart = sorted(set(scans[0].items()) ^ set(scans[1].items()))
    if apart:
        raise InputError(
            f"scan {apart[0][0][1]} is not the same in both evaluations; expected predictions of "
            "the same scans against the same masks"
        )
    if ours.cohort.names != theirs.cohort.names:
        raise InputError("the two evaluations list patients in another order; expected one order")
