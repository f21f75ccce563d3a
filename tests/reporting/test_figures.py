"""Pictures measured in mm: proportion, orientation, window, outline; in every orientation."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from scenes import ORIENTATIONS, Orientation, phantom, reoriented

from osteomet.reporting.figures import (
    AXIAL,
    BONE_WINDOW_HU,
    CORONAL,
    PLANES,
    SAGITTAL,
    Frame,
    Plane,
    direction_letters,
    draw,
    edge_letters,
    outline,
    outlines,
    project,
    scale_bar_mm,
    take_slice,
)


def pixels(uri: str) -> np.ndarray:
    head, data = uri.split(",", 1)
    assert head == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(float)


def extent(bright: np.ndarray) -> tuple[int, int, int, int]:
    """First and last bright row and column."""
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def whole_picture(
    orientation: Orientation, plane: Plane, spacing: tuple[float, float, float]
) -> np.ndarray:
    upright = reoriented(phantom(spacing), orientation).closest_lps()
    values = project(upright, plane)
    return pixels(draw(values, Frame.whole(values.shape, plane.spacing(upright), 0.5)))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.9, 0.9), (0.75, 3.0, 1.5)])
@pytest.mark.parametrize(
    ("plane", "rows_mm", "columns_mm"),
    [
        # Edges of the bone from the picture's upper left corner, where patients' right,
        # anterior and superior are.
        (AXIAL, (18, 36), (12, 36)),
        (CORONAL, (90 - 78, 90 - 54), (12, 36)),
        (SAGITTAL, (90 - 78, 90 - 54), (18, 36)),
    ],
)
def test_proportion_and_side_in_mm(
    plane: Plane,
    rows_mm: tuple[int, int],
    columns_mm: tuple[int, int],
    spacing: tuple[float, float, float],
) -> None:
    picture = whole_picture(ORIENTATIONS[0], plane, spacing)
    assert picture.shape == (180, 180)
    found = extent(picture > 145)
    expected = [2 * edge for edge in (*rows_mm, *columns_mm)]
    # Half a voxel: the bone's edge lies anywhere within one.
    row_mm, column_mm = spacing[plane.row], spacing[plane.column]
    tolerance = [row_mm + 1] * 2 + [column_mm + 1] * 2
    assert (np.abs(np.subtract(found, expected)) <= tolerance).all(), (found, expected)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_how_a_scan_is_stored_does_not_change_its_pictures(orientation: Orientation) -> None:
    spacing = (3.0, 1.0, 1.5)
    upright = reoriented(phantom(spacing), orientation).closest_lps()
    for plane in PLANES:
        same = whole_picture(ORIENTATIONS[0], plane, spacing)
        assert np.array_equal(whole_picture(orientation, plane, spacing), same)
    assert edge_letters(upright, AXIAL) == ("R", "L", "A", "P")
    assert edge_letters(upright, CORONAL) == ("R", "L", "S", "I")
    assert edge_letters(upright, SAGITTAL) == ("A", "P", "S", "I")


def test_bone_window() -> None:
    low, high = BONE_WINDOW_HU
    for value, grey in [(-3000.0, 0), (low, 0), (400.0, 128), (high, 255), (3071.0, 255)]:
        values = np.full((20, 20), value, np.float32)
        frame = Frame.square((10.0, 10.0), (1.0, 1.0), 8.0, 16)
        assert pixels(draw(values, frame)) == pytest.approx(np.full((16, 16), grey), abs=1)


def test_outside_the_scan_is_black() -> None:
    values = np.full((10, 10), 1300, np.int16)
    half = pixels(draw(values, Frame.square((5.0, 0.0), (1.0, 1.0), 8.0, 80)))
    assert half[:, 45:].min() > 240
    assert half[:, :35].max() < 15
    away = pixels(draw(values, Frame.square((500.0, -500.0), (1.0, 1.0), 8.0, 80)))
    assert away.max() == 0


def test_outline_of_a_rectangle() -> None:
    mask = np.zeros((30, 30), bool)
    mask[10:20, 5:9] = True
    # Voxels of 2 mm by 1 mm, one pixel per mm: rows 10-20 are pixels 20-40.
    frame = Frame((0.0, 0.0), (30.0, 30.0), 60, 30, 1.0)
    path = outline(mask, frame)
    assert path.count("M") == path.count("Z") == 1
    points = np.array(re.findall(r"[-\d.]+", path), float).reshape(-1, 2)
    assert points.min(axis=0).tolist() == [5.0, 20.0]
    assert points.max(axis=0).tolist() == [9.0, 40.0]


def test_outline_is_closed_at_the_scan_s_border_and_has_holes() -> None:
    frame = Frame.square((5.0, 5.0), (1.0, 1.0), 20.0, 20)
    assert outline(np.zeros((10, 10), bool), frame) == ""
    full = np.ones((10, 10), bool)
    assert outline(full, frame).count("M") == 1
    full[4:6, 4:6] = False
    assert outline(full, frame).count("M") == 2


def test_outlines_of_a_label_and_of_the_others_are_those_of_their_masks() -> None:
    labels = np.random.default_rng(0).integers(0, 4, (30, 40)).astype(np.int16)
    frame = Frame.square((12.0, 35.0), (1.0, 1.5), 25.0, 100)
    own, others = outlines(labels, frame, 2)
    assert own == outline(labels == 2, frame) != ""
    assert others == outline((labels > 0) & (labels != 2), frame) != ""
    assert outlines(labels, frame, 9) == ("", outline(labels > 0, frame))


def test_outline_and_picture_agree() -> None:
    values = np.full((40, 40), -1000, np.int16)
    values[12:25, 20:30] = 1300
    spacing = (2.5, 0.8)
    frame = Frame.square((18.0, 24.0), spacing, 60.0, 300)
    row0, row1, column0, column1 = extent(pixels(draw(values, frame)) > 100)
    points = np.array(re.findall(r"[-\d.]+", outline(values > 0, frame)), float).reshape(-1, 2)
    assert [*points.min(axis=0), *points.max(axis=0)] == pytest.approx(
        [column0, row0, column1, row1], abs=2
    )


@pytest.mark.parametrize(
    ("direction", "letters"),
    [
        ((1.0, 0, 0), "L"),
        ((-3.0, 0, 0), "R"),
        ((0.0, -1, 0), "A"),
        ((0.0, 0, 2), "S"),
        ((0.9, 0.1, -0.1), "L"),
        ((0.6, -0.8, 0), "AL"),
        ((1.0, 1, -1), "LPI"),
    ],
)
def test_letters(direction: tuple[float, float, float], letters: str) -> None:
    assert direction_letters(np.array(direction)) == letters


@pytest.mark.parametrize(("width", "bar"), [(60, 20), (59, 10), (500, 100), (4, 1), (2000, 200)])
def test_scale_bar_is_round_and_fits(width: float, bar: int) -> None:
    assert scale_bar_mm(float(width)) == bar


def test_a_slice_is_a_view() -> None:
    voxels = np.zeros((4, 5, 6), np.int16)
    for plane, shape in zip(PLANES, [(5, 6), (4, 6), (4, 5)], strict=True):
        taken = take_slice(voxels, plane, 2)
        assert taken.shape == shape
        assert np.shares_memory(taken, voxels)
