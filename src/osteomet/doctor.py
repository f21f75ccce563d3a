"""Read a cohort once, say what is wrong with it, and write a page with pictures.

``doctor.html`` is for people, ``doctor.json`` for programs; ``measurements`` keeps what was
measured of each scan, so that a stopped run goes on and a corrected cohort is read only where it
changed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int16

import osteomet
from osteomet.checkup import Checkup, Finding, ScanRecord
from osteomet.data.cohort_checks import check_cohort, check_confounding, near_copies
from osteomet.data.confounding import guess_primary
from osteomet.data.examination_store import examine_cohort, read_record, read_views
from osteomet.data.manifest import survey_cohort
from osteomet.data.scan_checks import check_scan
from osteomet.errors import ReportError
from osteomet.reporting.doctor_html import write_page
from osteomet.reporting.files import write_atomically

PAGE, RECORD, MEASUREMENTS = "doctor.html", "doctor.json", "measurements"


@dataclass(frozen=True)
class Diagnosis:
    """What was found, and the page that shows it."""

    checkup: Checkup
    page: Path


def examine_and_report(
    cohort_file: Path,
    output: Path,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Diagnosis:
    """Check a cohort and write the page about it.

    Args:
        cohort_file: ``cohort.csv``.
        output: folder of the page and the measurements; made if it is missing.
        workers: processes that read scans.
        progress: called with scans done and in all, after each.

    Raises:
        InputError: ``cohort.csv`` cannot be read at all, or the measurements not be written.
        ReportError: the page cannot be written.
    """
    cohort, faults = survey_cohort(cohort_file)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReportError(f"{output}: cannot be made ({error.strerror}); give another") from error
    paths = examine_cohort(cohort.cases, output / MEASUREMENTS, workers=workers, progress=progress)
    records = tuple(read_record(path) for path in paths)
    guesses = guess_primary(records)
    checkup = Checkup(
        cohort=cohort_file.name,
        osteomet_version=osteomet.__version__,
        scans=records,
        findings=(
            *check_cohort(records, [str(fault) for fault in faults]),
            *near_copies(records, _thumbnails(paths)),
            *check_confounding(guesses),
            *_of_scans(records),
        ),
        guesses=guesses,
    )
    write_atomically(output / RECORD, checkup.model_dump_json(indent=2).encode())
    write_page(output / PAGE, checkup, lambda place: read_views(paths[place]))
    return Diagnosis(checkup, output / PAGE)


def _of_scans(records: Sequence[ScanRecord]) -> list[Finding]:
    return [finding for record in records for finding in check_scan(record)]


def _thumbnails(paths: Sequence[Path]) -> dict[int, Int16[np.ndarray, " n"]]:
    found = ((place, read_views(path).thumbnail) for place, path in enumerate(paths))
    return {place: thumbnail for place, thumbnail in found if thumbnail is not None}
