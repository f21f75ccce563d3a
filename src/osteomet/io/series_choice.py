"""Which of several DICOM series to read: the thinnest axial CT of the body."""

from dataclasses import dataclass, field

import numpy as np

from osteomet.errors import GeometryError, InputError, NotCTError
from osteomet.io.dicom_headers import Frame, SeriesHeader
from osteomet.io.slice_geometry import SAME_POSITION_MM, slice_axes, usual_step

CT_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.2.2",
}
"""CT, Enhanced CT and Legacy Converted Enhanced CT Image Storage (PS3.4 B.5)."""

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

NOT_SLICES = {"LOCALIZER", "MIP", "MINIP", "PROJECTION IMAGE", "VRT", "SCREEN SAVE", "DOSE_INFO"}
"""ImageType values of images that show no single slice in HU."""

HEAD = {"HEAD", "BRAIN", "SKULL", "FACE", "SINUS", "ORBIT", "EAR", "IAC"}

MIN_SLICES = 3

PLANES = ("sagittal", "coronal", "axial")


@dataclass
class Series:
    """The images of one SeriesInstanceUID, as found."""

    header: SeriesHeader
    frames: list[Frame] = field(default_factory=list)

    @property
    def label(self) -> str:
        described = f" '{self.header.description}'" if self.header.description else ""
        return f"series {self.header.number}{described}"


@dataclass(frozen=True)
class Stack:
    """The largest set of parallel slices of one size in a series.

    Attributes:
        frames: its images, in no order.
        plane: what it is closest to: axial, sagittal or coronal.
        resolution_mm: the larger of slice distance and slice thickness.
        extent_mm: from first to last slice.
        slices: number of different positions.
        left_out: number of other images of the series.
    """

    frames: list[Frame]
    plane: str
    resolution_mm: float
    extent_mm: float
    slices: int
    left_out: int


@dataclass(frozen=True)
class Choice:
    """The series to read, and why; ``because`` is None where there was no other."""

    series: Series
    stack: Stack
    because: str | None


def choose_series(found: list[Series], uid: str | None) -> Choice:
    """Choose a series.

    Args:
        found: all series, at least one.
        uid: SeriesInstanceUID that the user wants; None leaves the choice to this function.

    Raises:
        InputError: no series has this UID; lists those that are there.
        NotCTError: there is no CT series, or the wanted one is no CT.
        GeometryError: the only CT series have too few slices or no geometry.
    """
    if uid is not None:
        wanted = [series for series in found if series.header.uid == uid]
        if not wanted:
            raise InputError(f"there is no series {uid}; there are {_listing(found)}")
        return Choice(wanted[0], usable_stack(wanted[0]), "chosen by its UID")
    usable, unusable = [], []
    for series in found:
        try:
            usable.append((series, usable_stack(series)))
        except (NotCTError, GeometryError) as error:
            unusable.append((series, error))
    if not usable:
        raise _summary(unusable)
    best = min(usable, key=lambda pair: _preference(pair[0], pair[1], usable))
    if len(found) == 1:
        return Choice(*best, None)
    return Choice(*best, _reason(best[0], best[1], usable, unusable))


def usable_stack(series: Series) -> Stack:
    """Return the slices of a series.

    Raises:
        NotCTError: the series is no CT, or a CT that is not in HU.
        GeometryError: it has no positions or fewer than ``MIN_SLICES`` slices.
    """
    header, label = series.header, series.label
    if header.modality not in ("CT", "") or header.sop_class not in {*CT_CLASSES, ""}:
        kind = f"of modality {header.modality or 'unknown'}"
        if header.sop_class.startswith(SECONDARY_CAPTURE):
            kind = f"a secondary capture of modality {header.modality or 'unknown'}"
        raise NotCTError(f"{label} is {kind}; expected CT images: choose a CT series")
    slices = [frame for frame in series.frames if not NOT_SLICES & set(frame.image_type)]
    if not slices:
        kinds = sorted(NOT_SLICES & {kind for f in series.frames for kind in f.image_type})
        raise NotCTError(f"{label} holds only {' and '.join(kinds)}; expected CT slices")
    wrong = {f.rescale_type for f in slices} - {"HU", "US", "HU_MOD", ""}
    if wrong:
        raise NotCTError(f"{label} is in {' and '.join(sorted(wrong))}; expected HU")
    placed = [f for f in slices if f.position and f.orientation and f.spacing]
    if not placed:
        raise GeometryError(
            f"{label} lacks ImagePositionPatient, ImageOrientationPatient or PixelSpacing; "
            "expected all three: export the original series"
        )
    return _largest_stack(label, placed, len(series.frames))


