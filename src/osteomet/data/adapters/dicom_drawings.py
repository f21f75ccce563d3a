"""CT series with DICOM SEG or RTSTRUCT, in any folders below one.

A drawing belongs to the series it names. Patients are named by a hash of their PatientID, which in
a hospital's data may be their real one.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from osteomet.data.adapters.dicom_scans import (
    DrawnScan,
    draft_of_regions,
    image_for,
    pair,
    pseudonym,
    read_all,
    read_series,
)
from osteomet.data.adapters.drafts import Draft, Request, Skipped, attempt
from osteomet.findings import PrimaryTumour
from osteomet.io.dicom_folder import DicomFolder, read_folder
from osteomet.io.dicom_seg import read_segmentation
from osteomet.io.regions import Regions, joined
from osteomet.io.rtstruct import read_structures
from osteomet.io.scan_record import blaming
from osteomet.volume import Volume

Reader = Callable[[Path, Volume], Regions]


def find_segmented(request: Request) -> Iterator[Draft | Skipped]:
    """Yield each CT series that a DICOM SEG was made on.

    Raises:
        InputError: there is no SEG below the source.
    """
    return _find(request, "SEG", partial(read_segmentation, pattern=request.lesions))


def find_contoured(request: Request) -> Iterator[Draft | Skipped]:
    """Yield each CT series that an RT Structure Set was made on.

    Raises:
        InputError: there is no RTSTRUCT below the source.
    """
    return _find(request, "RTSTRUCT", partial(read_structures, pattern=request.lesions))


def _find(request: Request, modality: str, read: Reader) -> Iterator[Draft | Skipped]:
    folder = read_folder(request.source)
    with blaming(request.source):
        scans, alone = pair(folder, modality)
    yield from alone
    for scan in scans:
        yield attempt(scan.series.header.uid, partial(_draft, request, folder, scan, read))


def _draft(request: Request, folder: DicomFolder, drawn: DrawnScan, read: Reader) -> Draft:
    scan = read_series(folder, drawn.series, request.source)
    parts, problems = read_all(drawn.drawings, scan.volume, read)
    scan_id = drawn.series.header.uid
    draft = draft_of_regions(
        request,
        image_for(request, folder, drawn.series, scan_id, scan.volume),
        scan,
        joined(parts),
        scan_id=scan_id,
        patient_id=pseudonym(drawn.series),
        centre="dicom",
        primary=PrimaryTumour.UNKNOWN,
    )
    return replace(draft, notes=(*draft.notes, *problems))
