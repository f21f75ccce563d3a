"""One Enhanced CT file gives what the same slices in single files give."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from ct_series import (
    assert_same_scan,
    body,
    edit,
    enhanced,
    files_of,
    refused,
    reversed_slices,
    rotated,
    stored,
    warned,
    write,
)
from pydicom import Dataset, dcmread
from pydicom.uid import JPEGLSLossless, RLELossless

from osteomet.errors import GeometryError, InputError
from osteomet.io.scan import read_scan
from osteomet.volume import Volume


@pytest.mark.parametrize("share", [(), ("orientation",), ("orientation", "rescale")])
@pytest.mark.parametrize("volume", [body(), reversed_slices(body()), rotated(body(), (30.0, 20.0))])
def test_frames_are_slices(tmp_path: Path, share: tuple[str, ...], volume: Volume) -> None:
    file = enhanced(write(tmp_path / "ct", volume), tmp_path / "multi", share=share)
    scan = read_scan(file)
    assert_same_scan(scan.volume, volume)
    assert scan.volume.voxels.dtype == np.int16
    assert_same_scan(read_scan(tmp_path / "multi").volume, volume)


def test_frames_in_any_order_with_their_own_rescale(tmp_path: Path) -> None:
    folder = write(tmp_path / "ct")
    order = np.random.default_rng(0).permutation(8)

    def shift(dataset: Dataset, index: int) -> None:
        dataset.PixelData = (stored(dataset) + np.uint16(10 * index)).tobytes()
        dataset.RescaleIntercept -= 10 * index

    edit(folder, shift)
    for file, place in zip(files_of(folder), order.tolist(), strict=True):
        file.rename(folder / f"{place}_{file.name}")
    assert_same_scan(read_scan(enhanced(folder, tmp_path / "multi")).volume, body())


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_frames(tmp_path: Path, syntax: str) -> None:
    file = enhanced(write(tmp_path / "ct"), tmp_path / "multi")
    dataset = dcmread(file)
    dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(file)
    assert_same_scan(read_scan(file).volume, body())


def test_in_a_zip(tmp_path: Path) -> None:
    file = enhanced(write(tmp_path / "ct", reversed_slices(body())), tmp_path / "multi")
    with zipfile.ZipFile(tmp_path / "ct.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(file, "enhanced.dcm")
    assert_same_scan(read_scan(tmp_path / "ct.zip").volume, body())


def test_a_series_of_several_multiframe_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "ct")
    (tmp_path / "upper").mkdir()
    for file in files_of(folder)[5:]:
        shutil.move(file, tmp_path / "upper")
    enhanced(folder, tmp_path / "multi" / "a")
    enhanced(tmp_path / "upper", tmp_path / "multi" / "b")
    assert_same_scan(read_scan(tmp_path / "multi").volume, body())


def test_phases_in_one_file(tmp_path: Path) -> None:
    folder = write(tmp_path / "ct")

    def second(dataset: Dataset, index: int) -> None:
        dataset.AcquisitionNumber = 2

    for file in files_of(folder):
        shutil.copy(file, folder / f"again_{file.name}")
    edit(folder, second, slice(8, None))
    scan = read_scan(enhanced(folder, tmp_path / "multi"))
    assert_same_scan(scan.volume, body())
    warned(scan, "acquisition")


def test_missing_frames_and_truncated_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "ct")
    files_of(folder)[3].unlink()
    file = enhanced(folder, tmp_path / "multi")
    refused(file, GeometryError, "1 slice is missing", "-295.5 and -290.5")
    file.write_bytes(file.read_bytes()[:-500])
    shutil.rmtree(folder)
    file = enhanced(write(folder), tmp_path / "multi")
    file.write_bytes(file.read_bytes()[:-500])
    refused(file, InputError, "enhanced.dcm", "truncated")
