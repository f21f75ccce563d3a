"""Contours become the voxels whose centres they enclose."""

import re
from pathlib import Path

import numpy as np
import pytest
from ct_series import PATIENT, body, rotated, transposed, write
from drawings import disc, ring, write_rtstruct
from matplotlib.path import Path as Outline

from osteomet.errors import AnnotationError
from osteomet.io.rtstruct import fill_polygons, read_structures
from osteomet.volume import Volume


def inside(polygon: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The oracle: Matplotlib's test of each pixel's centre."""
    points = np.argwhere(np.ones(shape, dtype=bool))
    return Outline(polygon).contains_points(points).reshape(shape)


def star(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A jagged polygon, partly beyond the image."""
    angle = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 40)))
    radius = rng.uniform(0.1, 0.8, len(angle)) * max(shape)
    centre = rng.uniform(0, shape)
    return centre + np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1)


@pytest.mark.parametrize("seed", range(20))
def test_filling_agrees_with_matplotlib(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 40)), int(rng.integers(1, 40)))
    first, second = star(rng, shape), star(rng, shape)
    np.testing.assert_array_equal(fill_polygons([first], shape), inside(first, shape))
    both = inside(first, shape) ^ inside(second, shape)
    np.testing.assert_array_equal(fill_polygons([first, second], shape), both)


def test_corners_on_pixel_centres_count_once() -> None:
    square = np.array([[1.0, 1], [1, 4], [3, 4], [3, 1]])
    expected = np.zeros((6, 6), dtype=bool)
    expected[1:3, 1:4] = True  # low edges are inside, high edges are not: neighbours share no pixel
    np.testing.assert_array_equal(fill_polygons([square], (6, 6)), expected)
    np.testing.assert_array_equal(fill_polygons([square[::-1]], (6, 6)), expected)


def test_nothing_is_filled_by_nothing() -> None:
    assert not fill_polygons([], (3, 4)).any()
    assert not fill_polygons([np.array([[50.0, 50], [60, 50], [60, 60]])], (3, 4)).any()


def test_a_keyhole_is_a_hole() -> None:
    outer = np.array([[0.5, 0.5], [0.5, 9.5], [9.5, 9.5], [9.5, 0.5]])
    inner = np.array([[3.5, 3.5], [6.5, 3.5], [6.5, 6.5], [3.5, 6.5]])
    joined = np.concatenate([outer, outer[:1], inner, inner[:1], outer[:1]])
    filled = fill_polygons([joined], (11, 11))
    np.testing.assert_array_equal(filled, fill_polygons([outer, inner], (11, 11)))
    assert filled.sum() == 81 - 9


VOLUMES = {
    "axial": body(),
    "oblique": rotated(body(), (20, 10)),
    "sagittal": transposed(body((12, 22, 18)), (2, 0, 1)),
}


@pytest.mark.parametrize("name", list(VOLUMES))
def test_voxels_inside_contours(tmp_path: Path, name: str) -> None:
    volume = VOLUMES[name]
    series = write(tmp_path / "ct", volume)
    contours = [ring(volume, k, (6.2, 7.1), 4.3) for k in (2, 3, 4)]
    contours.append(ring(volume, 3, (6.2, 7.1), 2.2))
    path = write_rtstruct(tmp_path / "rs.dcm", series, {"GTV 1": contours, "Heart": contours})
    found = read_structures(path, volume)
    expected = np.zeros(volume.shape, dtype=int)
    expected[2:5] = disc(volume, (6.2, 7.1), 4.3)
    expected[3] -= disc(volume, (6.2, 7.1), 2.2)
    np.testing.assert_array_equal(found.labels, expected)
    assert found.names == ("GTV 1",)
    assert "1 regions were left out" in found.warnings[0]
    assert "Heart" in found.warnings[0]


def test_contours_on_thicker_slices_stand_for_those_between(tmp_path: Path) -> None:
    volume = body((9, 22, 18))
    series = write(tmp_path / "ct", volume)
    contours = [ring(volume, k, (9, 8), 4.4) for k in (1, 4, 7)]
    found = read_structures(write_rtstruct(tmp_path / "rs.dcm", series, {"gtv": contours}), volume)
    assert (found.labels.reshape(9, -1).sum(axis=1) == disc(volume, (9, 8), 4.4).sum()).all()
    assert any("contours every 7.5 mm on slices every 2.5 mm" in text for text in found.warnings)


def test_a_gap_between_lesions_stays(tmp_path: Path) -> None:
    volume = body((12, 22, 18))
    series = write(tmp_path / "ct", volume)
    contours = [ring(volume, k, (9, 8), 4.4) for k in (1, 2, 3, 8, 9)]
    found = read_structures(write_rtstruct(tmp_path / "rs.dcm", series, {"gtv": contours}), volume)
    assert np.flatnonzero(found.labels.any(axis=(1, 2))).tolist() == [1, 2, 3, 8, 9]
    assert any("4 slices between its first and last" in text for text in found.warnings)


def test_overlapping_regions_keep_the_smaller_one(tmp_path: Path) -> None:
    volume = body()
    series = write(tmp_path / "ct", volume)
    large, small = ring(volume, 3, (10, 9), 6), ring(volume, 3, (10, 9), 2.5)
    path = write_rtstruct(tmp_path / "rs.dcm", series, {"lesion a": [small], "lesion b": [large]})
    found = read_structures(path, volume)
    assert (found.labels == 1).sum() == disc(volume, (10, 9), 2.5).sum()
    assert any("overlap" in text for text in found.warnings)


@pytest.mark.parametrize(
    ("regions", "kind", "pattern", "message"),
    [
        ({"Heart": 3.0}, "CLOSED_PLANAR", None, "none of its regions is called a lesion.*Heart"),
        ({"GTV": 3.0}, "CLOSED_PLANAR", "tumour", "none of its regions is called a lesion.*GTV"),
        ({"GTV": 3.0}, "POINT", None, "none of its contours lies on the scan"),
        ({"GTV": 300.0}, "CLOSED_PLANAR", None, "none of its contours lies on the scan"),
        ({}, "CLOSED_PLANAR", None, "holds no regions"),
    ],
)
def test_what_cannot_be_used(
    tmp_path: Path, regions: dict[str, float], kind: str, pattern: str | None, message: str
) -> None:
    volume = body()
    series = write(tmp_path / "ct", volume)
    drawn = {name: [ring(volume, k, (9, 8), 4)] for name, k in regions.items()}
    path = write_rtstruct(tmp_path / "rs.dcm", series, drawn, kind=kind)
    with pytest.raises(AnnotationError, match=message) as caught:
        read_structures(path, volume, re.compile(pattern) if pattern else None)
    assert str(caught.value).startswith(str(path))
    assert not any(part in str(caught.value) for part in PATIENT.split("^"))


def test_contours_across_slices_are_refused(tmp_path: Path) -> None:
    volume = body()
    series = write(tmp_path / "ct", volume)
    upright = Volume(volume.voxels, volume.affine)
    tilted = ring(upright, 3, (9, 8), 4) + np.linspace(0, 9, 60)[:, None] * [0, 0, 1]
    path = write_rtstruct(tmp_path / "rs.dcm", series, {"GTV": [tilted]})
    with pytest.raises(AnnotationError, match=r"spans 3\.6 slices; expected contours parallel"):
        read_structures(path, volume)


def test_other_files_are_refused(tmp_path: Path) -> None:
    series = write(tmp_path / "ct")
    with pytest.raises(AnnotationError, match="has modality CT; expected an RTSTRUCT"):
        read_structures(series / "0001.dcm", body())
