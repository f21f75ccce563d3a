"""Pictures of a scan for people: planes through a lesion and projections of the whole.

Every picture is in true proportion: a pixel is as high as it is wide in mm, whatever the
scan's spacing. Radiological convention: the patient's right is on the picture's left,
anterior is up in axial and left in sagittal planes, superior is up in the other two.
Lines, letters and scale bars are left to the page, in the picture's pixels.
"""

import base64
import io
from dataclasses import dataclass
from typing import cast

import numpy as np
from contourpy import contour_generator
from jaxtyping import Bool, Float, Integer, Num
from PIL import Image

from osteomet.volume import Volume

BONE_WINDOW_HU = (-500.0, 1300.0)
"""W 1800 L 400."""
PROJECTION_WINDOW_HU = (0.0, 1400.0)
"""Bone stands out from soft tissue in a maximum intensity projection."""
OUTSIDE_HU = -1024.0
JPEG_QUALITY = 88

Point = tuple[float, float]


@dataclass(frozen=True)
class Plane:
    """One of the three ways to look at an upright ``(z, y, x)`` grid, axes closest to LPS.

    Attributes:
        normal: the axis looked along; the other two, in order, are rows and columns.
        superior_up: rows run along z and are turned so that superior is up.
    """

    name: str
    normal: int
    superior_up: bool

    @property
    def row(self) -> int:
        return 1 if self.normal == 0 else 0

    @property
    def column(self) -> int:
        return 1 if self.normal == 2 else 2

    def flat(self, values: Num[np.ndarray, "rows columns"]) -> Num[np.ndarray, "rows columns"]:
        """Turn values of a slice or projection the way they are looked at."""
        return values[::-1] if self.superior_up else values

    def place(self, edge_zyx: Float[np.ndarray, "3"], shape_zyx: tuple[int, ...]) -> Point:
        """Return the ``(row, column)`` voxel edge at which a point is looked at."""
        row = float(edge_zyx[self.row])
        return (
            shape_zyx[self.row] - row if self.superior_up else row,
            float(edge_zyx[self.column]),
        )

    def spacing(self, volume: Volume) -> Point:
        """Return mm per voxel along rows and columns."""
        return volume.spacing_zyx_mm[self.row], volume.spacing_zyx_mm[self.column]


AXIAL = Plane("axial", normal=0, superior_up=False)
CORONAL = Plane("coronal", normal=1, superior_up=True)
SAGITTAL = Plane("sagittal", normal=2, superior_up=True)
PLANES = (AXIAL, CORONAL, SAGITTAL)


@dataclass(frozen=True)
class Frame:
    """A rectangle of a slice, in voxel edges, that fills a picture of square pixels.

    Attributes:
        low: ``(row, column)`` edge of the picture's upper left corner; may lie outside the slice.
        high: that of the lower right corner.
        height_px: picture height.
        width_px: picture width.
        mm_per_px: the same along rows and columns.
    """

    low: Point
    high: Point
    height_px: int
    width_px: int
    mm_per_px: float

    @classmethod
    def square(cls, centre: Point, spacing_mm: Point, side_mm: float, side_px: int) -> "Frame":
        """Frame a square of ``side_mm`` around a point."""
        reach = [side_mm / 2 / spacing for spacing in spacing_mm]
        return cls(
            (centre[0] - reach[0], centre[1] - reach[1]),
            (centre[0] + reach[0], centre[1] + reach[1]),
            side_px,
            side_px,
            side_mm / side_px,
        )

    @classmethod
    def whole(cls, shape: tuple[int, int], spacing_mm: Point, mm_per_px: float) -> "Frame":
        """Frame a whole slice at a given scale, to the nearest pixel."""
        height_px, width_px = (
            max(1, round(count * spacing / mm_per_px))
            for count, spacing in zip(shape, spacing_mm, strict=True)
        )
        return cls((0.0, 0.0), (float(shape[0]), float(shape[1])), height_px, width_px, mm_per_px)

    def to_px(self, point: Point) -> Point:
        """Map a ``(row, column)`` voxel edge to the picture's ``(x, y)`` pixels."""
        row = (point[0] - self.low[0]) / (self.high[0] - self.low[0]) * self.height_px
        column = (point[1] - self.low[1]) / (self.high[1] - self.low[1]) * self.width_px
        return column, row


def take_slice(
    values: Num[np.ndarray, "z y x"], plane: Plane, index: int
) -> Num[np.ndarray, "rows columns"]:
    """Return one slice the way it is looked at; a view."""
    return plane.flat(values[(slice(None),) * plane.normal + (index,)])


def project(volume: Volume, plane: Plane) -> Num[np.ndarray, "rows columns"]:
    """Return the largest HU along a plane's normal, the way it is looked at."""
    return plane.flat(volume.voxels.max(axis=plane.normal))


