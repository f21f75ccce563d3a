"""Which counts of patients can lie behind the figures that a paper prints.

Accuracy, sensitivity, specificity and F1 are ratios of four whole numbers, and rounding to three
digits leaves few of those. So printed figures give away how many patients they were taken over,
and figures that no four numbers give were not computed on one set of patients.

A figure is given as text: its digits say how it was rounded, and ``0.90`` is not ``0.9``.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from osteomet.errors import ConfigError, InputError
from osteomet.evaluation.statistics import exact_interval

FIGURES = ("accuracy", "sensitivity", "specificity", "f1")
MAX_PATIENTS = 400

_NUMBER = re.compile(r"(\d*\.?\d+|\d+\.)\s*(%?)")


@dataclass(frozen=True)
class Printed:
    """A figure as it was printed, and all that may have been rounded to it.

    Attributes:
        text: as given.
        low: smallest value that rounds to it, halves rounded either way.
        high: largest.
    """

    text: str
    low: Fraction
    high: Fraction

    @classmethod
    def parse(cls, text: str, name: str = "figure") -> "Printed":
        """Read a figure such as ``.886``, ``1.000`` or ``88.6 %``.

        Raises:
            ConfigError: it is no number between 0 and 1, or between 0 % and 100 %.
        """
        match = _NUMBER.fullmatch(text.strip())
        if match is None:
            raise ConfigError(f"{name} is {text!r}; expected digits as printed: .886 or 88.6%")
        number = Decimal(match[1])
        scale = 100 if match[2] else 1
        exponent = number.as_tuple().exponent
        digits = -exponent if isinstance(exponent, int) else 0
        value = Fraction(number) / scale
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} is {text!r}; expected a share from 0 to 1, or with a %")
        half = Fraction(1, 2 * 10**digits * scale)
        return cls(text.strip(), max(value - half, Fraction(0)), min(value + half, Fraction(1)))

    def holds(self, part: int, whole: int) -> bool:
        """Say whether ``part / whole`` rounds to this; nothing rounds to a share of nothing."""
        low, high = self.low, self.high
        return (
            whole > 0
            and low.numerator * whole <= part * low.denominator
            and part * high.denominator <= high.numerator * whole
        )

    def parts(self, whole: int) -> range:
        """Return the numbers of ``whole`` that round to this."""
        # Whole numbers throughout: a rounding error here would lose or invent a matrix.
        first = -(-self.low.numerator * whole // self.low.denominator)
        return range(first, self.high.numerator * whole // self.high.denominator + 1)


@dataclass(frozen=True)
class PrintedRow:
    """The figures of one row of a paper's table; None where it has none."""

    name: str
    accuracy: Printed | None = None
    sensitivity: Printed | None = None
    specificity: Printed | None = None
    f1: Printed | None = None

    @classmethod
    def parse(cls, name: str, figures: Mapping[str, str | None]) -> "PrintedRow":
        """Read a row from texts by name of the figure; an empty one is not printed.

        Raises:
            ConfigError: a figure is not a share, or fewer than two are given.
        """
        read = {
            figure: Printed.parse(text, f"{figure} of {name}")
            for figure in FIGURES
            if (text := figures.get(figure))
        }
        if len(read) < 2:
            raise ConfigError(
                f"{name}: {len(read)} figures; expected at least two of {', '.join(FIGURES)}"
            )
        return cls(name, **read)


@dataclass(frozen=True, order=True)
class Matrix:
    """A confusion matrix; positive is the kind whose share caught is the sensitivity."""

    tp: int
    fn: int
    fp: int
    tn: int

    @property
    def positives(self) -> int:
        return self.tp + self.fn

    @property
    def negatives(self) -> int:
        return self.fp + self.tn

    @property
    def n(self) -> int:
        return self.positives + self.negatives

    def intervals(self) -> dict[str, tuple[int, int, tuple[float, float] | None]]:
        """Return events, n and exact 95 % interval of each share of patients."""
        shares = {
            "accuracy": (self.tp + self.tn, self.n),
            "sensitivity": (self.tp, self.positives),
            "specificity": (self.tn, self.negatives),
        }
        return {
            name: (events, n, exact_interval(events, n)) for name, (events, n) in shares.items()
        }