def _largest_stack(label: str, placed: list[Frame], total: int) -> Stack:
    groups: list[list[Frame]] = []
    for frame in placed:
        for group in groups:
            if _are_parallel(group[0], frame):
                group.append(frame)
                break
        else:
            groups.append([frame])
    frames = max(groups, key=len)
    axes = slice_axes(frames[0].orientation or ())
    along = np.sort(np.array([frame.position for frame in frames]) @ axes[:, 0])
    slices = 1 + int((np.diff(along) > SAME_POSITION_MM).sum())
    if slices < MIN_SLICES:
        raise GeometryError(
            f"{label} has {slices} slice{'' if slices == 1 else 's'}; expected at least "
            f"{MIN_SLICES}: give the folder of the whole series"
        )
    return Stack(
        frames=frames,
        plane=PLANES[int(np.argmax(np.abs(axes[:, 0])))],
        resolution_mm=max(usual_step(along), frames[0].thickness or 0.0),
        extent_mm=float(along[-1] - along[0]),
        slices=slices,
        left_out=total - len(frames),
    )


def _are_parallel(one: Frame, other: Frame) -> bool:
    return (
        one.shape == other.shape
        and np.allclose(one.orientation or (), other.orientation or (), atol=1e-3)
        and np.allclose(one.spacing or (), other.spacing or (), rtol=1e-3)
    )


def _preference(
    series: Series, stack: Stack, usable: list[tuple[Series, Stack]]
) -> tuple[object, ...]:
    """Sort key; a thin series of a small region loses to one that covers twice as much."""
    widest = max(other.extent_mm for _, other in usable if other.plane == stack.plane)
    return (
        stack.plane != "axial",
        _is_head(series),
        stack.extent_mm < widest / 2,
        round(stack.resolution_mm, 2),
        -stack.slices,
        "DERIVED" in stack.frames[0].image_type,
        series.header.number,
        series.header.uid,
    )


def _is_head(series: Series) -> bool:
    return series.header.body_part in HEAD


def _reason(
    series: Series,
    stack: Stack,
    usable: list[tuple[Series, Stack]],
    unusable: list[tuple[Series, NotCTError | GeometryError]],
) -> str:
    others = [
        f"{other.label} ({s.plane}, {s.resolution_mm:g} mm, {s.slices} slices"
        f"{', head' if _is_head(other) else ''})"
        for other, s in usable
        if other is not series
    ]
    others += [f"{other.label} ({_kind(other)})" for other, _ in unusable]
    return (
        f"{series.label} is the thinnest {stack.plane} CT of {len(usable) + len(unusable)} series "
        f"({stack.resolution_mm:g} mm, {stack.slices} slices, {stack.extent_mm:.0f} mm); "
        f"left out: {', '.join(others)}"
    )


def _kind(series: Series) -> str:
    """Say in a word why a series is not usable."""
    if series.header.sop_class.startswith(SECONDARY_CAPTURE):
        return "secondary capture"
    if series.header.modality != "CT":
        return series.header.modality or "no modality"
    kinds = NOT_SLICES & {kind for frame in series.frames for kind in frame.image_type}
    if kinds:
        return " ".join(sorted(kinds)).lower()
    return f"{len(series.frames)} images"


def _listing(found: list[Series]) -> str:
    return "; ".join(
        f"{series.header.uid} ({series.header.modality or 'no modality'}, {series.label}, "
        f"{max(len(series.frames), 1)} images)"
        for series in found
    )


def _summary(unusable: list[tuple[Series, NotCTError | GeometryError]]) -> InputError:
    """Return one error for a folder without a usable series: the fault of the best of them."""
    if len(unusable) == 1:
        return unusable[0][1]
    geometry = [error for _, error in unusable if isinstance(error, GeometryError)]
    if geometry:
        return geometry[0]
    kinds = ", ".join(f"{series.label} ({_kind(series)})" for series, _ in unusable)
    return NotCTError(f"there is no CT scan, only {kinds}; expected a CT series")
