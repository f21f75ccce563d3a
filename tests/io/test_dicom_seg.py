"""DICOM SEG, written by highdicom, comes back as the voxels that went in."""

import re
from pathlib import Path

import numpy as np
import pytest
from ct_series import PATIENT, body, reversed_slices, rotated, transposed, write
from drawings import write_seg

from osteomet.errors import AnnotationError
from osteomet.io.dicom_seg import read_segmentation, segment_labels
from osteomet.io.scan import read_scan
from osteomet.volume import Volume


def blobs(shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    first, second = np.zeros((2, *shape), dtype=bool)
    first[2:5, 3:9, 4:10] = rng.random((3, 6, 6)) < 0.7
    second[4:6, 10:15, 3:8] = True
    return {"Lesion 1": first, "Lesion 2": second & ~first}


@pytest.mark.parametrize(
    "volume",
    [
        body(),
        rotated(body(), (20, 10)),
        reversed_slices(body()),
        transposed(body((12, 22, 18)), (2, 0, 1)),
    ],
    ids=["axial", "oblique", "reversed", "sagittal"],
)
def test_the_very_voxels_come_back(tmp_path: Path, volume: Volume) -> None:
    series = write(tmp_path / "ct", volume)
    drawn = blobs(volume.shape)
    path = write_seg(tmp_path / "seg.dcm", series, drawn)
    scan = read_scan(series).volume
    found = read_segmentation(path, scan)
    one, two = drawn.values()
    expected = volume.with_voxels((one + 2 * two).astype(np.int16)).closest_lps().voxels
    got = scan.with_voxels(found.labels).closest_lps().voxels
    np.testing.assert_array_equal(got, expected)
    assert found.names == ("Lesion 1", "Lesion 2")
    assert found.warnings == ()


def test_a_fraction_of_half_is_inside(tmp_path: Path) -> None:
    volume = body()
    series = write(tmp_path / "ct", volume)
    share = np.random.default_rng(0).random(volume.shape)
    share[:, :3] = 0
    path = write_seg(tmp_path / "seg.dcm", series, {"Lesion": share}, kind="FRACTIONAL")
    found = read_segmentation(path, volume).labels > 0
    np.testing.assert_array_equal(found, np.rint(share * 255) / 255 >= 0.5)


def test_another_grid_is_resampled_without_a_shift(tmp_path: Path) -> None:
    """A ball drawn on a coarse grid that is off by fractions of a voxel, as PET's is."""
    volume = body((20, 40, 40))
    series = write(tmp_path / "ct", volume)
    grid = Volume.from_spacing(np.zeros((14, 14, 14)), (3.0, 2.1, 2.1), (-8.7, 21.3, -299.1))
    centre = volume.index_to_world(np.array([[9.0, 20.0, 20.0]]))
    index = np.argwhere(np.ones(grid.shape, dtype=bool)).astype(float)
    ball = (np.linalg.norm(grid.index_to_world(index) - centre, axis=1) < 9).reshape(grid.shape)
    path = write_seg(tmp_path / "seg.dcm", series, {"Lesion": ball}, grid=grid)
    found = volume.with_voxels(read_segmentation(path, volume).labels)
    voxels = np.argwhere(found.voxels > 0).astype(float)
    drawn = grid.index_to_world(np.argwhere(ball).astype(float)).mean(axis=0)
    shift = volume.world_to_index(drawn[None])[0] - voxels.mean(axis=0)
    assert np.abs(shift).max() < 0.25
    assert len(voxels) * volume.voxel_ml == pytest.approx(ball.sum() * grid.voxel_ml, rel=0.05)


def test_segments_are_chosen_by_name(tmp_path: Path) -> None:
    series = write(tmp_path / "ct")
    drawn = dict(zip(("Liver", "Spine"), blobs(body().shape).values(), strict=True))
    path = write_seg(tmp_path / "seg.dcm", series, drawn, lesions=False)
    assert segment_labels(path) == ("Liver", "Spine")
    with pytest.raises(AnnotationError, match=r"none of its regions.*Liver.*--lesions"):
        read_segmentation(path, body())
    found = read_segmentation(path, body(), re.compile("spine", re.IGNORECASE))
    np.testing.assert_array_equal(found.labels > 0, drawn["Spine"])
    assert "Liver" in found.warnings[0]


def test_a_segmentation_of_elsewhere_is_refused(tmp_path: Path) -> None:
    series = write(tmp_path / "ct")
    path = write_seg(tmp_path / "seg.dcm", series, blobs(body().shape))
    away = Volume.from_spacing(np.zeros((4, 4, 4)), (1.0, 1.0, 1.0), (500.0, 0.0, 0.0))
    with pytest.raises(AnnotationError, match="lie outside the scan"):
        read_segmentation(path, away)


def test_a_scan_that_holds_half_of_it(tmp_path: Path) -> None:
    volume = body()
    path = write_seg(tmp_path / "seg.dcm", write(tmp_path / "ct"), blobs(volume.shape))
    half = Volume(volume.voxels[:4], volume.affine)
    found = read_segmentation(path, half)
    one, two = blobs(volume.shape).values()
    np.testing.assert_array_equal(found.labels, (one + 2 * two)[:4])
    beyond = int((one | two)[4:].sum())
    assert f"{beyond} voxels of the segmentation lie outside the scan" in found.warnings
    assert any("have no voxel" in text for text in found.warnings)


def test_other_files_are_refused(tmp_path: Path) -> None:
    series = write(tmp_path / "ct")
    with pytest.raises(AnnotationError, match="no DICOM SEG") as caught:
        read_segmentation(series / "0001.dcm", body())
    assert not any(part in str(caught.value) for part in PATIENT.split("^"))
