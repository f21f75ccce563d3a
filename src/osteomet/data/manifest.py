"""``cohort.csv``: which scans there are, what is known of each, and who trains on which.

One row a scan; paths are relative to the file's folder. Columns:

===========  ================================================================================
patient_id   one patient may have several rows
image        NIfTI, NRRD, MHA, a DICOM folder, a zip
mask         label map of lesions; empty where there is none
centre       hospital or data set; used to stratify the split
primary      lung, other or unknown
scan_id      optional; default: patient_id, with the row's number where that repeats
split        optional: train, val or test; all rows or none; never two for one patient
age, sex     optional: years; F or M
mask_kind    optional: ``auto`` (default: a map of 0 and 1 is split into components that touch
             by a face, an edge or a corner; any other map holds one label a lesion),
             ``instance`` (each label is one lesion, also in a map of 0 and 1) or ``none``
             (the scan was read and holds no lesion; mask and boxes are empty)
boxes        optional: CSV of boxes in LPS mm around lesions without a mask
ignore       optional: label map of regions neither rewarded nor punished
lesions      optional: CSV of attributes per lesion
===========  ================================================================================

A scan without lesions has an all-zero mask, a box file without rows, or ``mask_kind`` none. A
row with neither mask nor boxes says nothing about lesions and is refused.
"""

import csv
import difflib
import hashlib
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from osteomet.errors import AnnotationError, InputError
from osteomet.findings import PrimaryTumour

REQUIRED = ("patient_id", "image", "mask", "centre", "primary")
OPTIONAL = ("scan_id", "split", "age", "sex", "mask_kind", "boxes", "ignore", "lesions")
SPLITS = ("train", "val", "test")
DEFAULT_FRACTIONS = {"train": 0.8, "val": 0.2}


class MaskKind(StrEnum):
    """What the values of a mask mean."""

    AUTO = "auto"
    INSTANCE = "instance"
    NONE = "none"


_Kind = TypeVar("_Kind", bound=StrEnum)


@dataclass(frozen=True)
class Case:
    """One scan and what is known of it; the columns of ``cohort.csv``."""

    scan_id: str
    patient_id: str
    image: Path
    mask: Path | None
    centre: str
    primary: PrimaryTumour
    split: str | None = None
    age: float | None = None
    sex: str | None = None
    mask_kind: MaskKind = MaskKind.AUTO
    boxes: Path | None = None
    ignore: Path | None = None
    lesions: Path | None = None


@dataclass(frozen=True)
class Cohort:
    """The scans of a ``cohort.csv``, in its order.

    Attributes:
        cases: at least one.
        folder: what relative paths in the file refer to.
    """

    cases: tuple[Case, ...]
    folder: Path

    @property
    def has_split(self) -> bool:
        return self.cases[0].split is not None

    def of_split(self, split: str) -> tuple[Case, ...]:
        """Return the scans of one side of the split; may be empty."""
        return tuple(case for case in self.cases if case.split == split)


def read_cohort(path: Path) -> Cohort:
    """Read and check a ``cohort.csv``; files must exist but are not opened.

    Raises:
        InputError: the file cannot be read, lacks a column, or has one that looks misspelt.
        AnnotationError: a row is wrong; the first one is named.
    """
    cohort, faults = survey_cohort(path)
    two_sides = _disagreements(path, cohort.cases, "split", lambda case: case.split)
    for fault in (*faults, *two_sides):
        raise fault
    return cohort


def survey_cohort(path: Path) -> tuple[Cohort, tuple[AnnotationError, ...]]:
    """Read the rows that can be read, and say what is wrong with a ``cohort.csv``.

    Patients on two sides of the split are left for a later check to name with their scans.

    Raises:
        InputError: the file cannot be read, lacks a column, or has one that looks misspelt.
        AnnotationError: no row can be read; the first one is named.
    """
    rows = _read_rows(path)
    repeated = Counter(row["patient_id"] for row in rows)
    cases: list[Case] = []
    faults: list[AnnotationError] = []
    for row in rows:
        try:
            cases.append(_parse_row(row, named_once=repeated[row["patient_id"]] == 1))
        except AnnotationError as error:
            faults.append(error)
    if not cases:
        raise faults[0]
    faults += _faults_across_rows(path, cases)
    return Cohort(tuple(cases), path.parent), tuple(faults)


