"""Real CT becomes a cohort that loads; OSTEOMET_REAL_DATA names the folder that holds it."""

from pathlib import Path

import numpy as np
import pytest
from test_real_ct import real

from osteomet.data.annotations import Annotations, read_annotations
from osteomet.data.importing import import_cohort
from osteomet.data.manifest import read_cohort
from osteomet.errors import InputError
from osteomet.io.scan import read_scan


def annotations(cohort: Path) -> list[Annotations]:
    cases = read_cohort(cohort).cases
    return [read_annotations(case, read_scan(case.image).volume, 2.0) for case in cases]


def test_one_tumour_as_dicom_and_as_nifti(tmp_path: Path) -> None:
    thigh = real("sts_001_thigh_sarcoma")
    dicom = import_cohort("dicom-rtstruct", thigh / "dicom", tmp_path / "dicom")
    nifti = import_cohort("nifti", thigh / "nifti", tmp_path / "nifti")
    assert [note.outcome for note in dicom.notes + nifti.notes if note.outcome == "skipped"] == []
    (one,), (other,) = annotations(dicom.cohort), annotations(nifti.cohort)
    assert len(one.masks) == len(other.masks)
    for mask, twin in zip(one.masks, other.masks, strict=True):
        assert mask.corner == twin.corner
        # Headers differ in the seventh digit, which may turn a voxel on the border.
        assert (mask.mask != twin.mask).mean() < 1e-3


def test_a_segmentation_of_three_slices(tmp_path: Path) -> None:
    source = real("dcmqi_ct_3slice_spine")
    with pytest.raises(InputError, match=r"none of its regions is called a lesion.*'Liver"):
        import_cohort("dicom-seg", source, tmp_path / "none")
    result = import_cohort("dicom-seg", source, tmp_path / "out", lesions="liver")
    (found,) = annotations(result.cohort)
    assert len(found.masks) >= 1
    assert any("only 3 slices" in note.note for note in result.notes)


def test_boxes_of_radiologists(tmp_path: Path) -> None:
    result = import_cohort("blds", real("blds_bone_lesions"), tmp_path / "out")
    assert result.notes == ()
    found = annotations(result.cohort)
    assert [len(one.boxes) for one in found] == [1, 1, 2, 2]
    assert np.concatenate([one.boxes for one in found]).min() >= 0
