"""What a reader needs to know of a CT image before its pixels: one ``Frame`` an image.

Only these fields leave the DICOM header, so no patient's name can reach a message.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from osteomet.io.dicom_files import DicomFile

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class SeriesHeader:
    """What all images of a series share.

    Attributes:
        patient: identifies the patient for comparison; never shown.
    """

    uid: str
    study_uid: str | None
    frame_of_reference_uid: str | None
    patient: str
    modality: str
    sop_class: str
    number: int
    description: str | None
    body_part: str
    kernel: str | None
    manufacturer: str | None
    is_multiframe: bool
    is_directory: bool


@dataclass(frozen=True)
class Frame:
    """One image: a file of a classic series, or a frame of a multi-frame file.

    Attributes:
        index: number of the frame within its file, from 0.
        shape: rows and columns.
        position: ImagePositionPatient; None where the header lacks it, as below.
        orientation: ImageOrientationPatient: along a row, then along a column.
        spacing: PixelSpacing: between rows, then between columns.
        padding: lowest and highest stored value that means "no data".
        timing: what tells repeated images of one position apart, strongest first.
    """

    file: DicomFile
    index: int
    sop_uid: str
    shape: tuple[int, int]
    position: Numbers | None
    orientation: Numbers | None
    spacing: Numbers | None
    thickness: float | None
    image_type: tuple[str, ...]
    inverted_display: bool
    slope: float | None
    intercept: float | None
    rescale_type: str
    padding: tuple[int, int] | None
    bits_stored: int
    is_signed: bool
    timing: tuple[str, ...]


def read_dataset(stream: BufferedIOBase, *, stop_before_pixels: bool = False) -> Dataset:
    """Read a file, also one of old software without preamble and transfer syntax."""
    dataset = dcmread(stream, stop_before_pixels=stop_before_pixels, force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        is_implicit, _ = dataset.original_encoding
        guess = ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = guess
    return dataset


def series_header(dataset: Dataset) -> SeriesHeader:
    """Return what identifies and describes the series of an image."""
    return SeriesHeader(
        uid=text(dataset, "SeriesInstanceUID") or "",
        study_uid=text(dataset, "StudyInstanceUID"),
        frame_of_reference_uid=text(dataset, "FrameOfReferenceUID"),
        patient=f"{text(dataset, 'PatientID')}",
        modality=text(dataset, "Modality") or "",
        sop_class=text(dataset, "SOPClassUID")
        or text(dataset.file_meta, "MediaStorageSOPClassUID")
        or "",
        number=int(number(dataset, "SeriesNumber") or 0),
        description=text(dataset, "SeriesDescription"),
        body_part=(text(dataset, "BodyPartExamined") or "").upper(),
        kernel=text(dataset, "ConvolutionKernel"),
        manufacturer=text(dataset, "Manufacturer"),
        is_multiframe="PerFrameFunctionalGroupsSequence" in dataset,
        is_directory="DirectoryRecordSequence" in dataset,
    )


def single_frame(file: DicomFile, dataset: Dataset) -> list[Frame]:
    """Return the one image of a classic file; none for a document without pixels."""
    return [make_frame(file, 0, dataset, [dataset])] if "Rows" in dataset else []


def make_frame(file: DicomFile, index: int, dataset: Dataset, groups: Sequence[Dataset]) -> Frame:
    """Return an image whose attributes lie in the first of ``groups`` that has each.

    Args:
        file: where its pixels are.
        index: number of the frame within the file.
        dataset: the file's attributes: its size and how pixels are stored.
        groups: the functional groups of a frame, or the file's attributes themselves.
    """
    return Frame(
        file=file,
        index=index,
        sop_uid=f"{text(dataset, 'SOPInstanceUID') or file.name}#{index}",
        shape=(int(number(dataset, "Rows") or 0), int(number(dataset, "Columns") or 0)),
        position=numbers(groups, "ImagePositionPatient", 3),
        orientation=numbers(groups, "ImageOrientationPatient", 6),
        spacing=numbers(groups, "PixelSpacing", 2),
        thickness=first_number(groups, "SliceThickness"),
        image_type=_image_type(groups, dataset),
        inverted_display=text(dataset, "PhotometricInterpretation") == "MONOCHROME1",
        slope=first_number(groups, "RescaleSlope"),
        intercept=first_number(groups, "RescaleIntercept"),
        rescale_type=first_text(groups, "RescaleType").upper(),
        padding=_padding(dataset),
        bits_stored=int(number(dataset, "BitsStored") or 16),
        is_signed=number(dataset, "PixelRepresentation") == 1,
        timing=(
            first_text(groups, "TemporalPositionIndex")
            or first_text(groups, "TemporalPositionIdentifier"),
            first_text(groups, "AcquisitionNumber") or first_text(groups, "FrameAcquisitionNumber"),
            "\\".join(_image_type(groups, dataset)),
            first_text(groups, "ConvolutionKernel"),
            first_text(groups, "KVP"),
        ),
    )


def text(dataset: Dataset, keyword: str) -> str | None:
    """Return an attribute as text; None where it is missing, empty or damaged."""
    value = _value(dataset, keyword)
    if value is None or isinstance(value, bytes):
        return None
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = "\\".join(str(part) for part in value)
    return str(value).strip() or None


def number(dataset: Dataset, keyword: str) -> float | None:
    """Return an attribute as a number; None where it is missing, empty or damaged."""
    value = _value(dataset, keyword)
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None


def first_text(groups: Sequence[Dataset], keyword: str) -> str:
    """Return an attribute of the first group that has it, else the empty string."""
    return next((found for group in groups if (found := text(group, keyword))), "")


def first_number(groups: Sequence[Dataset], keyword: str) -> float | None:
    """Return an attribute of the first group that has it, else None."""
    values = (number(group, keyword) for group in groups)
    return next((value for value in values if value is not None), None)


def numbers(groups: Sequence[Dataset], keyword: str, count: int) -> Numbers | None:
    """Return ``count`` numbers of the first group that has them, else None."""
    for group in groups:
        try:
            found = tuple(float(part) for part in _value(group, keyword))
        except (TypeError, ValueError):
            continue
        if len(found) == count:
            return found
    return None


def _value(dataset: Dataset, keyword: str) -> Any:
    try:
        return dataset.get(keyword)
    except Exception:  # pydicom raises whatever a damaged value makes its parser raise
        return None


def _image_type(groups: Sequence[Dataset], dataset: Dataset) -> tuple[str, ...]:
    found = first_text(groups, "FrameType") or text(dataset, "ImageType") or ""
    return tuple(part.strip().upper() for part in found.split("\\"))


def _padding(dataset: Dataset) -> tuple[int, int] | None:
    low = _stored(dataset, "PixelPaddingValue")
    if low is None:
        return None
    high = _stored(dataset, "PixelPaddingRangeLimit")
    return (low, low) if high is None else (min(low, high), max(low, high))


def _stored(dataset: Dataset, keyword: str) -> int | None:
    """Return a stored value with the sign that the pixels have.

    Writers disagree on the sign: -2000 is also found as 63536 in signed pixels.
    """
    value = _value(dataset, keyword)
    if isinstance(value, bytes) and len(value) == 2:
        value = int.from_bytes(value, "little")
    try:
        stored = int(value) & 0xFFFF
    except (TypeError, ValueError):
        return None
    is_signed = number(dataset, "PixelRepresentation") == 1
    return stored - 0x10000 if is_signed and stored >= 0x8000 else stored
