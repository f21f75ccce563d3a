"""A label map written slab by slab is the file that SimpleITK writes of the whole."""

import errno
from pathlib import Path

import nibabel
import numpy as np
import pytest
from jaxtyping import Integer

from osteomet.errors import ReportError
from osteomet.io import nifti_writer
from osteomet.io.nifti_writer import write_label_map
from osteomet.io.volumes import read_labels, write_labels
from osteomet.label_map import InstanceMask, LabelMap
from osteomet.volume import Volume, Window


def oblique_labels(highest: int) -> Volume:
    voxels = np.zeros((12, 9, 7), np.int32)
    voxels[2:4, 3:6, 1:3], voxels[10, 8, 6] = 1, highest
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = turn * (1.25, 0.75, 0.5)
    affine[:3, 3] = (-12.5, 33.25, 401.0)
    return Volume(voxels, affine)


@pytest.mark.parametrize("highest", [2, 300, 40000])
@pytest.mark.parametrize("slab_voxels", [1, 200, 8_000_000])
def test_file_is_that_of_the_whole(
    highest: int, slab_voxels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = oblique_labels(highest)
    monkeypatch.setattr(nifti_writer, "SLAB_VOXELS", slab_voxels)
    write_label_map(tmp_path / "slabs.nii.gz", LabelMap.of(labels))
    again = read_labels(tmp_path / "slabs.nii.gz")
    assert np.array_equal(again.voxels, labels.voxels)
    np.testing.assert_allclose(again.affine, labels.affine, atol=1e-4)

    write_labels(tmp_path / "whole.nii.gz", LabelMap.of(labels).whole())
    slabs, whole = (nibabel.load(tmp_path / f"{name}.nii.gz") for name in ("slabs", "whole"))
    assert np.array_equal(np.asarray(slabs.dataobj), np.asarray(whole.dataobj))
    assert slabs.header.binaryblock == whole.header.binaryblock
    assert [path.name for path in tmp_path.iterdir() if ".partial" in path.name] == []


def test_equal_maps_are_equal_files(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        write_label_map(tmp_path / name, LabelMap.of(oblique_labels(2)))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lesions.nii.gz"
    write_label_map(path, LabelMap.of(oblique_labels(2)))
    before = path.read_bytes()

    def full(_: LabelMap, __: Window) -> Integer[np.ndarray, "z y x"]:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LabelMap, "window", full)
    with pytest.raises(ReportError, match="No space left on device"):
        write_label_map(path, LabelMap.of(oblique_labels(3)))
    assert [one.name for one in tmp_path.iterdir()] == ["lesions.nii.gz"]
    assert path.read_bytes() == before


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="nowhere"):
        write_label_map(tmp_path / "nowhere" / "a.nii.gz", LabelMap.of(oblique_labels(2)))


def test_a_scan_too_long_for_the_format_is_refused(tmp_path: Path) -> None:
    grid = Volume(np.broadcast_to(np.zeros((), np.uint8), (40000, 2, 2)), np.eye(4))
    one = InstanceMask(1, (0, 0, 0), np.ones((1, 1, 1), bool))
    with pytest.raises(ReportError, match="40000 x 2 x 2 voxels; expected at most 32767"):
        write_label_map(tmp_path / "a.nii.gz", LabelMap.on(grid, (one,)))
