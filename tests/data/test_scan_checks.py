"""Each fault of a scan is found, and only that; a scan without fault is left alone."""

import pytest
from examined import lesion, record

from osteomet.checkup import ScanRecord, Severity
from osteomet.data.scan_checks import check_scan

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

FAULTS = [
    ("unreadable scan", ERROR, record(measures=None, image_fault="a.nii: damaged")),
    ("unusable annotation", ERROR, record(lesions=(), annotation_fault="m.nii: other grid")),
    ("repaired while reading", WARNING, record(warnings=("gantry tilt of 12 degrees",))),
    ("thick slices", WARNING, record(spacing_zyx_mm=(5.5, 0.8, 0.8))),
    ("thick slices", ERROR, record(spacing_zyx_mm=(12.0, 0.8, 0.8))),
    ("wide pixels", WARNING, record(spacing_zyx_mm=(3.0, 3.0, 3.0))),
    ("slices not axial", WARNING, record(spacing_zyx_mm=(0.6, 1.9, 0.6))),
    ("oblique grid", WARNING, record(tilt_deg=20.0)),
    ("doubtful HU", WARNING, record(air_hu=-930.0)),
    ("doubtful HU", WARNING, record(fat_hu=-50.0)),
    ("doubtful HU", WARNING, record(soft_tissue_hu=150.0)),
    ("doubtful HU", WARNING, record(soft_tissue_hu=None, fat_hu=None)),
    ("clipped HU", WARNING, record(high=400.0, at_high_share=0.01)),
    ("coarse HU", WARNING, record(step_hu=8.0)),
    ("noisy scan", WARNING, record(noise_hu=90.0)),
    ("no body", ERROR, record(body_ml=3.0, bone_ml=0.0, region="no body")),
    ("no bone", WARNING, record(bone_ml=1.0)),
    ("unusual region", NOTE, record(region="legs")),
    ("empty mask", NOTE, record(lesions=(), mask_digest=None)),
    ("boxes outside the scan", ERROR, record(boxes_mm=(20.0,), boxes_outside=1)),
    ("unusual box size", WARNING, record(boxes_mm=(300.0,))),
    ("lesion outside the body", ERROR, record(lesions=(lesion(body_share=0.1, bone_share=0.0),))),
    ("lesion outside bone", WARNING, record(lesions=(lesion(bone_share=0.05),))),
    ("touching lesions", WARNING,
     record(lesions=(lesion(touches=(2,)), lesion(label=2, touches=(1,))))),
    ("split lesion", WARNING, record(lesions=(lesion(parts=3, largest_part_share=0.7),))),
    ("tiny lesion", WARNING, record(lesions=(lesion(voxels=4, diameter_mm=2.0),))),
    ("tiny lesion", WARNING, record(lesions=(lesion(shortest_side_vox=1),))),
    ("huge lesion", WARNING, record(lesions=(lesion(diameter_mm=140.0),))),
    ("lesion at the border", NOTE, record(lesions=(lesion(at_border=True),))),
]  # fmt: skip


def test_a_scan_without_fault_is_left_alone() -> None:
    assert check_scan(record()) == ()
    assert check_scan(record(annotation="none", lesions=(), mask_digest=None)) == ()
    assert check_scan(record(annotation="boxes", lesions=(), boxes_mm=(12.0, 40.0))) == ()


@pytest.mark.parametrize(("check", "severity", "scan"), FAULTS)
def test_a_fault_is_found(check: str, severity: Severity, scan: ScanRecord) -> None:
    (finding,) = check_scan(scan)
    assert (finding.check, finding.severity, finding.scans) == (check, severity, ("s1",))
    assert finding.found
    assert finding.advice.endswith(".")


def test_findings_name_their_lesion() -> None:
    (finding,) = check_scan(record(lesions=(lesion(), lesion(label=7, bone_share=0.0))))
    assert finding.lesion == 7
    assert "Lesion 7 (14.2 mm)" in finding.found


def test_lesions_are_not_judged_where_the_mask_cannot_be_read() -> None:
    scan = record(lesions=(), mask_digest=None, annotation_fault="on another grid")
    assert [finding.check for finding in check_scan(scan)] == ["unusable annotation"]
