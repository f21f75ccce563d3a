"""Who is in a simulated cohort: seeds, centres, primaries and sides of the split.

Two ways: any number of patients, each with a centre and a primary by chance; or exact
numbers from two centres, each with its own share of lung cancer, as two hospitals have.
Nobody depends on how many there are: a larger cohort begins with the smaller one, centre by
centre.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from osteomet.errors import ConfigError
from osteomet.simulate.scanner import CENTRES

LUNG_SHARES = {"A": 56 / 106, "B": 89 / 265}
"""Lung cancer among the patients of Zhao et al., J Bone Oncol 2024; 48: 100637."""

DEFAULT_SPLITS = {"train": 0.7, "val": 0.15, "test": 0.15}
GOLDEN = (5**0.5 - 1) / 2
FIRST_CENTRE_KEY = 1_000_000
"""Keeps the patients of two centres apart from those of a cohort without."""


@dataclass(frozen=True)
class Enrolment:
    """One patient to be simulated.

    Attributes:
        patient_id: in the cohort.
        seed: of the patient.
        split: side of the split.
        centre: None draws it.
        is_lung: the primary; None draws it.
    """

    patient_id: str
    seed: int
    split: str
    centre: str | None = None
    is_lung: bool | None = None


def enrol(count: int, seed: int, splits: Mapping[str, float] | None = None) -> list[Enrolment]:
    """Return patients whose centre and primary are drawn.

    Args:
        count: how many; may be 0.
        seed: of the cohort.
        splits: share of each side; ``DEFAULT_SPLITS`` if None.

    Raises:
        ConfigError: the shares do not sum to 1, or a number is negative.
    """
    shares = _checked(splits)
    _check_counts({"count": count, "seed": seed})
    return [
        Enrolment(f"sim{seed}-{k:05d}", _patient_seed(seed, k), side_of(k, shares))
        for k in range(count)
    ]


def enrol_centres(
    counts: Mapping[str, int], seed: int, splits: Mapping[str, float] | None = None
) -> list[Enrolment]:
    """Return exact numbers of patients of each centre, with the centre's share of lung cancer.

    Args:
        counts: patients by centre.
        seed: of the cohort.
        splits: share of each side, met within each centre and primary as nearly as whole
            patients allow; ``DEFAULT_SPLITS`` if None.

    Raises:
        ConfigError: an unknown centre, shares that do not sum to 1, or a negative number.
    """
    shares = _checked(splits)
    _check_counts({**counts, "seed": seed})
    enrolled = []
    for centre, count in counts.items():
        if centre not in CENTRES:
            raise ConfigError(f"centre {centre!r}; expected one of {', '.join(CENTRES)}")
        lung = lung_of(centre, count)
        seen = {True: 0, False: 0}
        for k, is_lung in enumerate(lung):
            split = side_of(seen[is_lung], shares)
            seen[is_lung] += 1
            enrolled.append(
                Enrolment(
                    f"sim{seed}-{centre}{k:05d}",
                    _patient_seed(seed, FIRST_CENTRE_KEY + CENTRES.index(centre), k),
                    split, centre, is_lung,
                )
            )  # fmt: skip
    return enrolled


def lung_of(centre: str, count: int) -> list[bool]:
    """Tell which of a centre's patients have lung cancer: its share, spread evenly."""
    share = LUNG_SHARES[centre]
    reached = [math.floor(k * share + 1e-9) for k in range(count + 1)]
    return [after > before for before, after in itertools.pairwise(reached)]


def side_of(k: int, shares: Mapping[str, float]) -> str:
    """Return the side of the k-th patient; every run of patients has nearly the shares."""
    # Multiples of the golden ratio spread evenly.
    position, reached = (0.5 + k * GOLDEN) % 1.0, 0.0
    for name, share in shares.items():
        reached += share
        if position < reached:
            return name
    return list(shares)[-1]


def _checked(splits: Mapping[str, float] | None) -> dict[str, float]:
    shares = dict(DEFAULT_SPLITS if splits is None else splits)
    if not shares or min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise ConfigError(
            f"the splits {shares} do not sum to 1; give each split its share of the patients"
        )
    return shares


def _check_counts(numbers: Mapping[str, int]) -> None:
    for name, number in numbers.items():
        if number < 0:
            raise ConfigError(f"{name} is {number}; expected 0 or more")


def _patient_seed(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
