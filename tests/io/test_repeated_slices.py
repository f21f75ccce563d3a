"""Several images at one position: which one is read, and what is said."""

import shutil
from pathlib import Path

import numpy as np
from ct_series import (
    assert_same_scan,
    body,
    copy_series,
    edit,
    files_of,
    refused,
    set_stored,
    stored,
    warned,
    write,
)
from pydicom import Dataset

from osteomet.errors import GeometryError
from osteomet.io.scan import read_scan


def brighter(dataset: Dataset, index: int) -> None:
    set_stored(dataset, stored(dataset) + np.uint16(100))


def nothing(dataset: Dataset, index: int) -> None:
    pass


def test_files_sent_twice_are_read_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "all" / "ct")
    shutil.copytree(folder, tmp_path / "all" / "again")
    scan = read_scan(tmp_path / "all")
    assert_same_scan(scan.volume, body())
    warned(scan, "8 images", "twice")


def test_copies_under_new_uids_are_told_by_their_pixels(tmp_path: Path) -> None:
    copy_series(write(tmp_path / "all" / "ct"), tmp_path / "all" / "copy", nothing)
    for file in files_of(tmp_path / "all" / "copy")[3:]:
        file.unlink()
    scan = read_scan(tmp_path / "all")
    assert_same_scan(scan.volume, body())
    warned(scan, "3 images are copies")


def test_different_images_that_nothing_tells_apart_are_refused(tmp_path: Path) -> None:
    copy_series(write(tmp_path / "all" / "ct"), tmp_path / "all" / "other", brighter)
    refused(
        tmp_path / "all",
        GeometryError,
        "2 different images",
        "[-10.0, 20.0, -300.5]",
        "separate the phases",
    )


def test_of_whole_phases_the_first_is_read(tmp_path: Path) -> None:
    def second(dataset: Dataset, index: int) -> None:
        brighter(dataset, index)
        dataset.AcquisitionNumber = 10

    copy_series(write(tmp_path / "all" / "z"), tmp_path / "all" / "a", second)
    edit(tmp_path / "all" / "z", lambda dataset, _: setattr(dataset, "AcquisitionNumber", 9))
    scan = read_scan(tmp_path / "all")
    assert_same_scan(scan.volume, body())
    warned(scan, "2 images lie at each position", "acquisition", "'9'")


def test_temporal_positions_tell_phases_apart_too(tmp_path: Path) -> None:
    def later(dataset: Dataset, index: int) -> None:
        brighter(dataset, index)
        dataset.TemporalPositionIdentifier = 2

    copy_series(write(tmp_path / "all" / "z"), tmp_path / "all" / "a", later)
    edit(
        tmp_path / "all" / "z", lambda dataset, _: setattr(dataset, "TemporalPositionIdentifier", 1)
    )
    scan = read_scan(tmp_path / "all")
    assert_same_scan(scan.volume, body())
    warned(scan, "temporal position")


def test_original_images_come_before_derived_ones(tmp_path: Path) -> None:
    def derived(dataset: Dataset, index: int) -> None:
        brighter(dataset, index)
        dataset.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]

    copy_series(write(tmp_path / "all" / "z"), tmp_path / "all" / "a", derived)
    scan = read_scan(tmp_path / "all")
    assert_same_scan(scan.volume, body())
    warned(scan, "image type", "ORIGINAL")


def test_where_acquisitions_overlap_the_first_is_read(tmp_path: Path) -> None:
    def lower(dataset: Dataset, index: int) -> None:
        brighter(dataset, index)
        dataset.AcquisitionNumber = 2

    folder = write(tmp_path / "all" / "ct")
    copy_series(folder, tmp_path / "all" / "lower", lower)
    for file in files_of(folder)[5:]:
        file.unlink()
    for file in files_of(tmp_path / "all" / "lower")[:3]:
        file.unlink()
    scan = read_scan(tmp_path / "all")
    expected = body().voxels.copy()
    expected[5:] += 100
    np.testing.assert_array_equal(scan.volume.voxels, expected)
    warned(scan, "2 of 8 positions", "acquisition", "contrast")
