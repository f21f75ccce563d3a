"""FDG-PET-CT-Lesions and autoPET: tumour lesions of the whole body; those in bone are kept.

Two layouts: TCIA's DICOM (CT, PET and a SEG a study), and the challenge's nnU-Net layout, with the
CT, resampled to PET, as channel 0. A table with ``Subject ID`` and ``diagnosis`` tells the primary:
lung, or another one for melanoma and lymphoma; the challenge's PSMA cases have prostate cancer.
Lesions partly in bone become regions to ignore.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from osteomet.data.adapters.bone import lesions_in_bone
from osteomet.data.adapters.dicom_scans import DrawnScan, image_for, pair, read_all, read_series
from osteomet.data.adapters.drafts import Draft, Request, Skipped, attempt, volumes_in
from osteomet.data.adapters.grids import check_same_grid
from osteomet.data.adapters.nnunet import channel_images
from osteomet.data.adapters.tables import Row, age_of, read_csv, sex_of
from osteomet.data.manifest import Case
from osteomet.errors import AnnotationError, InputError
from osteomet.findings import PrimaryTumour
from osteomet.io.dicom_folder import DicomFolder, read_folder
from osteomet.io.dicom_seg import read_segmentation
from osteomet.io.regions import joined
from osteomet.io.scan import Scan, read_scan
from osteomet.io.scan_record import blaming
from osteomet.io.volumes import read_labels, write_labels

SUBJECT, DIAGNOSIS = "Subject ID", "diagnosis"

PRIMARIES = {
    "LUNG_CANCER": PrimaryTumour.LUNG,
    "MELANOMA": PrimaryTumour.OTHER,
    "LYMPHOMA": PrimaryTumour.OTHER,
    "PROSTATE_CANCER": PrimaryTumour.OTHER,
}
"""NEGATIVE has no tumour, so nothing is known of a primary."""

CASE = re.compile(r"(fdg|psma)_([0-9a-z]+)_.*", re.IGNORECASE)

EVERYTHING = re.compile("")


@dataclass(frozen=True)
class _Subject:
    """What the table says of a patient."""

    primary: PrimaryTumour = PrimaryTumour.UNKNOWN
    age: float | None = None
    sex: str | None = None


def find_scans(request: Request) -> Iterator[Draft | Skipped]:
    """Yield each study of either layout.

    Raises:
        InputError: the source has neither layout.
    """
    subjects = _subjects(request.source)
    if (request.source / "imagesTr").is_dir():
        return _of_challenge(request, subjects)
    return _of_tcia(request, subjects)


def _of_challenge(request: Request, subjects: Mapping[str, _Subject]) -> Iterator[Draft | Skipped]:
    labels = volumes_in(request.source / "labelsTr")
    for name, image in channel_images(request.source / "imagesTr", 0).items():
        yield attempt(name, partial(_challenge_draft, request, subjects, name, image, labels))


def _challenge_draft(
    request: Request,
    subjects: Mapping[str, _Subject],
    name: str,
    image: Path,
    labels: Mapping[str, Path],
) -> Draft:
    found = CASE.fullmatch(name)
    if found is None:
        raise AnnotationError(f"is called {name}; expected fdg_SUBJECT_DATE or psma_SUBJECT_DATE")
    if name not in labels:
        raise AnnotationError("it has no label map; expected one of its name in labelsTr")
    check_same_grid(image, labels[name])
    tracer, number = found[1].lower(), found[2].lower()
    patient = f"{'PETCT' if tracer == 'fdg' else 'PSMA'}_{number}"
    subject = subjects.get(patient, _Subject())
    if tracer == "psma":
        subject = _Subject(PRIMARIES["PROSTATE_CANCER"], subject.age, subject.sex)
    scan = read_scan(image)
    turned = read_labels(labels[name]).closest_lps().voxels > 0
    tumours = np.zeros(scan.volume.shape, dtype=np.uint8)
    # closest_lps gives a view, so that writing into it fills the scan's own axes.
    scan.volume.with_voxels(tumours).closest_lps().voxels[...] = turned
    return _bone_draft(request, scan, tumours > 0, image, name, patient, subject)


def _of_tcia(request: Request, subjects: Mapping[str, _Subject]) -> Iterator[Draft | Skipped]:
    folder = read_folder(request.source)
    with blaming(request.source):
        scans, alone = pair(folder, "SEG")
    yield from alone
    for scan in scans:
        yield attempt(scan.series.header.uid, partial(_tcia_draft, request, subjects, folder, scan))


def _tcia_draft(
    request: Request, subjects: Mapping[str, _Subject], folder: DicomFolder, drawn: DrawnScan
) -> Draft:
    scan = read_series(folder, drawn.series, request.source)
    read = partial(read_segmentation, pattern=EVERYTHING)
    parts, problems = read_all(drawn.drawings, scan.volume, read)
    regions = joined(parts)
    header = drawn.series.header
    # Subjects have several studies, so the name of a scan is its study's.
    scan_id = f"{header.patient}_{(header.study_uid or header.uid)[-12:]}"
    image = image_for(request, folder, drawn.series, scan_id, scan.volume)
    subject = subjects.get(header.patient, _Subject())
    draft = _bone_draft(request, scan, regions.labels > 0, image, scan_id, header.patient, subject)
    return Draft(draft.case, (*draft.notes, *regions.warnings, *problems))


def _bone_draft(
    request: Request,
    scan: Scan,
    tumours: Bool[np.ndarray, "z y x"],
    image: Path,
    scan_id: str,
    patient: str,
    subject: _Subject,
) -> Draft:
    found = lesions_in_bone(scan.volume, tumours)
    notes = list(scan.warnings)
    mask = request.converted("masks", scan_id)
    write_labels(mask, scan.volume.with_voxels(found.mask.astype(np.uint8)))
    ignore = None
    if found.doubtful.any():
        ignore = request.converted("ignore", scan_id)
        write_labels(ignore, scan.volume.with_voxels(found.doubtful.astype(np.uint8)))
        notes.append("lesions partly in bone became regions to ignore")
    case = Case(
        scan_id,
        patient,
        image,
        mask,
        request.centre or "autopet",
        subject.primary,
        age=subject.age,
        sex=subject.sex,
        ignore=ignore,
    )
    return Draft(case, tuple(notes))


def _subjects(source: Path) -> dict[str, _Subject]:
    rows: dict[str, list[Row]] = defaultdict(list)
    for path in sorted((*source.glob("*.csv"), *source.glob("*/*.csv"))):
        try:
            table = read_csv(path, (SUBJECT, DIAGNOSIS))
        except InputError:
            continue  # another table: the set has several
        for row in table:
            rows[row[SUBJECT]].append(row)
    return {subject: _subject(found) for subject, found in rows.items()}


def _subject(rows: list[Row]) -> _Subject:
    primaries = {PRIMARIES[one] for row in rows if (one := row[DIAGNOSIS].upper()) in PRIMARIES}
    return _Subject(
        primaries.pop() if len(primaries) == 1 else PrimaryTumour.UNKNOWN,
        age_of(rows[0].get("age", "")),
        sex_of(rows[0].get("sex", "")),
    )
