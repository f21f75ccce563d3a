"""Write a ``cohort.csv`` and the tables beside it."""

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from osteomet.data.manifest import OPTIONAL, REQUIRED, Case, MaskKind
from osteomet.errors import ReportError


def write_cohort(path: Path, cases: Sequence[Case]) -> None:
    """Write one row a scan, in columns that are used; paths become relative to the file's folder.

    The file appears whole or not at all.

    Args:
        path: the new ``cohort.csv``; one that is there is replaced.
        cases: at least one.

    Raises:
        ReportError: the folder is missing, full or read-only.
    """
    rows = [_row(case, path.parent) for case in cases]
    used = [name for name in OPTIONAL if any(row[name] for row in rows)]
    write_table(path, (*REQUIRED, *used), rows)


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write a CSV file with these columns of ``rows``, whole or not at all.

    Raises:
        ReportError: the folder is missing, full or read-only.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8, whole or not at all.

    Raises:
        ReportError: the folder is missing, full or read-only.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8", newline="")
        partial.replace(path)
    except OSError as error:
        raise ReportError(
            f"{path}: cannot be written: {error.strerror}; expected a writable folder with space"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _row(case: Case, folder: Path) -> dict[str, str]:
    return {
        "patient_id": case.patient_id,
        "image": relative(case.image, folder),
        "mask": relative(case.mask, folder),
        "centre": case.centre,
        "primary": case.primary.value,
        "scan_id": case.scan_id,
        "split": case.split or "",
        "age": "" if case.age is None else f"{case.age:g}",
        "sex": case.sex or "",
        "mask_kind": "" if case.mask_kind is MaskKind.AUTO else case.mask_kind.value,
        "boxes": relative(case.boxes, folder),
        "ignore": relative(case.ignore, folder),
        "lesions": relative(case.lesions, folder),
    }


def relative(path: Path | None, folder: Path) -> str:
    """Return a path relative to a folder; the absolute one where drives differ; "" for None."""
    if path is None:
        return ""
    try:
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return path.resolve().as_posix()
