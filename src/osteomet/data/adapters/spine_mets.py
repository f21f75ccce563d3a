"""Spine-Mets-CT-SEG (TCIA): CT, a SEG of the vertebrae, and a spreadsheet of those with lesions.

The masks are weak: the whole vertebra stands for its lesions. Columns of the spreadsheet: ``Case``
(PatientID), ``Primary cancer``, ``Age (Y)``, ``Sex``, ``Vertebrae with Lesions``, and lists of the
vertebrae with blastic, lytic and mixed ones.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from osteomet.data.adapters.dicom_scans import (
    DrawnScan,
    draft_of_regions,
    image_for,
    pair,
    read_series,
)
from osteomet.data.adapters.drafts import Draft, Request, Skipped, attempt, primary_of
from osteomet.data.adapters.tables import Row, age_of, only_table, read_excel, sex_of
from osteomet.data.manifest import MaskKind
from osteomet.data.manifest_writer import write_table
from osteomet.errors import AnnotationError
from osteomet.io.dicom_folder import DicomFolder, read_folder
from osteomet.io.dicom_seg import read_segmentation, segment_labels
from osteomet.io.scan_record import blaming

TABLE = "Spine-Mets*.xlsx"
LESIONS = "Vertebrae with Lesions"
COLUMNS = ("Case", "Primary cancer", LESIONS)
TYPES = {"Blastic": "sclerotic", "Lytic": "lytic", "Mixed": "mixed"}

LEVEL = re.compile(r"\b([CTLS])\s*(\d{1,2})\b", re.IGNORECASE)
SPAN = re.compile(
    r"\b([CTLS])\s*(\d{1,2})\s*(?:-|\u2013|to)\s*(?:([CTLS])\s*)?(\d{1,2})\b", re.IGNORECASE
)
COUNTS = {"C": 7, "T": 12, "L": 5, "S": 5}
SPINE = [f"{part}{n}" for part, count in COUNTS.items() for n in range(1, count + 1)]


def find_scans(request: Request) -> Iterator[Draft | Skipped]:
    """Yield each CT with the vertebrae that the spreadsheet gives lesions.

    Raises:
        InputError: the spreadsheet or the segmentations are missing.
    """
    table = {row["Case"]: row for row in read_excel(only_table(request.source, TABLE), COLUMNS)}
    folder = read_folder(request.source)
    with blaming(request.source):
        scans, alone = pair(folder, "SEG")
    yield from alone
    for scan in scans:
        yield attempt(scan.series.header.patient, partial(_draft, request, folder, scan, table))


def levels(text: str) -> tuple[str, ...]:
    """Return the vertebrae that a cell names, from head to foot, whatever separates them.

    "T1-T3" and "T1-3" are T1, T2 and T3.
    """
    found = {f"{part.upper()}{int(number)}" for part, number in LEVEL.findall(text)}
    for part, first, other, last in SPAN.findall(text):
        ends = (f"{part.upper()}{int(first)}", f"{(other or part).upper()}{int(last)}")
        if all(end in SPINE for end in ends):
            low, high = (SPINE.index(end) for end in ends)
            found |= set(SPINE[low : high + 1])
    return tuple(sorted(found, key=lambda level: ("CTLS".index(level[0]), int(level[1:]))))


def _draft(
    request: Request, folder: DicomFolder, drawn: DrawnScan, table: Mapping[str, Row]
) -> Draft:
    patient = drawn.series.header.patient
    row = table.get(patient)
    if row is None:
        raise AnnotationError("the spreadsheet has no row for it; expected one by PatientID")
    drawing = drawn.drawings[0]
    wanted, notes = _affected(row, segment_labels(drawing))
    if len(drawn.drawings) > 1:
        notes.append(f"{len(drawn.drawings)} segmentations of one CT: the first was used")
    scan = read_series(folder, drawn.series, request.source)
    pattern = re.compile(rf"\b({'|'.join(wanted)})\b", re.IGNORECASE)
    regions = read_segmentation(drawing, scan.volume, pattern)
    # That the other vertebrae were left out is the method and no doubt.
    doubts = tuple(text for text in regions.warnings if "left out" not in text)
    draft = draft_of_regions(
        request,
        image_for(request, folder, drawn.series, patient, scan.volume),
        scan,
        replace(regions, warnings=doubts),
        scan_id=patient,
        patient_id=patient,
        centre="spine-mets-ct-seg",
        primary=primary_of(row["Primary cancer"]),
    )
    attributes = request.converted("lesions", patient, ".csv")
    write_table(attributes, ("label", "level", "type"), _attributes(regions.names, row))
    case = replace(
        draft.case,
        mask_kind=MaskKind.INSTANCE,
        age=age_of(row.get("Age (Y)", "")),
        sex=sex_of(row.get("Sex", "")),
        lesions=attributes,
    )
    return Draft(case, (*draft.notes, *notes))


def _affected(row: Row, segments: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return the segmented vertebrae that have lesions, and what to say of the others."""
    cell = row[LESIONS]
    wanted = levels(cell)
    if not wanted:
        raise AnnotationError(
            f"its cell {LESIONS!r} names no vertebra ({cell or 'empty'}); expected levels such as "
            "T5 or L1"
        )
    there = {level for name in segments for level in levels(name)}
    missing = [level for level in wanted if level not in there]
    if len(missing) == len(wanted):
        raise AnnotationError(f"none of {', '.join(wanted)}, which have lesions, is segmented")
    text = f"{', '.join(missing)} have lesions and no segment: they count as background"
    return [level for level in wanted if level in there], [text] if missing else []


def _attributes(names: tuple[str, ...], row: Row) -> list[dict[str, str]]:
    kinds = {level: kind for column, kind in TYPES.items() for level in levels(row.get(column, ""))}
    found = []
    for label, name in enumerate(names, start=1):
        level = next(iter(levels(name)), "")
        found.append({"label": str(label), "level": level, "type": kinds.get(level, "")})
    return found
