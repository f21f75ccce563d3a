"""Read a CT series from DICOM files: find, choose, order, decode, place."""

import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from osteomet.errors import GeometryError, InputError
from osteomet.io.dicom_files import DicomFile, is_zip, open_files
from osteomet.io.dicom_headers import Frame, SeriesHeader, read_dataset, series_header, single_frame
from osteomet.io.hounsfield import settle
from osteomet.io.multiframe import frames_of
from osteomet.io.pixels import fill_grid, hounsfield_planes, undo_inversion
from osteomet.io.repeated_slices import one_per_position
from osteomet.io.scan_record import Scan, blaming, describe
from osteomet.io.series_choice import Choice, Series, Stack, choose_series, is_ct
from osteomet.io.slice_geometry import Vectors, plan_stack
from osteomet.io.volumes import volume_format
from osteomet.volume import Volume

PIXEL_DATA = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")
"""The tag (7FE0,0010), little and big endian."""

FEW_SLICES = 10

FILES_NAMED = 3


@dataclass
class Contents:
    """What a folder, zip or file holds.

    Attributes:
        series: by SeriesInstanceUID, in the order found.
        series_of_file: the UID of each image's series, by the file's name.
        patients: identifiers, for counting only.
        damaged: names of files that begin like DICOM and cannot be read.
    """

    series: dict[str, Series] = field(default_factory=dict)
    series_of_file: dict[str, str] = field(default_factory=dict)
    patients: set[str] = field(default_factory=set)
    damaged: list[str] = field(default_factory=list)

    @property
    def fault(self) -> str:
        """Half a sentence that names the damaged files; empty where there are none."""
        if not self.damaged:
            return ""
        count, more = len(self.damaged), len(self.damaged) - FILES_NAMED
        named = ", ".join(self.damaged[:FILES_NAMED]) + (f" and {more} more" if more > 0 else "")
        return f"; {count} file{'' if count == 1 else 's'} cannot be read: {named}"


def read_dicom(path: Path, series_uid: str | None = None) -> Scan:
    """Read the CT series in a folder or zip, or the series that one file belongs to.

    Args:
        path: a folder, searched recursively; a zip; or one file, whose series is taken from
            its own folder.
        series_uid: the series to read; None takes the thinnest axial CT of the body.

    Raises:
        NotCTError: there is no CT, or its values are not HU.
        GeometryError: slices are missing, too few or not a rectangular stack.
        InputError: nothing is there, nothing can be read, or no series has this UID.
    """
    if path.name.upper() == "DICOMDIR" and path.is_file():
        return read_dicom(path.parent, series_uid)
    with blaming(path), warnings.catch_warnings(), open_files(path) as files:
        # pydicom warns of each oddity in each header; what matters is checked here.
        warnings.simplefilter("ignore")
        contents = read_headers(files)
        found = list(contents.series.values())
        if path.is_file() and not is_zip(path):
            found = [_series_of(path.name, contents)]
        if not found:
            raise InputError(f"holds no DICOM image{contents.fault}; {_advice(files)}")
        try:
            choice = choose_series(found, series_uid)
            volume, repairs = _read_stack(choice.stack)
        except GeometryError as error:
            raise GeometryError(f"{error}{contents.fault}") from error
        header = choice.series.header
        info = describe(
            volume,
            source=path.name,
            file_format="dicom",
            series_uid=header.uid,
            study_uid=header.study_uid,
            frame_of_reference_uid=header.frame_of_reference_uid,
            description=header.description,
            kernel=header.kernel,
            manufacturer=header.manufacturer,
            slice_thickness_mm=choice.stack.frames[0].thickness,
            chosen_because=choice.because,
        )
        return Scan(volume, info, (*_doubts(choice, contents), *repairs))


def read_headers(files: list[DicomFile]) -> Contents:
    """Read all headers; files of any other kind are passed over."""
    contents = Contents()
    for file in files:
        try:
            parsed = _parse(file) if file.begins_like_dicom() else None
        except Exception:  # pydicom raises whatever its parser trips over in a damaged file
            contents.damaged.append(file.name)
            continue
        if parsed is None:
            continue
        header, frames = parsed
        contents.patients.add(header.patient)
        contents.series_of_file[file.name] = header.uid
        contents.series.setdefault(header.uid, Series(header)).frames.extend(frames)
    return contents


def _parse(file: DicomFile) -> tuple[SeriesHeader, list[Frame]] | None:
    """Return the series and images of a file; None for the directory of a disc."""
    with file.open() as stream:
        dataset = read_dataset(stream, stop_before_pixels=True)
        is_deflated = dataset.file_meta.TransferSyntaxUID.is_deflated
        has_pixels = is_deflated or stream.read(4) in PIXEL_DATA
    header = series_header(dataset)
    if header.is_directory:
        return None
    if is_ct(header) and not has_pixels:
        raise ValueError("the header of an image ends before its pixels")
    frames = frames_of(file, dataset) if header.is_multiframe else single_frame(file, dataset)
    return header, frames


def _advice(files: list[DicomFile]) -> str:
    volumes = [file.name for file in files if volume_format(Path(file.name)) is not None]
    if not volumes:
        return "expected a CT series"
    return f"there is {' and '.join(volumes[:FILES_NAMED])}: give the file itself"


def _series_of(name: str, contents: Contents) -> Series:
    if name not in contents.series_of_file:
        expected = "expected a DICOM image, a zip, a folder or a NIfTI, NRRD or MetaImage volume"
        what = "is damaged DICOM" if name in contents.damaged else "is no DICOM image"
        raise InputError(f"{what}; {expected}")
    return contents.series[contents.series_of_file[name]]


def _read_stack(stack: Stack) -> tuple[Volume, tuple[str, ...]]:
    first = stack.frames[0]
    frames, repeats = one_per_position(stack.frames, _positions(stack.frames) @ stack.axes[:, 0])
    frames, inversion = undo_inversion(frames)
    spacing = first.spacing or ()
    geometry = plan_stack(_positions(frames), stack.axes, (spacing[0], spacing[1]), first.shape)
    voxels = fill_grid(hounsfield_planes(frames), geometry)
    voxels, oddities = settle(voxels)
    return Volume(voxels, geometry.affine), (
        *repeats,
        *inversion,
        *_missing_rescale(frames),
        *geometry.warnings,
        *oddities,
    )


def _positions(frames: list[Frame]) -> Vectors:
    return np.array([frame.position for frame in frames], dtype=float)


def _missing_rescale(frames: list[Frame]) -> tuple[str, ...]:
    lacking = sum(frame.slope is None or frame.intercept is None for frame in frames)
    if not lacking:
        return ()
    return (
        f"{lacking} of {len(frames)} images lack RescaleSlope or RescaleIntercept: 1 and 0 were "
        "assumed",
    )


def _doubts(choice: Choice, contents: Contents) -> tuple[str, ...]:
    """Return warnings about the choice and about what was left out."""
    found, stack = [], choice.stack
    if contents.damaged:
        found.append(f"{contents.fault[2:]} (left out)")
    if len(contents.patients) > 1 and choice.because is not None:
        found.append(f"there are series of {len(contents.patients)} patients: one was read")
    if stack.left_out:
        found.append(
            f"{stack.left_out} images of the series are no slices or of another size or "
            "orientation: they were left out"
        )
    if stack.plane != "axial":
        found.append(f"the series is {stack.plane}: axial slices show lesions in more detail")
    if stack.slices < FEW_SLICES:
        found.append(
            f"the series has only {stack.slices} slices over {stack.extent_mm:.1f} mm: most of a "
            "lesion may lie outside"
        )
    return tuple(found)