def with_split(
    cohort: Cohort, seed: int, fractions: Mapping[str, float] = DEFAULT_FRACTIONS
) -> Cohort:
    """Return the cohort split by patient, alike in primaries and centres on every side.

    The order of rows changes nothing. A side gets at least one patient.

    Args:
        cohort: any split it has is replaced.
        seed: another seed gives another split.
        fractions: share of the patients per side; they sum to 1.

    Raises:
        InputError: there are fewer patients than sides.
    """
    strata = {case.patient_id: (case.primary.value, case.centre) for case in cohort.cases}
    sides = [side for side, fraction in fractions.items() if fraction > 0]
    if not math.isclose(sum(fractions.values()), 1.0):
        raise ValueError(f"fractions {dict(fractions)} do not sum to 1")
    if len(strata) < len(sides):
        raise InputError(
            f"the cohort has {len(strata)} patients for the sides {', '.join(sides)}; expected "
            "at least one each: add patients or a split column"
        )
    # Patients of a stratum stand together, so that giving each to the side that lacks most
    # shares out every stratum as well as the whole.
    order = sorted(strata, key=lambda patient: (strata[patient], shuffled(seed, patient)))
    given = dict.fromkeys(sides, 0)
    side_of = {}
    for done, patient in enumerate(order, start=1):
        side = max(sides, key=lambda s: fractions[s] * done - given[s])
        given[side] += 1
        side_of[patient] = side
    for empty in [side for side in sides if not given[side]]:
        largest = max(sides, key=lambda s: given[s])
        moved = next(patient for patient in reversed(order) if side_of[patient] == largest)
        side_of[moved] = empty
        given[largest] -= 1
        given[empty] += 1
    cases = tuple(replace(case, split=side_of[case.patient_id]) for case in cohort.cases)
    return replace(cohort, cases=cases)


def write_split(path: Path, cohort: Cohort) -> None:
    """Write the split of a cohort into the ``cohort.csv`` it was read from.

    Other columns stay as they are. The file is replaced in one step.

    Raises:
        InputError: the file changed since it was read, or cannot be written.
    """
    rows = _read_rows(path)
    if len(rows) != len(cohort.cases):
        raise InputError(f"{path}: has {len(rows)} rows, {len(cohort.cases)} were read: run again")
    names = list(rows[0].values)
    names += [] if "split" in names else ["split"]
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            for row, case in zip(rows, cohort.cases, strict=True):
                writer.writerow({**row.values, "split": case.split or ""})
        partial.replace(path)
    except OSError as error:
        raise InputError(
            f"{path}: the split cannot be written ({error.strerror}); expected a writable file, "
            "or a split column in it"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Row:
    path: Path
    number: int
    values: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.values.get(column, "")

    def error(self, problem: str) -> AnnotationError:
        return AnnotationError(f"{self.path}, line {self.number}: {problem}")

    def file(self, column: str) -> Path | None:
        if not self[column]:
            return None
        file = self.path.parent / self[column]
        if not file.exists():
            raise self.error(
                f"{column} {self[column]!r} does not exist; expected a file, given relative to "
                f"{self.path.parent}"
            )
        return file

    def choice(self, column: str, kind: type[_Kind], default: _Kind) -> _Kind:
        text = self[column].lower()
        if not text:
            return default
        try:
            return kind(text)
        except ValueError:
            known = ", ".join(member.value for member in kind)
            raise self.error(f"{column} is {self[column]!r}; expected one of {known}") from None


def _read_rows(path: Path) -> list[_Row]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            names = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = names
            _check_columns(path, names)
            rows = []
            for row in reader:
                if None in row or None in row.values():
                    raise AnnotationError(
                        f"{path}, line {reader.line_num}: does not have the {len(names)} values "
                        "of the first line; expected one per column: quote values with commas"
                    )
                values = {name: value.strip() for name, value in row.items()}
                rows.append(_Row(path, reader.line_num, values))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); expected a cohort.csv"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: is not a CSV file in UTF-8: {error}") from error
    if not rows:
        raise InputError(f"{path}: has no rows; expected one per scan")
    return rows


