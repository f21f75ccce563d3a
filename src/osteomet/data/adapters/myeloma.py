"""Spinal-Multiple-Myeloma-SEG (TCIA): CT with two DICOM SEG, of vertebrae and of lesions.

The masks are true lesions, several in one segment; the disease is no metastasis of a lung tumour,
so the primary is another one. Of the series of a patient, the segmentation's own is used.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from osteomet.data.adapters.dicom_scans import (
    DrawnScan,
    draft_of_regions,
    image_for,
    pair,
    read_all,
    read_series,
)
from osteomet.data.adapters.drafts import Draft, Request, Skipped, attempt
from osteomet.errors import AnnotationError
from osteomet.findings import PrimaryTumour
from osteomet.io.dicom_folder import DicomFolder, read_folder
from osteomet.io.dicom_seg import read_segmentation, segment_labels
from osteomet.io.regions import joined
from osteomet.io.scan_record import blaming

LESION = re.compile(r"lesion|myelom|lyti|l(ä|ae)sion|tumou?r|neoplas", re.IGNORECASE)
ALL = re.compile("")
VERTEBRA = re.compile(r"vertebra|spine|wirbel|\b[CTLS]\d{1,2}\b", re.IGNORECASE)


def find_scans(request: Request) -> Iterator[Draft | Skipped]:
    """Yield each CT series that a segmentation of lesions was made on.

    Raises:
        InputError: there is no DICOM SEG below the source.
    """
    folder = read_folder(request.source)
    with blaming(request.source):
        scans, alone = pair(folder, "SEG")
    yield from alone
    for scan in scans:
        yield attempt(scan.series.header.patient, partial(_draft, request, folder, scan))


def _draft(request: Request, folder: DicomFolder, drawn: DrawnScan) -> Draft:
    drawings, pattern = _of_lesions(folder, drawn, request.lesions or LESION)
    scan = read_series(folder, drawn.series, request.source)
    parts, problems = read_all(drawings, scan.volume, partial(read_segmentation, pattern=pattern))
    regions = joined(parts)
    # A segment holds many lesions, so all of them become 1 and are told apart by their voxels.
    lesions = (regions.labels > 0).astype(regions.labels.dtype)
    scan_id = drawn.series.header.patient
    draft = draft_of_regions(
        request,
        image_for(request, folder, drawn.series, scan_id, scan.volume),
        scan,
        replace(regions, names=("lesions",), labels=lesions),
        scan_id=scan_id,
        patient_id=scan_id,
        centre="spinal-multiple-myeloma-seg",
        primary=PrimaryTumour.OTHER,
    )
    return replace(draft, notes=(*draft.notes, *problems))


def _of_lesions(
    folder: DicomFolder, drawn: DrawnScan, wanted: re.Pattern[str]
) -> tuple[list[Path], re.Pattern[str]]:
    """Return the segmentations of lesions and which of their segments count.

    Those with segments that are called lesions; else, whole, those that are not called vertebrae.
    """
    segments = {file: segment_labels(file) for file in drawn.drawings}
    called = [file for file, names in segments.items() if any(map(wanted.search, names))]
    if called:
        return called, wanted
    titles = {file: one.header.description or "" for one, file in folder.drawings("SEG")}
    texts = {file: f"{titles[file]} {' '.join(names)}" for file, names in segments.items()}
    others = [file for file, text in texts.items() if not VERTEBRA.search(text)]
    if not others:
        raise AnnotationError("its segmentations are of vertebrae; expected one of lesions beside")
    return others, ALL
