"""``predictions.csv``: one line a scan, so that nobody has to search a log for what failed."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from osteomet.errors import ReportError
from osteomet.inference.cohort_scan import ScanOutcome
from osteomet.reporting.files import write_atomically

SUMMARY = "predictions.csv"
COLUMNS = (
    "scan_id", "patient_id", "state", "lesions", "p_lung", "seconds", "peak_memory_mb",
    "attempts", "warnings", "error",
)  # fmt: skip


def write_summary(outcomes: Sequence[ScanOutcome], out: Path) -> Path:
    """Write what became of each scan of the last run; an older file is replaced in one step.

    Raises:
        ReportError: the folder cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in outcomes:
        there = one.folder is not None
        writer.writerow(
            [
                one.case.scan_id,
                one.case.patient_id,
                one.state.value,
                one.lesions if there else "",
                "" if one.p_lung is None else f"{one.p_lung:.4f}",
                f"{one.seconds:.2f}" if there else "",
                f"{one.peak_memory_mb:.0f}" if there else "",
                one.attempts,
                "; ".join(one.warnings),
                one.error or "",
            ]
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReportError(
            f"{out}: cannot be made: {error.strerror}; choose another output folder"
        ) from error
    path = out / SUMMARY
    write_atomically(path, text.getvalue().encode())
    return path
