"""A data set on disk -> a cohort: ``cohort.csv``, what had to be converted, and ``notes.csv``."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from osteomet.data.adapters import (
    autopet,
    blds,
    deeplesion,
    dicom_drawings,
    monai,
    myeloma,
    nifti_pairs,
    nndetection,
    nnunet,
    spine_mets,
    uls23,
)
from osteomet.data.adapters.drafts import Draft, Request, Skipped
from osteomet.data.adapters.patients import Row, read_patients, with_patient
from osteomet.data.manifest import Case, Cohort, read_cohort, with_split
from osteomet.data.manifest_writer import write_cohort, write_table
from osteomet.errors import ConfigError, InputError, ReportError
from osteomet.findings import PrimaryTumour

Adapter = Callable[[Request], Iterator[Draft | Skipped]]

FORMATS: Mapping[str, Adapter] = {
    "nifti": nifti_pairs.find_scans,
    "dicom-seg": dicom_drawings.find_segmented,
    "dicom-rtstruct": dicom_drawings.find_contoured,
    "nnunet": nnunet.find_scans,
    "msd": nnunet.find_scans,
    "nndetection": nndetection.find_scans,
    "monai": monai.find_scans,
    "blds": blds.find_scans,
    "uls23": uls23.find_scans,
    "spine-mets": spine_mets.find_scans,
    "myeloma": myeloma.find_scans,
    "autopet": autopet.find_scans,
    "deeplesion": deeplesion.find_scans,
}
"""What ``osteomet import`` calls them."""

COHORT, NOTES = "cohort.csv", "notes.csv"


@dataclass(frozen=True)
class Note:
    """A line of ``notes.csv``.

    Attributes:
        scan: its scan_id, or the name of a file that is no scan.
        outcome: used or skipped.
        note: the doubt, or why it cannot be used.
    """

    scan: str
    outcome: str
    note: str


@dataclass(frozen=True)
class Imported:
    """A new cohort.

    Attributes:
        cohort: the ``cohort.csv``.
        cases: its rows, at least one.
        notes: what was skipped or doubtful; all of it stands in ``notes.csv``.
    """

    cohort: Path
    cases: tuple[Case, ...]
    notes: tuple[Note, ...]


def import_cohort(
    name: str,
    source: Path,
    output: Path,
    *,
    centre: str | None = None,
    lesions: str | None = None,
    patients: Path | None = None,
    report: Callable[[Note], None] = lambda note: None,
) -> Imported:
    """Turn a data set into a cohort that points at it; only what must be is converted.

    Args:
        name: of the format, one of ``FORMATS``.
        source: the data set's folder.
        output: folder of the cohort; made if missing. It may hold the rest of an interrupted
            import, and no ``cohort.csv``.
        centre: for the column of this name; None takes the data set's name.
        lesions: regular expression for the regions, segments or labels that are lesions.
        patients: CSV with primary, centre, age, sex or split by scan_id or patient_id.
        report: called with each note as it arises.

    Raises:
        ConfigError: the format or the expression is wrong.
        InputError: the source is not what the format says, or no scan of it can be used.
        ReportError: the output cannot be written.
    """
    adapter = _adapter(name)
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; expected a data set in the format {name}")
    table = read_patients(patients) if patients is not None else None
    request = Request(source, _prepared(output), centre, _compiled(lesions))
    drafts, notes = [], _Notes(report)
    for found in adapter(request):
        if isinstance(found, Skipped):
            notes.add(found.name, "skipped", found.reason)
            continue
        draft = found if table is None else _looked_up(found, table, notes)
        drafts.append(draft)
        for text in draft.notes:
            notes.add(draft.case.scan_id, "used", text)
    if not drafts:
        first = f"; the first: {notes.all[0].scan}: {notes.all[0].note}" if notes.all else ""
        raise InputError(
            f"{source}: no scan in the format {name} can be used ({len(notes.all)} were "
            f"skipped){first}"
        )
    cases = _checked([draft.case for draft in drafts], notes)
    write_table(output / NOTES, ("scan", "outcome", "note"), [vars(note) for note in notes.all])
    write_cohort(output / COHORT, cases)
    # Whoever trains on it reads it this way: what it refuses must come to light now.
    return Imported(output / COHORT, read_cohort(output / COHORT).cases, tuple(notes.all))


class _Notes:
    """All notes so far, each told as it arises."""

    def __init__(self, report: Callable[[Note], None]) -> None:
        self.all: list[Note] = []
        self._report = report

    def add(self, scan: str, outcome: str, text: str) -> None:
        note = Note(scan, outcome, " ".join(text.split()))
        self.all.append(note)
        self._report(note)


def _adapter(name: str) -> Adapter:
    if name not in FORMATS:
        raise ConfigError(f"there is no format {name!r}; expected one of {', '.join(FORMATS)}")
    return FORMATS[name]


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    try:
        return None if pattern is None else re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise ConfigError(
            f"--lesions {pattern}: is no regular expression ({error}); expected a part of the "
            "names of lesions, such as 'tumou?r'"
        ) from error


def _prepared(output: Path) -> Path:
    if (output / COHORT).exists():
        raise InputError(
            f"{output / COHORT}: is already there, and may have been edited; expected a new "
            "folder: choose another, or delete that file to import again"
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReportError(
            f"{output}: cannot be made ({error.strerror}); expected a writable place"
        ) from error
    return output


def _looked_up(draft: Draft, table: Mapping[str, Row], notes: _Notes) -> Draft:
    found, known = with_patient(draft, table)
    if not known:
        notes.add(draft.case.scan_id, "used", "the table of patients has no row for it")
    return found


def _checked(cases: Sequence[Case], notes: _Notes) -> list[Case]:
    """Return the cases as ``read_cohort`` wants them: distinct, and one in each patient."""
    return _one_side(_one_primary(_distinct(cases, notes), notes), notes)


def _distinct(cases: Iterable[Case], notes: _Notes) -> list[Case]:
    found: dict[str, Case] = {}
    for case in cases:
        count, name = 1, case.scan_id
        while name in found:
            count += 1
            name = f"{case.scan_id}-{count}"
        if name != case.scan_id:
            notes.add(name, "used", f"renamed: there are several scans called {case.scan_id}")
        found[name] = replace(case, scan_id=name)
    return list(found.values())


def _one_primary(cases: Sequence[Case], notes: _Notes) -> list[Case]:
    known: dict[str, set[PrimaryTumour]] = defaultdict(set)
    for case in cases:
        known[case.patient_id] |= {case.primary} - {PrimaryTumour.UNKNOWN}
    found = []
    for case in cases:
        primaries = known[case.patient_id]
        primary = next(iter(primaries)) if len(primaries) == 1 else PrimaryTumour.UNKNOWN
        if primary is not case.primary:
            text = f"the primary became {primary.value}: all scans of a patient have one"
            notes.add(case.scan_id, "used", text)
        found.append(replace(case, primary=primary))
    return found


def _one_side(cases: Sequence[Case], notes: _Notes) -> list[Case]:
    """Give a side to scans without one, if others have one; a patient stays on one side."""
    side_of: dict[str, str] = {}
    for case in cases:
        if case.split is not None and case.split != side_of.setdefault(case.patient_id, case.split):
            text = f"went to {side_of[case.patient_id]}, where another scan of its patient is"
            notes.add(case.scan_id, "used", text)
    rest = [case for case in cases if case.patient_id not in side_of]
    if not side_of or not rest:
        return [replace(case, split=side_of.get(case.patient_id)) for case in cases]
    text = f"{len(rest)} scans have no split, others have: they train"
    if len({case.patient_id for case in rest}) > 1 and set(side_of.values()) == {"test"}:
        text = f"{len(rest)} scans have no split, others test: they were split into train and val"
        rest = list(with_split(Cohort(tuple(rest), Path()), seed=0).cases)
    side_of |= {case.patient_id: case.split or "train" for case in rest}
    notes.add(COHORT, "used", text)
    return [replace(case, split=side_of[case.patient_id]) for case in cases]
