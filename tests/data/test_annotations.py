"""Masks, boxes and regions to ignore, as users store them, on the model's grid."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from phantom_scans import LESIONS, lesion_map, scan_volume, write_case

from osteomet.data.annotations import mask_box, read_annotations, read_boxes_mm
from osteomet.data.manifest import Case, MaskKind
from osteomet.errors import AnnotationError
from osteomet.findings import PrimaryTumour
from osteomet.io.scan import read_scan
from osteomet.io.volumes import write_labels
from osteomet.volume import Volume

EXPECTED = [[*low, *np.add(low, size).tolist()] for low, size in LESIONS]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return write_case(tmp_path)


def scan_of(case: Case) -> Volume:
    return read_scan(case.image).volume


def with_mask(case: Case, labels: np.ndarray) -> Case:
    path = case.image.with_name("other_mask.nii")
    write_labels(path, scan_of(case).with_voxels(labels))
    return replace(case, mask=path)


def box_file(folder: Path, *lines: str) -> Path:
    path = folder / "boxes.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_an_instance_map(case: Case) -> None:
    found = read_annotations(case, scan_of(case), 1.0)
    assert [mask_box(one) for one in found.masks] == EXPECTED
    assert [one.label for one in found.masks] == [1, 2, 3]
    assert all(one.mask.all() for one in found.masks)
    assert found.boxes.shape == found.ignore.shape == (0, 6)
    assert found.warnings == ()


def test_a_map_of_zeros_and_ones_is_split_where_not_even_corners_touch(case: Case) -> None:
    labels = lesion_map().clip(0, 1)
    labels[14, 15, 10] = 1  # touches lesion 1 by a corner only
    found = read_annotations(with_mask(case, labels), scan_of(case), 1.0)
    assert [mask_box(one) for one in found.masks] == [[8, 10, 6, 15, 16, 11], *EXPECTED[1:]]


def test_a_map_of_zeros_and_ones_is_one_lesion_if_it_says_so(case: Case) -> None:
    whole = replace(with_mask(case, lesion_map().clip(0, 1)), mask_kind=MaskKind.INSTANCE)
    (one,) = read_annotations(whole, scan_of(case), 1.0).masks
    assert mask_box(one) == [8, 10, 6, 47, 40, 35]


def test_one_label_other_than_one_is_doubted_aloud(case: Case) -> None:
    found = read_annotations(with_mask(case, lesion_map().clip(0, 1) * 255), scan_of(case), 1.0)
    assert len(found.masks) == 1
    assert "one label, 255" in found.warnings[0]


def test_an_empty_mask_is_a_scan_without_lesions(case: Case) -> None:
    found = read_annotations(with_mask(case, lesion_map(())), scan_of(case), 1.0)
    assert found.masks == ()


def test_no_mask_no_boxes(case: Case) -> None:
    bare = replace(case, mask=None, mask_kind=MaskKind.NONE)
    found = read_annotations(bare, scan_of(case), 1.0)
    assert (found.masks, len(found.boxes), len(found.ignore)) == ((), 0, 0)


def test_a_mask_may_be_stored_in_other_axes_of_the_same_grid(case: Case) -> None:
    volume = scan_of(case)
    turned = Volume(np.flip(lesion_map(), 0), volume.affine.copy())
    turned.affine[:3, 3] += turned.affine[:3, 0] * (volume.shape[0] - 1)
    turned.affine[:3, 0] *= -1
    write_labels(case.image.with_name("turned.nii"), turned)
    moved = replace(case, mask=case.image.with_name("turned.nii"))
    assert [mask_box(one) for one in read_annotations(moved, volume, 1.0).masks] == EXPECTED


@pytest.mark.parametrize("fault", ["shape", "origin", "negative"])
def test_a_mask_of_another_grid_is_refused(case: Case, fault: str) -> None:
    volume = scan_of(case)
    labels, affine = lesion_map(), volume.affine.copy()
    if fault == "shape":
        labels = labels[:-1]
    elif fault == "origin":
        affine[0, 3] += 0.6
    else:
        labels = -labels
    write_labels(case.image.with_name("wrong.nii"), Volume(labels, affine))
    expected = (
        "negative labels" if fault == "negative" else "expected a mask on the scan's own grid"
    )
    with pytest.raises(AnnotationError, match=rf"wrong\.nii: .*{expected}"):
        read_annotations(replace(case, mask=case.image.with_name("wrong.nii")), volume, 1.0)


def test_regions_to_ignore_become_boxes_one_for_each_part(case: Case) -> None:
    regions = replace(with_mask(case, lesion_map().clip(0, 1) * 9), mask=None)
    regions = replace(regions, ignore=case.image.with_name("other_mask.nii"))
    regions = replace(regions, mask_kind=MaskKind.NONE)
    assert read_annotations(regions, scan_of(case), 1.0).ignore.tolist() == EXPECTED


def test_boxes_by_corners_and_by_centre_and_extent(case: Case, tmp_path: Path) -> None:
    corners = box_file(tmp_path, "x1,y1,z1,x2,y2,z2", "1,2,3,5,8,13")
    expected = [[1, 2, 3, 5, 8, 13]]
    assert read_boxes_mm(corners, case.image).tolist() == expected
    lines = [
        "image_path,class,x,y,z,width,height,depth",
        "set/a.nii,osteoma,3,5,8,4,6,10",
        "b.nii,osteoma,0,0,0,1,1,1",
    ]
    centred = box_file(tmp_path, *lines)
    assert read_boxes_mm(centred, case.image).tolist() == expected


def test_boxes_are_placed_on_the_model_grid(tmp_path: Path) -> None:
    labels = lesion_map()
    volume = scan_volume(labels, (2.0, 0.8, 0.8))
    voxels = np.array([[8.0, 10, 6, 14, 15, 10]])
    x1, y1, z1, x2, y2, z2 = volume.boxes_to_world(voxels)[0].tolist()
    path = box_file(tmp_path, "x1,y1,z1,x2,y2,z2", f"{x1},{y1},{z1},{x2},{y2},{z2}")
    case = Case("a", "a", tmp_path / "a.nii", None, "A", PrimaryTumour.LUNG, boxes=path)
    found = read_annotations(case, volume, 1.0)
    assert np.allclose(found.boxes, voxels * [2, 0.8, 0.8, 2, 0.8, 0.8])


def test_a_box_around_a_masked_lesion_is_left_to_the_mask(case: Case, tmp_path: Path) -> None:
    volume = scan_of(case)
    both = volume.boxes_to_world(np.array([EXPECTED[1], [2.0, 2, 2, 7, 7, 7]]))
    rows = [",".join(map(str, box)) for box in both.tolist()]
    boxed = replace(case, boxes=box_file(tmp_path, "x1,y1,z1,x2,y2,z2", *rows))
    found = read_annotations(boxed, volume, 1.0)
    assert np.allclose(found.boxes, [[2, 2, 2, 7, 7, 7]])
    assert "1 boxes hold a lesion that has a mask" in found.warnings[0]


def test_a_box_file_without_rows_says_that_there_is_no_lesion(case: Case, tmp_path: Path) -> None:
    empty = box_file(tmp_path, "x1,y1,z1,x2,y2,z2")
    assert read_boxes_mm(empty, case.image).shape == (0, 6)
    found = read_annotations(replace(case, mask=None, boxes=empty), scan_of(case), 1.0)
    assert found.boxes.shape == (0, 6)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["x,y,z", "1,2,3"], "has the columns x, y, z; expected x1, y1, z1"),
        (["x1,y1,z1,x2,y2,z2", "1,2,3,4,5,6", "1,2,3,4,five,6"], "line 3: .*expected six numbers"),
        (["x1,y1,z1,x2,y2,z2", "1,2,3,4,5"], "line 2: .*4, 5, nothing"),
        (["x1,y1,z1,x2,y2,z2", "1,2,3,0,5,6"], "line 2: .*positive size"),
        (["x,y,z,width,height,depth", "1,2,3,0,5,6"], "line 2: .*positive size"),
        (["image_path,x1,y1,z1,x2,y2,z2", "c.nii,1,2,3,4,5,6"], "its 1 images do not include a.nii"),
        (["x1,y1,z1,x2,y2,z2", "900,0,100,910,9,110"], "1 of 1 boxes lie outside the scan"),
    ],
)  # fmt: skip
def test_wrong_boxes(case: Case, tmp_path: Path, lines: list[str], message: str) -> None:
    boxed = replace(case, boxes=box_file(tmp_path, *lines))
    with pytest.raises(AnnotationError, match=message):
        read_annotations(boxed, scan_of(case), 1.0)


def test_boxes_of_radiologists_lie_on_dense_bone() -> None:
    if not os.environ.get("OSTEOMET_REAL_DATA"):
        pytest.skip("OSTEOMET_REAL_DATA does not name a folder of real CT")
    folder = Path(os.environ["OSTEOMET_REAL_DATA"]) / "blds_bone_lesions"
    boxes = folder / "image_bone_lesions.csv"
    counts = []
    for image in sorted(folder.glob("*.nii.gz")):
        volume = read_scan(image).volume
        case = Case(image.name, image.name, image, None, "A", PrimaryTumour.UNKNOWN, boxes=boxes)
        found = read_annotations(case, volume, 1.0)
        counts.append(len(found.boxes))
        for z1, y1, x1, z2, y2, x2 in np.rint(found.boxes).astype(int):
            inside = volume.closest_lps().voxels[z1:z2, y1:y2, x1:x2]
            assert inside.max() > 300
    assert counts == [1, 1, 2, 2]