def _check_columns(path: Path, names: list[str]) -> None:
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise InputError(
            f"{path}: lacks the column {missing[0]!r}; its first line names {', '.join(names)}; "
            f"expected {', '.join(REQUIRED)}, separated by commas"
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f"{path}: has the column {twice[0]!r} twice; expected it once")
    absent = [name for name in OPTIONAL if name not in names]
    for name in names:
        near = difflib.get_close_matches(name.lower(), absent, n=1, cutoff=0.8)
        if name not in REQUIRED + OPTIONAL and near:
            raise InputError(f"{path}: unknown column {name!r}: did you mean {near[0]!r}?")


def _parse_row(row: _Row, *, named_once: bool) -> Case:
    for column in ("patient_id", "image", "centre"):
        if not row[column]:
            raise row.error(f"{column} is empty; expected a value")
    image = row.file("image")
    if image is None:
        raise row.error("image is empty; expected a file")
    default_id = row["patient_id"] if named_once else f"{row['patient_id']}_{row.number - 1}"
    case = Case(
        scan_id=row["scan_id"] or default_id,
        patient_id=row["patient_id"],
        image=image,
        mask=row.file("mask"),
        centre=row["centre"],
        primary=_primary(row),
        split=_split(row),
        age=_age(row),
        sex=_sex(row),
        mask_kind=row.choice("mask_kind", MaskKind, MaskKind.AUTO),
        boxes=row.file("boxes"),
        ignore=row.file("ignore"),
        lesions=row.file("lesions"),
    )
    annotated = case.mask is not None or case.boxes is not None
    if not annotated and case.mask_kind is not MaskKind.NONE:
        raise row.error(
            "neither mask nor boxes is given; expected one of them, or mask_kind 'none' where "
            "the scan was read and holds no lesion"
        )
    if annotated and case.mask_kind is MaskKind.NONE:
        raise row.error("mask_kind is 'none' beside a mask or boxes; expected both empty")
    return case


def _primary(row: _Row) -> PrimaryTumour:
    if not row["primary"]:
        raise row.error("primary is empty; expected lung, other or unknown")
    return row.choice("primary", PrimaryTumour, PrimaryTumour.UNKNOWN)


def _split(row: _Row) -> str | None:
    split = row["split"].lower()
    if split and split not in SPLITS:
        raise row.error(f"split is {row['split']!r}; expected one of {', '.join(SPLITS)}")
    return split or None


def _age(row: _Row) -> float | None:
    if not row["age"]:
        return None
    try:
        age = float(row["age"])
    except ValueError:
        age = math.nan
    if not 0 <= age <= 120:
        raise row.error(f"age is {row['age']!r}; expected years, or nothing where it is unknown")
    return age


def _sex(row: _Row) -> str | None:
    if row["sex"].upper() not in ("", "F", "M"):
        raise row.error(f"sex is {row['sex']!r}; expected F or M, or nothing where it is unknown")
    return row["sex"].upper() or None


def _faults_across_rows(path: Path, cases: list[Case]) -> Iterator[AnnotationError]:
    scans = Counter(case.scan_id for case in cases)
    for scan_id, count in scans.items():
        if count > 1:
            yield AnnotationError(f"{path}: scan_id {scan_id!r} stands in {count} rows; expected 1")
    without = sum(case.split is None for case in cases)
    if 0 < without < len(cases):
        yield AnnotationError(
            f"{path}: split is empty in {without} of {len(cases)} rows; expected a value in all, "
            "or in none, and then a split is made"
        )
    yield from _disagreements(path, cases, "primary", lambda case: case.primary.value)


def _disagreements(
    path: Path, cases: Iterable[Case], column: str, value: Callable[[Case], str | None]
) -> Iterator[AnnotationError]:
    of_patient: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        of_patient[case.patient_id].add(value(case) or "")
    for patient, values in of_patient.items():
        if len(values) > 1:
            yield AnnotationError(
                f"{path}: patient {patient!r} has {column} {' and '.join(sorted(values))}; "
                "expected the same in all rows of a patient"
            )


def shuffled(seed: int, patient: str) -> str:
    """Return what patients are sorted by to be shuffled: the same wherever they stand."""
    return hashlib.sha256(f"{seed}/{patient}".encode()).hexdigest()
