"""A table of what is known of scans or patients, for sets that hold masks alone."""

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from osteomet.data.adapters.drafts import Draft, primary_of
from osteomet.data.manifest import SPLITS
from osteomet.errors import AnnotationError, InputError

KEYS = ("scan_id", "patient_id")
COLUMNS = ("primary", "centre", "age", "sex", "split")

Row = Mapping[str, str]


def read_patients(path: Path) -> dict[str, Row]:
    """Read a table by its first key column: ``scan_id``, else ``patient_id``.

    Other columns, all optional: patient_id beside scan_id, primary, centre, age, sex, split.

    Raises:
        AnnotationError: a key is empty or stands in two rows, or a value is wrong.
        InputError: the file cannot be read, or lacks both key columns.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = names
            rows = [{k: (v or "").strip() for k, v in row.items() if k in names} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV: {error}") from error
    key = next((name for name in KEYS if name in names), None)
    if key is None:
        raise InputError(
            f"{path}: has the columns {', '.join(names)}; expected scan_id or patient_id, and any "
            f"of {', '.join(COLUMNS)}"
        )
    found: dict[str, Row] = {}
    for number, row in enumerate(rows, start=2):
        _check(path, number, row, key)
        if row[key] in found:
            raise AnnotationError(
                f"{path}, line {number}: {key} {row[key]!r} stands in two rows; expected one"
            )
        found[row[key]] = row
    return found


def with_patient(draft: Draft, table: Mapping[str, Row]) -> tuple[Draft, bool]:
    """Return a draft with what the table knows, and whether it has a row there."""
    case = draft.case
    row = table.get(case.scan_id) or table.get(case.patient_id)
    if row is None:
        return draft, False
    primary = primary_of(row["primary"]) if row.get("primary") else case.primary
    age = float(row["age"]) if row.get("age") else case.age
    return replace(
        draft,
        case=replace(
            case,
            patient_id=row.get("patient_id") or case.patient_id,
            primary=primary,
            centre=row.get("centre") or case.centre,
            age=age,
            sex=row.get("sex", "").upper() or case.sex,
            split=row.get("split", "").lower() or case.split,
        ),
    ), True


def _check(path: Path, number: int, row: Row, key: str) -> None:
    where = f"{path}, line {number}"
    if not row[key]:
        raise AnnotationError(f"{where}: {key} is empty; expected a value")
    if row.get("sex", "").upper() not in ("", "F", "M"):
        raise AnnotationError(f"{where}: sex is {row['sex']!r}; expected F or M, or nothing")
    if row.get("split", "").lower() not in ("", *SPLITS):
        raise AnnotationError(f"{where}: split is {row['split']!r}; expected {', '.join(SPLITS)}")
    try:
        known = 0 <= float(row.get("age") or 0) <= 120
    except ValueError:
        known = False
    if not known:
        raise AnnotationError(f"{where}: age is {row['age']!r}; expected years, or nothing")