def draw(
    values: Num[np.ndarray, "rows columns"],
    frame: Frame,
    window_hu: tuple[float, float] = BONE_WINDOW_HU,
) -> str:
    """Return a greyscale JPEG of the framed part as a ``data:`` URI; outside the scan is black."""
    first, cut = _padded_cut(values, frame, OUTSIDE_HU)
    picture = Image.fromarray(cut).resize(
        (frame.width_px, frame.height_px),
        Image.Resampling.BICUBIC,
        box=(
            frame.low[1] - first[1],
            frame.low[0] - first[0],
            frame.high[1] - first[1],
            frame.high[0] - first[0],
        ),
    )
    low, high = window_hu
    grey = (np.clip((np.asarray(picture) - low) / (high - low), 0, 1) * 255).round()
    buffer = io.BytesIO()
    Image.fromarray(grey.astype(np.uint8)).save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def outline(mask: Bool[np.ndarray, "rows columns"], frame: Frame) -> str:
    """Return the mask's outlines as an SVG path in the picture's pixels; "" without a voxel.

    Lines run halfway between the centres of voxels inside and outside.
    """
    first, cut = _padded_cut(mask, frame, 0.0)
    return _outline(cut > 0, first, frame)


def outlines(
    labels: Integer[np.ndarray, "rows columns"], frame: Frame, label: int
) -> tuple[str, str]:
    """Return the outline of one label and those of all other labels, as ``outline`` does.

    Labels are compared only within the frame: a slice of a long scan is much larger, and there
    is one for each plane of each lesion.
    """
    first, cut = _padded_cut(labels, frame, 0.0)
    own = cut == label
    return _outline(own, first, frame), _outline((cut > 0) & ~own, first, frame)


def _outline(
    mask: Bool[np.ndarray, "cut_rows cut_columns"], first: tuple[int, int], frame: Frame
) -> str:
    if not mask.any():
        return ""
    # One ring of background closes outlines that would run along the cut's border.
    lines = contour_generator(z=np.pad(mask, 1).astype(np.float32)).lines(0.5)
    parts = []
    for line in cast("list[np.ndarray]", lines):
        points = [
            frame.to_px((row + first[0] - 0.5, column + first[1] - 0.5)) for column, row in line
        ]
        parts.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points[:-1]) + "Z")
    return "".join(parts)


def direction_letters(direction_xyz: Float[np.ndarray, "3"]) -> str:
    """Name a direction in the patient, as viewers do: ``L``, or ``LA`` where it is oblique.

    Source: DICOM PS3.3 C.7.6.1.1.1 (Patient Orientation).
    """
    unit = direction_xyz / np.linalg.norm(direction_xyz)
    letters = [("R", "L"), ("A", "P"), ("I", "S")]
    order = np.argsort(-np.abs(unit), kind="stable")
    return "".join(letters[axis][int(unit[axis] > 0)] for axis in order if abs(unit[axis]) > 0.3)


def edge_letters(volume: Volume, plane: Plane) -> tuple[str, str, str, str]:
    """Return the letters at a picture's left, right, upper and lower edge."""
    right, down = volume.affine[:3, plane.column], volume.affine[:3, plane.row]
    if plane.superior_up:
        down = -down
    return (
        direction_letters(-right),
        direction_letters(right),
        direction_letters(-down),
        direction_letters(down),
    )


def scale_bar_mm(width_mm: float) -> int:
    """Return a round length between about a sixth and a third of a picture's width."""
    for length in (200, 100, 50, 20, 10, 5, 2):
        if length <= width_mm / 3:
            return length
    return 1


def _padded_cut(
    values: Num[np.ndarray, "rows columns"] | Bool[np.ndarray, "rows columns"],
    frame: Frame,
    outside: float,
) -> tuple[tuple[int, int], Float[np.ndarray, "cut_rows cut_columns"]]:
    """Return the voxels that a frame needs, and the index of the first; ``outside`` fills up."""
    margin = 3  # reach of the bicubic kernel
    first = (int(np.floor(frame.low[0])) - margin, int(np.floor(frame.low[1])) - margin)
    last = (int(np.ceil(frame.high[0])) + margin, int(np.ceil(frame.high[1])) + margin)
    cut = np.full((last[0] - first[0], last[1] - first[1]), outside, np.float32)
    inside = tuple(
        slice(max(first[axis], 0), max(min(last[axis], values.shape[axis]), 0)) for axis in (0, 1)
    )
    part = values[inside]
    row, column = inside[0].start - first[0], inside[1].start - first[1]
    cut[row : row + part.shape[0], column : column + part.shape[1]] = part
    return first, cut
