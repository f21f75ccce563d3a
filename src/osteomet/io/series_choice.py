"""Which of several DICOM series to read: the thinnest axial CT of the body."""

from dataclasses import dataclass, field

import numpy as np

from osteomet.errors import GeometryError, InputError, NotCTError
from osteomet.io.dicom_headers import Frame, SeriesHeader
from osteomet.io.slice_geometry import SAME_POSITION_MM, Axes, slice_axes, usual_step

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

HU_TYPES = {"HU", "US", "HU_MOD", ""}
"""RescaleType of Hounsfield units, or of nothing in particular (PS3.3 C.11.1.1.2)."""

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


@dataclass(frozen=True, eq=False)
class Stack:
    """The largest set of parallel slices of one size in a series.

    Attributes:
        frames: its images, in no order.
        axes: see ``slice_axes``.
        plane: what it is closest to: axial, sagittal or coronal.
        resolution_mm: the larger of slice distance and slice thickness.
        extent_mm: from first to last slice.
        slices: number of different positions.
        left_out: number of other images of the series.
    """

    frames: list[Frame]
    axes: Axes
    plane: str
    resolution_mm: float
    extent_mm: float
    slices: int
    left_out: int


@dataclass(frozen=True, eq=False)
class Choice:
    """The series to read, and why; ``because`` is None where there was no other."""

    series: Series
    stack: Stack
    because: str | None


@dataclass(frozen=True)
class Unusable:
    """Why a series cannot be read.

    Attributes:
        error: what to raise if it is the one that is wanted.
        reason: a few words.
        expected: the rest of the sentence.
    """

    error: type[NotCTError] | type[GeometryError]
    reason: str
    expected: str

    def describe(self, series: Series) -> NotCTError | GeometryError:
        return self.error(f"{series.label}: {self.reason}; expected {self.expected}")


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
        found, because = wanted, "chosen by its UID"
    usable, unusable = [], []
    for series in found:
        stack = usable_stack(series)
        if isinstance(stack, Stack):
            usable.append((series, stack))
        else:
            unusable.append((series, stack))
    if not usable:
        raise _no_scan(unusable)
    series, stack = min(usable, key=lambda pair: _preference(pair[0], pair[1], usable))
    if uid is None:
        return Choice(series, stack, _reason(series, stack, usable, unusable))
    return Choice(series, stack, because)


def is_ct(header: SeriesHeader) -> bool:
    """Tell whether a series says that it is CT; anonymised ones may say nothing."""
    return header.modality in ("CT", "") and header.sop_class in {*CT_CLASSES, ""}


def usable_stack(series: Series) -> Stack | Unusable:
    """Return the slices of a series, or why it has none that can be read."""
    if not is_ct(series.header):
        kind = f"modality {series.header.modality or 'unknown'}"
        if series.header.sop_class.startswith(SECONDARY_CAPTURE):
            kind = "secondary capture"
        return Unusable(NotCTError, kind, "CT slices: choose a CT series")
    slices = [frame for frame in series.frames if not NOT_SLICES & set(frame.image_type)]
    if not slices:
        kinds = NOT_SLICES & {kind for frame in series.frames for kind in frame.image_type}
        return Unusable(NotCTError, " ".join(sorted(kinds)).lower() or "no image", "CT slices")
    wrong = {frame.rescale_type for frame in slices} - HU_TYPES
    if wrong:
        return Unusable(NotCTError, f"in {' and '.join(sorted(wrong))}, not HU", "HU")
    placed = [
        f for f in slices if f.position and f.orientation and f.spacing and min(f.spacing) > 0
    ]
    if not placed:
        return Unusable(
            GeometryError,
            "no position, orientation or pixel spacing",
            "ImagePositionPatient, ImageOrientationPatient and PixelSpacing: export the original "
            "series",
        )
    return _largest_stack(placed, len(series.frames))


def _largest_stack(placed: list[Frame], total: int) -> Stack | Unusable:
    groups: list[list[Frame]] = []
    for frame in placed:
        for group in groups:
            if _are_parallel(group[0], frame):
                group.append(frame)
                break
        else:
            groups.append([frame])
    frames = max(groups, key=len)
    orientation = frames[0].orientation or ()
    axes = slice_axes(orientation)
    if axes is None:
        return Unusable(
            GeometryError,
            f"ImageOrientationPatient is {list(orientation)}",
            "two perpendicular unit vectors: export the series again",
        )
    along = np.sort(np.array([frame.position for frame in frames]) @ axes[:, 0])
    slices = 1 + int((np.diff(along) > SAME_POSITION_MM).sum())
    if slices < MIN_SLICES:
        return Unusable(
            GeometryError,
            f"{slices} slice{'' if slices == 1 else 's'}"
            + (f" in {len(frames)} images" if len(frames) > slices else ""),
            f"at least {MIN_SLICES}: give the folder of the whole series",
        )
    return Stack(
        frames=frames,
        axes=axes,
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
    return (
        stack.plane != "axial",
        _is_head(series),
        _is_short(stack, usable),
        round(stack.resolution_mm, 2),
        -stack.slices,
        "DERIVED" in stack.frames[0].image_type,
        series.header.number,
        series.header.uid,
    )


def _is_short(stack: Stack, usable: list[tuple[Series, Stack]]) -> bool:
    longest = max(other.extent_mm for _, other in usable if other.plane == stack.plane)
    return stack.extent_mm < longest / 2


def _is_head(series: Series) -> bool:
    return series.header.body_part in HEAD


def _reason(
    series: Series,
    stack: Stack,
    usable: list[tuple[Series, Stack]],
    unusable: list[tuple[Series, Unusable]],
) -> str | None:
    others = [
        f"{other.label} ({s.plane}, {s.resolution_mm:g} mm, {s.slices} slices"
        f"{', head' if _is_head(other) else ''}"
        f"{f', only {s.extent_mm:.0f} mm long' if _is_short(s, usable) else ''})"
        for other, s in usable
        if other is not series
    ]
    others += [f"{other.label} ({why.reason})" for other, why in unusable]
    if not others:
        return None
    return (
        f"{series.label} was chosen of {len(others) + 1} series as the thinnest {stack.plane} CT "
        f"of the body ({stack.resolution_mm:g} mm, {stack.slices} slices, "
        f"{stack.extent_mm:.0f} mm); left out: {', '.join(others)}"
    )


def _listing(found: list[Series]) -> str:
    return "; ".join(
        f"{series.header.uid} ({series.header.modality or 'no modality'}, {series.label}, "
        f"{len(series.frames)} images)"
        for series in found
    )


def _no_scan(unusable: list[tuple[Series, Unusable]]) -> InputError:
    """Return the one error for series of which none can be read; CT with a fault comes first."""
    damaged = [pair for pair in unusable if pair[1].error is GeometryError]
    if len(unusable) == 1 or damaged:
        series, why = (damaged or unusable)[0]
        return why.describe(series)
    kinds = ", ".join(f"{series.label} ({why.reason})" for series, why in unusable)
    return NotCTError(f"there is no CT scan, only {kinds}; expected a CT series")
