"""A CT series of a DICOM folder and the drawings made on it, as one scan of a cohort."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from osteomet.data.adapters.drafts import Draft, Request, Skipped
from osteomet.data.manifest import Case, MaskKind
from osteomet.errors import AnnotationError, InputError
from osteomet.findings import PrimaryTumour
from osteomet.io.dicom_folder import DicomFolder, SeriesFiles
from osteomet.io.regions import Regions
from osteomet.io.scan import Scan, read_scan
from osteomet.io.volumes import write_labels, write_volume
from osteomet.volume import Volume


@dataclass(frozen=True)
class DrawnScan:
    """A CT series and the drawings that refer to it."""

    series: SeriesFiles
    drawings: tuple[Path, ...]


def pair(folder: DicomFolder, modality: str) -> tuple[list[DrawnScan], list[Skipped]]:
    """Return each CT series with its drawings of this modality, and what stays alone.

    Raises:
        InputError: there is no drawing at all.
    """
    drawings = folder.drawings(modality)
    if not drawings:
        raise InputError(
            f"holds {len(folder.series)} DICOM series and none of modality {modality}; expected "
            "drawings and their CT below one folder"
        )
    found: dict[str, tuple[SeriesFiles, list[Path]]] = {}
    alone = [Skipped(name, "the file is damaged and was not read") for name in folder.damaged]
    for _, drawing in drawings:
        try:
            series = folder.drawn_on(drawing)
        except InputError as error:
            alone.append(Skipped(drawing.name, str(error)))
            continue
        found.setdefault(series.header.uid, (series, []))[1].append(drawing)
    scans = [DrawnScan(series, tuple(files)) for series, files in found.values()]
    alone += [
        Skipped(one.header.uid, f"a CT series without {modality}: nothing says where lesions are")
        for one in folder.series
        if one.is_ct and one.header.uid not in found
    ]
    return scans, alone


def pseudonym(series: SeriesFiles) -> str:
    """Return a name for a patient that is not the hospital's number for them."""
    return "p" + hashlib.sha256(series.header.patient.encode()).hexdigest()[:12]


def read_series(folder: DicomFolder, series: SeriesFiles, source: Path) -> Scan:
    """Read one series, wherever its files lie.

    Raises:
        InputError: it cannot be read.
    """
    return read_scan(folder.image_of(series) or source, series.header.uid)


def image_for(
    request: Request, folder: DicomFolder, series: SeriesFiles, scan_id: str, volume: Volume
) -> Path:
    """Return what the cohort points at: the series, or a copy where its files are scattered."""
    image = folder.image_of(series)
    if image is None:
        image = request.converted("images", scan_id)
        write_volume(image, volume)
    return image


def draft_of_regions(
    request: Request,
    image: Path,
    scan: Scan,
    regions: Regions,
    *,
    scan_id: str,
    patient_id: str,
    centre: str,
    primary: PrimaryTumour,
) -> Draft:
    """Write the regions of a scan as a mask, and return its row.

    One region may hold several lesions, so it is written as 1 and its parts are told apart; of
    several regions each is one lesion.

    Raises:
        ReportError: the mask cannot be written.
    """
    single = len(regions.names) == 1
    mask = request.converted("masks", scan_id)
    write_labels(mask, scan.volume.with_voxels(regions.labels))
    case = Case(
        scan_id,
        patient_id,
        image,
        mask,
        request.centre or centre,
        primary,
        mask_kind=MaskKind.AUTO if single else MaskKind.INSTANCE,
    )
    return Draft(case, (*scan.warnings, *regions.warnings))


def read_all(
    drawings: Sequence[Path], volume: Volume, read: Callable[[Path, Volume], Regions]
) -> tuple[list[Regions], list[str]]:
    """Read all drawings on a scan; one that cannot be used is told, if another one can.

    Raises:
        AnnotationError: none can be used.
    """
    parts, problems = [], []
    for drawing in drawings:
        try:
            parts.append(read(drawing, volume))
        except AnnotationError as error:
            problems.append(str(error))
    if not parts:
        raise AnnotationError("; ".join(problems))
    return parts, problems
