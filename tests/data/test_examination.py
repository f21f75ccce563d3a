"""One scan is measured as it is, however it is stored, and no fault of a file is raised."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trunk_phantom as phantom

from osteomet.checkup import ScanMeasures, ScanRecord
from osteomet.data.examination import THUMBNAIL, VIEW_MM, examine
from osteomet.data.manifest import Case, MaskKind
from osteomet.findings import PrimaryTumour
from osteomet.io.dicom_writer import write_ct_series
from osteomet.volume import Volume


def measured(record: ScanRecord) -> ScanMeasures:
    assert record.measures is not None, record.image_fault
    return record.measures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scans")


@pytest.fixture(scope="module")
def case(folder: Path) -> Case:
    labels = phantom.balls(phantom.IN_SPINE, ((32, *phantom.SPINE), 5.0), phantom.IN_MUSCLE)
    return phantom.write_trunk(folder, "plain", labels=labels, age=61.0, sex="F", split="val")


@pytest.fixture(scope="module")
def plain(case: Case) -> ScanRecord:
    return examine(case)[0]


def test_the_row_is_kept(plain: ScanRecord) -> None:
    row = plain.model_dump(include={"scan_id", "patient_id", "centre", "primary", "split", "age"})
    assert list(row.values()) == ["plain", "plain", "A", "lung", "val", 61.0]
    assert plain.image_fault is None
    assert plain.annotation_fault is None


def test_grid_and_lesions(plain: ScanRecord) -> None:
    scan = measured(plain)
    assert scan.shape_zyx == phantom.SHAPE
    assert scan.spacing_zyx_mm == pytest.approx((phantom.SPACING_MM,) * 3)
    assert (scan.orientation, scan.annotation, scan.format) == ("LPS", "mask", "nifti")
    assert scan.tilt_deg == pytest.approx(0, abs=1e-3)
    assert [one.label for one in scan.lesions] == [1, 2, 3]
    for one, diameter_mm in zip(scan.lesions, (16, 10, 16), strict=True):
        assert one.diameter_mm == pytest.approx(diameter_mm, rel=0.1)
        assert one.volume_ml == pytest.approx(one.voxels * phantom.SPACING_MM**3 / 1000)
        assert (one.parts, one.largest_part_share, one.touches) == (1, 1.0, ())
        assert not one.at_border
    assert [one.bone_share for one in scan.lesions] == [1, 1, 0]
    assert scan.lesions[2].mean_hu == pytest.approx(phantom.MUSCLE, abs=3)


@pytest.mark.parametrize(
    ("order", "flips"), [((2, 1, 0), (True, False, True)), ((1, 2, 0), (False, True, True))]
)
def test_how_a_scan_is_stored_changes_its_orientation_alone(
    folder: Path, plain: ScanRecord, order: tuple[int, int, int], flips: tuple[bool, ...]
) -> None:
    def turned(volume: Volume) -> Volume:
        affine, voxels = volume.affine.copy(), volume.voxels.transpose(order)
        affine[:3, :3] = volume.affine[:3, list(order)]
        for axis in np.flatnonzero(flips):
            affine[:3, 3] += affine[:3, axis] * (voxels.shape[axis] - 1)
            affine[:3, axis] *= -1
            voxels = np.flip(voxels, axis)
        return Volume(np.ascontiguousarray(voxels), affine)

    volume = phantom.trunk(seed=sum(b"plain"))
    labels = phantom.balls(phantom.IN_SPINE, ((32, *phantom.SPINE), 5.0), phantom.IN_MUSCLE)
    mask = turned(volume.with_voxels(labels))
    one = phantom.write_trunk(folder, f"turned{order[0]}", turned(volume), mask.voxels)
    scan, same = measured(examine(one)[0]), measured(plain)
    assert scan.orientation != "LPS"
    differing = {"orientation", "spacing_zyx_mm", "tilt_deg", "lesions", "body"}
    assert scan.model_dump(exclude=differing) == same.model_dump(exclude=differing)
    assert scan.lesions == same.lesions


def test_a_series_equals_its_volume_file(folder: Path, case: Case, plain: ScanRecord) -> None:
    write_ct_series(phantom.trunk(seed=sum(b"plain")), folder / "series", patient_id="p")
    scan = measured(examine(replace(case, image=folder / "series"))[0])
    assert (scan.format, scan.slice_thickness_mm) == ("dicom", phantom.SPACING_MM)
    assert scan.digest == measured(plain).digest
    assert scan.study_uid is not None
    assert scan.lesions == measured(plain).lesions


def test_another_image_or_mask_has_another_digest(folder: Path, plain: ScanRecord) -> None:
    volume = phantom.trunk(seed=sum(b"plain"))
    volume.voxels[3, 4, 5] += 1
    other = measured(examine(phantom.write_trunk(folder, "other", volume))[0])
    assert other.digest != measured(plain).digest
    assert other.mask_digest != measured(plain).mask_digest


def test_touching_split_and_cut_lesions(folder: Path) -> None:
    labels = phantom.balls(phantom.IN_SPINE)
    labels[20:, :, :][labels[20:] == 1] = 2  # two halves touch by a face
    labels[0, 48, 40] = 3
    labels[10:12, 40:42, 40:42] = labels[30:34, 40:42, 40:42] = 4
    scan = measured(examine(phantom.write_trunk(folder, "odd", labels=labels))[0])
    first, second, third, fourth = scan.lesions
    assert (first.touches, second.touches, third.touches, fourth.touches) == ((2,), (1,), (), ())
    assert (fourth.parts, fourth.largest_part_share) == (2, pytest.approx(2 / 3))
    assert [one.at_border for one in scan.lesions] == [False, False, True, False]
    assert [one.shortest_side_vox for one in scan.lesions[2:]] == [1, 2]


def test_pictures(case: Case) -> None:
    views = examine(case)[1]
    assert views.front is not None
    rows, columns = views.front.values.shape
    assert rows * views.front.spacing_mm[0] == pytest.approx(
        phantom.SHAPE[0] * phantom.SPACING_MM, abs=2
    )
    assert views.front.values[:, columns // 2].min() > 500  # the spine, from end to end
    assert sorted(views.lesions) == [1, 2, 3]
    view = views.lesions[1]
    assert view.labels is not None
    assert view.values.shape == view.labels.shape
    assert view.values.shape[0] * view.spacing_mm[0] == pytest.approx(VIEW_MM, abs=5)
    assert (view.labels == 1).sum() == (phantom.balls(phantom.IN_SPINE) == 1).sum(axis=(1, 2)).max()
    assert views.thumbnail is not None
    assert views.thumbnail.shape == (THUMBNAIL**3,)


def test_boxes(folder: Path, case: Case) -> None:
    boxes = folder / "boxes.csv"
    boxes.write_text("x1,y1,z1,x2,y2,z2\n-10,10,320,10,40,340\n500,0,320,510,9,330\n")
    one = replace(case, mask=None, boxes=boxes, mask_kind=MaskKind.AUTO)
    scan = measured(examine(one)[0])
    assert (scan.annotation, scan.lesions, scan.mask_digest) == ("boxes", (), None)
    assert scan.boxes_mm == (30.0, 10.0)
    assert scan.boxes_outside == 1


def test_no_boxes_are_no_fault(folder: Path, case: Case) -> None:
    boxes = folder / "none.csv"
    boxes.write_text("x1,y1,z1,x2,y2,z2\n")
    record, _ = examine(replace(case, mask=None, boxes=boxes))
    assert record.annotation_fault is None
    assert measured(record).boxes_mm == ()


def test_a_damaged_scan_is_told(folder: Path, case: Case) -> None:
    broken = folder / "broken.nii"
    broken.write_bytes(b"no volume")
    record, views = examine(replace(case, image=broken))
    assert record.measures is None
    assert "broken.nii" in (record.image_fault or "")
    assert views.front is None


def test_a_mask_on_another_grid_is_told_and_the_scan_measured(folder: Path, case: Case) -> None:
    other = phantom.trunk()
    shifted = Volume(other.voxels, other.affine + np.eye(4)[:, [3]] @ np.eye(4)[[3]] * 0)
    shifted.affine[0, 3] += 20
    mask = phantom.write_trunk(folder, "shifted", shifted).mask
    record, _ = examine(replace(case, mask=mask))
    assert "grid" in (record.annotation_fault or "")
    assert measured(record).lesions == ()


def test_real_scans() -> None:
    root = os.environ.get("OSTEOMET_REAL_DATA")
    if not root:
        pytest.skip("OSTEOMET_REAL_DATA is not set: no real CT to read")
    sets = Path(root) / "blds_bone_lesions"
    for number, boxes in ((1, 1), (3, 2)):
        image = sets / f"{number}.nii.gz"
        case = Case(
            "real", "real", image, None, "x", PrimaryTumour.UNKNOWN,
            boxes=sets / "image_bone_lesions.csv",
        )  # fmt: skip
        scan = measured(examine(case)[0])
        assert (len(scan.boxes_mm), scan.boxes_outside) == (boxes, 0)
        assert scan.body.region.startswith("cut-out")
        assert scan.body.bone_ml > 50
        assert scan.hu.fat_hu == pytest.approx(-90, abs=20)
