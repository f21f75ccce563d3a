"""How sure a figure is: a bootstrap over patients, or an exact interval of a proportion.

Lesions and scans of one patient resemble each other, so the patient is what is drawn, with
replacement. A draw is a vector of weights, how often each patient was drawn; every statistic
here and beside is a function of such weights, and with ones it gives the figure itself. So a
figure and its interval cannot come from two formulas. Figures that share work are a family:
one pass over the weighted patients gives all of them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy import stats

Weights = Float[np.ndarray, " patients"]
Statistic = Callable[[Weights], float]
"""A figure from the weight of each patient; NaN where it is not defined."""

CONFIDENCE = 0.95
RESAMPLES = 2000
BOOTSTRAP = "bootstrap"
BLOCK = 64
"""Resamples that are drawn together; how many changes nothing but speed and memory."""


@dataclass(frozen=True)
class Estimate:
    """A figure, its interval, and how much it rests on.

    Attributes:
        n: units that the figure is taken over.
        unit: what those are, in the plural: ``lesions``.
        events: units of the kind that is counted, such as hits; None for a mean.
        note: what a reader must know, such as what was left out.
        value: None where the figure is not defined: no lesion, say, or one class only.
        low: lower bound of the central 95 %; None where there is none.
        high: upper bound.
        method: where the bounds come from: ``bootstrap``, ``exact`` or ``DeLong``.
    """

    name: str
    n: int
    unit: str
    events: int | None = None
    note: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    method: str = BOOTSTRAP


@dataclass(frozen=True, eq=False)
class Family:
    """Figures that one pass over the weighted patients gives together.

    Attributes:
        described: name, n and notes of each. Bounds that stand here already, exact ones for
            instance, are kept; the others come from the bootstrap.
        statistic: from the weight of each patient, the value of each; NaN where it has none.
        section: heading under which they stand in tables.
    """

    described: tuple[Estimate, ...]
    statistic: Callable[[Weights], Float[np.ndarray, " figures"]]
    section: str = ""


def family_of_one(described: Estimate, statistic: Statistic, section: str = "") -> Family:
    """Return a family with a single figure."""
    return Family((described,), lambda weights: np.array([statistic(weights)]), section)


def weighted_mean(values: Float[np.ndarray, " n"], weights: Float[np.ndarray, " n"]) -> float:
    """Return the mean; NaN without weight."""
    total = float(weights.sum())
    return float((values * weights).sum() / total) if total > 0 else float("nan")


def ratio(part: float, whole: float) -> float:
    """Return ``part / whole``; NaN where nothing is counted."""
    return part / whole if whole > 0 else float("nan")


def exact_interval(events: int, n: int) -> tuple[float, float] | None:
    """Return the Clopper-Pearson interval of a proportion; None where nothing is counted.

    It needs independent units: patients, not the lesions of one patient. It never covers the
    truth less often than it says, and usually more often.

    Source: Clopper and Pearson, Biometrika 1934; 26: 404-413.
    """
    if n < 1:
        return None
    interval = stats.binomtest(events, n).proportion_ci(CONFIDENCE, method="exact")
    return float(interval.low), float(interval.high)


def proportion(name: str, events: int, n: int, unit: str, note: str = "") -> Estimate:
    """Describe a share of independent units, with its exact interval."""
    low, high = exact_interval(events, n) or (None, None)
    value = events / n if n else None
    return Estimate(name, n, unit, events, note, value, low, high, method="exact")


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
    values = [statistic(weights) for weights in draws(patients, resamples, seed)]
    return percentile_interval(np.array(values, dtype=np.float64))


def percentile_interval(values: Float[np.ndarray, " resamples"]) -> tuple[float, float] | None:
    """Return the central 95 % of the finite values; None where there is none."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(finite, [tail, 100 - tail]).tolist()
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
    family = family_of_one(described, statistic)
    return measure_families([family], patients, resamples=resamples, seed=seed)[0][0]


def measure_families(
    families: Sequence[Family], patients: int, *, resamples: int = RESAMPLES, seed: int = 0
) -> list[list[Estimate]]:
    """Return the figures of each family, all with intervals from the same resampled patients."""
    values = [family.statistic(np.ones(patients)) for family in families]
    sampled = resample_families(families, patients, resamples, seed)
    return [
        [
            _measured(described, value, column)
            for described, value, column in zip(
                family.described, values[place].tolist(), sampled[place].T, strict=True
            )
        ]
        for place, family in enumerate(families)
    ]


def resample_families(
    families: Sequence[Family], patients: int, resamples: int, seed: int
) -> list[Float[np.ndarray, "resamples _"]]:
    """Return the values of each family in every resample; no rows with fewer than 2 patients."""
    count = resamples if patients >= 2 else 0
    sampled = [np.empty((count, len(family.described))) for family in families]
    for row, weights in enumerate(draws(patients, count, seed)):
        for family, table in zip(families, sampled, strict=True):
            table[row] = family.statistic(weights)
    return sampled


def draws(patients: int, resamples: int, seed: int) -> Iterator[Weights]:
    """Yield how often each patient is drawn, a few at a time: memory stays flat."""
    generator = np.random.default_rng(seed)
    equal = np.full(patients, 1 / patients) if patients else np.zeros(0)
    for done in range(0, resamples, BLOCK):
        size = min(BLOCK, resamples - done)
        yield from generator.multinomial(patients, equal, size=size).astype(np.float64)


def _measured(
    described: Estimate, value: float, resampled: Float[np.ndarray, " resamples"]
) -> Estimate:
    if not np.isfinite(value):
        return replace(described, value=None, low=None, high=None)
    if described.method != BOOTSTRAP:
        return replace(described, value=value)
    low, high = percentile_interval(resampled) or (None, None)
    return replace(described, value=value, low=low, high=high)