def matrices(row: PrintedRow, positives: int, negatives: int) -> Iterator[Matrix]:
    """Yield every confusion matrix of such a cohort whose figures round to those printed."""
    n = positives + negatives
    right = range(n + 1) if row.accuracy is None else row.accuracy.parts(n)
    for tn in _parts(row.specificity, negatives):
        for tp in _parts(row.sensitivity, positives):
            if tp + tn not in right:
                continue
            errors = positives - tp + negatives - tn
            if row.f1 is None or row.f1.holds(2 * tp, 2 * tp + errors):
                yield Matrix(tp, positives - tp, negatives - tn, tn)


def all_matrices(row: PrintedRow, max_patients: int = MAX_PATIENTS) -> list[Matrix]:
    """Return every confusion matrix of up to so many patients, the fewest patients first."""
    return [
        matrix
        for positives, negatives in _sizes(max_patients)
        for matrix in matrices(row, positives, negatives)
    ]


def common_sizes(
    rows: Sequence[PrintedRow], max_patients: int = MAX_PATIENTS
) -> list[tuple[int, int]]:
    """Return the numbers of positives and negatives that can give every row, fewest first.

    Rows of one table are usually models on the same patients, so that one size must fit all.
    """
    return [
        size
        for size in _sizes(max_patients)
        if all(next(matrices(row, *size), None) is not None for row in rows)
    ]


def implied_share(row: PrintedRow) -> tuple[float, float] | None:
    """Return bounds of the share of positives, which need no counts.

    Accuracy lies between sensitivity and specificity, as near to the first as positives are many.
    Bounds outside [0, 1] say that the figures are not of one set of patients. None where a figure
    is missing, or sensitivity and specificity may be equal.
    """
    if row.accuracy is None or row.sensitivity is None or row.specificity is None:
        return None
    sensitivity, specificity = row.sensitivity, row.specificity
    if sensitivity.low <= specificity.high and specificity.low <= sensitivity.high:
        return None
    shares = [
        (accuracy - b) / (a - b)
        for accuracy in (row.accuracy.low, row.accuracy.high)
        for a in (sensitivity.low, sensitivity.high)
        for b in (specificity.low, specificity.high)
    ]
    return float(min(shares)), float(max(shares))


def read_rows(path: Path) -> list[PrintedRow]:
    """Read a CSV with a column ``name`` and those of ``FIGURES`` that the paper prints.

    Raises:
        InputError: the file cannot be read, or has no such columns or no row.
        ConfigError: a figure is not a share.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = set(reader.fieldnames or ())
            table = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV: {error}") from error
    if "name" not in names or len(names & set(FIGURES)) < 2 or not table:
        raise InputError(
            f"{path}: has the columns {', '.join(sorted(names)) or 'none'} and {len(table)} rows; "
            f"expected name and at least two of {', '.join(FIGURES)}, one row a model"
        )
    return [PrintedRow.parse(row["name"], row) for row in table]


def parse_cohort(text: str) -> tuple[int, int]:
    """Read ``26/18``: positives and negatives.

    Raises:
        ConfigError: it is not two whole numbers.
    """
    match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
    if match is None:
        raise ConfigError(f"cohort {text!r}; expected positives/negatives, such as 26/18")
    return int(match[1]), int(match[2])


def _parts(printed: Printed | None, whole: int) -> range:
    return range(whole + 1) if printed is None or whole == 0 else printed.parts(whole)


def _sizes(max_patients: int) -> Iterator[tuple[int, int]]:
    """Yield positives and negatives, the smallest total first, at least one of each."""
    for n in range(2, max_patients + 1):
        yield from ((positives, n - positives) for positives in range(1, n))
