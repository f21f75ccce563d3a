"""Tables that come with public data sets: CSV and Excel."""

import csv
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from openpyxl import load_workbook
from openpyxl.utils.exceptions import InvalidFileException

from osteomet.errors import InputError

Row = Mapping[str, str]


def read_csv(path: Path, columns: Sequence[str]) -> list[Row]:
    """Return the rows of a CSV file, values without surrounding spaces.

    Raises:
        InputError: it cannot be read, or lacks one of ``columns``.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
            _check(path, reader.fieldnames, columns)
            return [{k: (v or "").strip() for k, v in row.items() if k} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV: {error}") from error


def read_excel(path: Path, columns: Sequence[str]) -> list[Row]:
    """Return the rows of the first sheet, below its first line; numbers and dates as text.

    Raises:
        InputError: it cannot be read, or lacks one of ``columns``.
    """
    try:
        book = load_workbook(path, read_only=True, data_only=True)
        cells = [
            ["" if value is None else str(value).strip() for value in row]
            for row in book.worksheets[0].iter_rows(values_only=True)
        ]
        book.close()
    except (OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as an Excel file: {error}") from error
    except InvalidFileException as error:
        raise InputError(f"{path}: is no Excel file; expected .xlsx") from error
    names = cells[0] if cells else []
    _check(path, names, columns)
    return [dict(zip(names, row, strict=False)) for row in cells[1:] if any(row)]


def only_table(source: Path, pattern: str) -> Path:
    """Return the one file below a folder whose name matches.

    Raises:
        InputError: there is none, or several.
    """
    found = [path for path in sorted(source.rglob(pattern)) if not path.name.startswith((".", "~"))]
    if len(found) != 1:
        raise InputError(
            f"{source}: has {len(found)} files called {pattern}; expected the one of the data set"
        )
    return found[0]


def age_of(text: str) -> float | None:
    """Return years: from "63", "63.5" or DICOM's "063Y"; None where nothing is said."""
    try:
        age = float(text.strip().upper().removesuffix("Y"))
    except ValueError:
        return None
    return age if 0 <= age <= 120 else None


def sex_of(text: str) -> str | None:
    """Return F or M from a letter or a word; None where nothing is said."""
    first = text.strip()[:1].upper()
    return first if first in ("F", "M") else None


def _check(path: Path, names: Sequence[str], columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in names]
    if missing:
        raise InputError(
            f"{path}: lacks the column {missing[0]!r}; it has {', '.join(names)}: is it the data "
            "set's own table?"
        )
