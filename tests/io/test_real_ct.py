"""Real CT, where OSTEOMET_REAL_DATA names a folder that has it; see docs/input.md."""

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from ct_series import assert_same_scan

from osteomet.io.scan import read_scan
from osteomet.io.volumes import read_labels


def real(name: str) -> Path:
    root = os.environ.get("OSTEOMET_REAL_DATA")
    if not root:
        pytest.skip("OSTEOMET_REAL_DATA is not set: no real CT to read")
    path = Path(root) / name
    if not path.exists():
        pytest.skip(f"{name} is missing from OSTEOMET_REAL_DATA")
    return path


def test_jpeg_2000_series_equals_simpleitk() -> None:
    folder = real("totalseg_example_dicom/ct")
    scan = read_scan(folder)
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    np.testing.assert_array_equal(scan.volume.voxels, sitk.GetArrayFromImage(image))
    assert scan.volume.voxels.dtype == np.int16
    np.testing.assert_allclose(scan.volume.affine[:3, 3], image.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(scan.volume.spacing_zyx_mm, image.GetSpacing()[::-1], atol=1e-5)
    assert scan.warnings == ()


def test_its_label_map_lies_on_the_same_grid() -> None:
    scan = read_scan(real("totalseg_example_dicom/ct")).volume.closest_lps()
    labels = read_labels(real("totalseg_example_dicom/example_seg_v2_117classes.nii.gz"))
    labels = labels.closest_lps()
    assert labels.shape == scan.shape
    np.testing.assert_allclose(labels.affine, scan.affine, atol=1e-3)
    vertebrae = (labels.voxels >= 26) & (labels.voxels <= 50)
    assert scan.voxels[vertebrae].mean() > 150


def test_the_same_thigh_as_dicom_and_as_nifti() -> None:
    """The NIfTI was made by someone else's converter, with float HU."""
    dicom = read_scan(real("sts_001_thigh_sarcoma/dicom"))
    nifti = read_scan(real("sts_001_thigh_sarcoma/nifti/image.nii.gz"))
    assert_same_scan(dicom.volume, nifti.volume)
    assert dicom.info.chosen_because is not None
    assert "RTSTRUCT" in dicom.info.chosen_because


def test_three_slices_are_read_with_a_warning() -> None:
    scan = read_scan(real("dcmqi_ct_3slice_spine"))
    assert scan.volume.shape == (3, 512, 512)
    assert any("only 3 slices" in text for text in scan.warnings)
    spine = read_labels(real("dcmqi_ct_3slice_spine/liver_spine_seg.nrrd"))
    apart = spine.closest_lps().affine - scan.volume.closest_lps().affine
    np.testing.assert_allclose(apart, 0, atol=1e-3)


@pytest.mark.parametrize(
    "name", ["blds_bone_lesions/1.nii.gz", "totalseg_example_ct/example_ct.nii.gz"]
)
def test_volumes_equal_simpleitk(name: str) -> None:
    path = real(name)
    scan = read_scan(path)
    np.testing.assert_array_equal(
        scan.volume.voxels, sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    )
    assert scan.warnings == ()
