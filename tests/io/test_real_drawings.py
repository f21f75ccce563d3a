"""Drawings on real CT against label maps that others made of them; see ``test_real_ct``."""

import re

import numpy as np
import pytest
from test_real_ct import real

from osteomet.io.dicom_seg import read_segmentation
from osteomet.io.rtstruct import read_structures
from osteomet.io.scan import read_scan
from osteomet.io.volumes import read_labels
from osteomet.volume import Volume


def agreement(found: Volume, truth: Volume) -> tuple[float, float]:
    """Return Dice, and the distance of the centroids in mm."""
    one, other = found.closest_lps(), truth.closest_lps()
    shared = (one.voxels > 0) & (other.voxels > 0)
    dice = 2 * shared.sum() / ((one.voxels > 0).sum() + (other.voxels > 0).sum())
    centres = [
        v.index_to_world(np.argwhere(v.voxels > 0).astype(float)).mean(0) for v in (one, other)
    ]
    return float(dice), float(np.linalg.norm(centres[0] - centres[1]))


def test_a_liver_as_dicom_seg_and_as_nrrd() -> None:
    scan = read_scan(real("dcmqi_ct_3slice_spine")).volume
    path = real("dcmqi_ct_3slice_spine/liver.dcm")
    found = read_segmentation(path, scan, re.compile("liver", re.IGNORECASE))
    labels = read_labels(real("dcmqi_ct_3slice_spine/liver_spine_seg.nrrd"))
    dice, apart_mm = agreement(
        scan.with_voxels(found.labels), labels.with_voxels((labels.voxels == 1).astype(np.int16))
    )
    assert dice == 1.0
    assert apart_mm == pytest.approx(0, abs=1e-3)
    assert found.warnings == ()


def test_a_tumour_as_rtstruct_and_as_nifti() -> None:
    """MIRP made the label map from the same contours."""
    scan = read_scan(real("sts_001_thigh_sarcoma/dicom")).volume
    found = read_structures(real("sts_001_thigh_sarcoma/dicom/rtstruct/RS.dcm"), scan)
    dice, apart_mm = agreement(
        scan.with_voxels(found.labels), read_labels(real("sts_001_thigh_sarcoma/nifti/mask.nii.gz"))
    )
    assert dice == 1.0
    assert apart_mm == pytest.approx(0, abs=1e-3)
    assert found.names == ("GTV_Mass_CT",)
    assert found.warnings == ()
