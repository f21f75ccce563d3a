"""What a folder of DICOM holds: its series, and which of them a drawing was made on.

Only headers are read. A drawing is a DICOM SEG or an RT Structure Set.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from osteomet.errors import AnnotationError, InputError
from osteomet.io.dicom import read_headers
from osteomet.io.dicom_files import open_files
from osteomet.io.dicom_headers import SeriesHeader, read_dataset, text
from osteomet.io.scan_record import blaming
from osteomet.io.series_choice import is_ct


@dataclass(frozen=True)
class SeriesFiles:
    """One series and its files, in the order of their names."""

    header: SeriesHeader
    files: tuple[Path, ...]

    @property
    def is_ct(self) -> bool:
        return is_ct(self.header)


@dataclass(frozen=True)
class DicomFolder:
    """The series below a folder.

    Attributes:
        series: in the order found.
        damaged: names of files that begin like DICOM and cannot be read.
    """

    series: tuple[SeriesFiles, ...]
    damaged: tuple[str, ...]

    def drawings(self, modality: str) -> tuple[tuple[SeriesFiles, Path], ...]:
        """Return each file of SEG or RTSTRUCT, with its series."""
        found = [one for one in self.series if one.header.modality == modality]
        return tuple((one, file) for one in found for file in one.files)

    def image_of(self, series: SeriesFiles) -> Path | None:
        """Return what to read to get this series and no other: its folder, or one of its files.

        None where its files are spread over folders: then only a copy can stand for it.
        """
        parents = {file.parent for file in series.files}
        if len(parents) > 1:
            return None
        folder = parents.pop()
        is_alone = all(
            one is series or not one.is_ct or not any(folder in file.parents for file in one.files)
            for one in self.series
        )
        return folder if is_alone else series.files[0]

    def drawn_on(self, drawing: Path) -> SeriesFiles:
        """Return the CT series that a drawing refers to.

        By the series it names, else, since anonymisation may renew these UIDs alone, by the frame
        of reference, if only one CT has it.

        Raises:
            AnnotationError: it refers to none that is here, or to several.
        """
        with blaming(drawing):
            uids, frames = _references(drawing)
            scans = [one for one in self.series if one.is_ct]
            found = [one for one in scans if one.header.uid in uids] or [
                one for one in scans if one.header.frame_of_reference_uid in frames
            ]
            if len(found) == 1:
                return found[0]
            what = f"{len(found)} CT series that are here" if found else "no CT series that is here"
            raise AnnotationError(
                f"refers to {what}; expected one of the {len(scans)}: put each drawing below the "
                "same folder as its scan"
            )


def read_folder(folder: Path) -> DicomFolder:
    """Read the headers of all DICOM files below a folder.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one with DICOM files")
    with open_files(folder) as files, warnings.catch_warnings():
        # pydicom warns of each oddity in each header; what matters is checked where it is used.
        warnings.simplefilter("ignore")
        contents = read_headers(files)
    of_series: dict[str, list[Path]] = {uid: [] for uid in contents.series}
    for name, uid in contents.series_of_file.items():
        of_series[uid].append(folder / name)
    return DicomFolder(
        tuple(
            SeriesFiles(series.header, tuple(of_series[uid]))
            for uid, series in contents.series.items()
        ),
        tuple(contents.damaged),
    )


def _references(drawing: Path) -> tuple[set[str], set[str]]:
    """Return the UIDs of the series and frames of reference that a drawing names."""
    with drawing.open("rb") as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = read_dataset(stream, stop_before_pixels=True)
    uids = {text(item, "SeriesInstanceUID") for item in dataset.get("ReferencedSeriesSequence", [])}
    frames = {text(dataset, "FrameOfReferenceUID")}
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []:
        frames.add(text(frame, "FrameOfReferenceUID"))
        uids |= {text(series, "SeriesInstanceUID") for series in _rt_series(frame)}
    return {uid for uid in uids if uid}, {uid for uid in frames if uid}


def _rt_series(frame: Dataset) -> list[Dataset]:
    return [
        series
        for study in frame.get("RTReferencedStudySequence") or []
        for series in study.get("RTReferencedSeriesSequence") or []
    ]
