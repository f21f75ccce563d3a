"""MONAI's own loaders and detection transforms see in an export what the cohort holds."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_sets import label_map, put, scan, table
from export_cohorts import simulated, turned
from monai.apps.detection.transforms.box_ops import convert_mask_to_box
from monai.apps.detection.transforms.dictionary import (
    AffineBoxToImageCoordinated,
    ClipBoxToImaged,
    ConvertBoxToStandardModed,
    RandCropBoxByPosNegLabeld,
    StandardizeEmptyBoxd,
)
from monai.data import load_decathlon_datalist
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    Orientationd,
    Spacingd,
)
from scipy import ndimage

from osteomet.data.annotations import instances_on_scan, read_boxes_mm
from osteomet.data.exports import export_cohort
from osteomet.data.importing import import_cohort
from osteomet.data.manifest import Case, read_cohort
from osteomet.errors import InputError
from osteomet.findings import PrimaryTumour
from osteomet.io.scan import read_scan

KEYS = {"train": "training", "val": "validation", "test": "test"}
CLASSES = {PrimaryTumour.LUNG: 0, PrimaryTumour.OTHER: 1}


def loader() -> LoadImaged:
    with warnings.catch_warnings():
        # It looks for readers of DICOM on a GPU too; nothing here is DICOM.
        warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
        return LoadImaged(keys=["image", "mask"])


LOAD = (
    loader(),
    EnsureChannelFirstd(keys=["image", "mask"]),
    EnsureTyped(keys=["image", "mask", "box"], dtype=torch.float32),
    EnsureTyped(keys=["label"], dtype=torch.long),
    StandardizeEmptyBoxd(box_keys=["box"], box_ref_image_keys="image"),
)
UPRIGHT = Orientationd(keys=["image", "mask"], axcodes="RAS", labels=None)
PLACE_BOXES = (
    ConvertBoxToStandardModed(box_keys=["box"], mode="cccwhd"),
    AffineBoxToImageCoordinated(
        box_keys=["box"], box_ref_image_keys="image", affine_lps_to_ras=True
    ),
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulated(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def scans(
    cohort: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Case, dict[str, Any]]]:
    """Return the cohort's case and MONAI's entry by patient."""
    folder = tmp_path_factory.mktemp("monai")
    result = export_cohort("monai", cohort, folder / "bone", by_primary=True)
    assert result.skipped == ()
    cases = read_cohort(cohort).cases
    found = {}
    for side, key in KEYS.items():
        entries = load_decathlon_datalist(folder / "bone" / "datalist.json", data_list_key=key)
        wanted = [case for case in cases if case.split == side]
        assert [entry["patient"] for entry in entries] == [case.patient_id for case in wanted]
        found.update({c.patient_id: (c, e) for c, e in zip(wanted, entries, strict=True)})
    assert len(found) == 6
    return found


def monai_affine(affine: np.ndarray) -> np.ndarray:
    """Return the affine of a scan as MONAI has it: indices x, y, z, world RAS."""
    swapped: np.ndarray = np.diag([-1.0, -1, 1, 1]) @ affine[:, [2, 1, 0, 3]]
    return swapped


def test_voxels_places_and_labels(scans: dict[str, tuple[Case, dict[str, Any]]]) -> None:
    for case, entry in scans.values():
        loaded = Compose(LOAD)(entry)
        volume = read_scan(case.image).volume
        instances = instances_on_scan(case, volume)[0]
        np.testing.assert_array_equal(loaded["image"][0], volume.voxels.transpose(2, 1, 0))
        np.testing.assert_array_equal(loaded["mask"][0], instances.transpose(2, 1, 0))
        for key in ("image", "mask"):
            affine = loaded[key].affine.numpy()
            np.testing.assert_allclose(affine, monai_affine(volume.affine), atol=1e-4)
        count = len(np.unique(instances)) - 1
        assert loaded["label"].tolist() == [CLASSES[case.primary]] * count
        assert loaded["box"].shape == (count, 6)
        assert loaded["primary"] == case.primary.value


def test_boxes_are_those_of_the_masks(scans: dict[str, tuple[Case, dict[str, Any]]]) -> None:
    seen = 0
    for _, entry in scans.values():
        loaded = Compose((*LOAD, UPRIGHT, *PLACE_BOXES))(entry)
        mask = loaded["mask"][0].numpy()
        alone = np.stack([mask == n + 1 for n in range(int(mask.max()))] or [mask > 0])
        boxes, _ = convert_mask_to_box(alone.astype(np.int16), bg_label=0)
        # The world has voxel centres at whole numbers; the boxes of masks have edges there.
        np.testing.assert_allclose(loaded["box"].numpy(), boxes - 0.5, atol=1e-3)
        seen += len(boxes)
    assert seen == 10


def test_resampling_finds_the_same_patient(scans: dict[str, tuple[Case, dict[str, Any]]]) -> None:
    space = Spacingd(keys=["image", "mask"], pixdim=(1.5, 1.5, 1.5), mode=("bilinear", "nearest"))
    for case, entry in scans.values():
        loaded = Compose((*LOAD, UPRIGHT, space, *PLACE_BOXES))(entry)
        image = loaded["image"][0].numpy()
        volume = read_scan(case.image).volume
        # Sample the cohort's own scan where MONAI says that its voxels are.
        index = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing="ij"), -1)
        ras = index.reshape(-1, 3) @ loaded["image"].affine.numpy()[:3, :3].T
        ras += loaded["image"].affine.numpy()[:3, 3]
        places = volume.world_to_index(ras * [-1, -1, 1]).T
        wanted = ndimage.map_coordinates(volume.voxels.astype(float), places, order=1)
        last = np.array(volume.shape)[:, None] - 1
        inside = ((places > 0) & (places < last)).all(axis=0)
        assert inside.sum() > 5000
        np.testing.assert_allclose(image.ravel()[inside], wanted[inside], atol=1.0)
        for number, box in enumerate(loaded["box"].numpy(), start=1):
            centre = np.argwhere(loaded["mask"][0].numpy() == number).mean(axis=0)
            assert (centre > box[:3]).all()
            assert (centre < box[3:]).all()


# A scan without lesions has no crop around one.
@pytest.mark.filterwarnings("ignore:.*unable to generate class balanced samples")
def test_training_crops_of_the_detection_tutorial(
    scans: dict[str, tuple[Case, dict[str, Any]]],
) -> None:
    crop = RandCropBoxByPosNegLabeld(
        image_keys=["image"],
        box_keys="box",
        label_keys="label",
        spatial_size=(24, 24, 12),
        whole_box=True,
        num_samples=2,
    ).set_random_state(0)
    clip = ClipBoxToImaged(
        box_keys="box", label_keys=["label"], box_ref_image_keys="image", remove_empty=True
    )
    lesions = 0
    for case, entry in scans.values():
        for patch in map(clip, crop(Compose((*LOAD, UPRIGHT, *PLACE_BOXES))(entry))):
            assert patch["image"].shape == (1, 24, 24, 12)
            assert len(patch["box"]) == len(patch["label"])
            assert set(patch["label"].tolist()) <= {CLASSES[case.primary]}
            lesions += len(patch["box"])
    assert lesions > 5


@pytest.mark.parametrize("by_primary", [True, False])
def test_back_to_a_cohort(cohort: Path, tmp_path: Path, by_primary: bool) -> None:
    folder = tmp_path / "bone"
    export_cohort("monai", cohort, folder, by_primary=by_primary)
    if by_primary:  # as in lists that others make
        content = json.loads((folder / "datalist.json").read_text(encoding="utf-8"))
        for entry in (entry for key in KEYS.values() for entry in content[key] if entry["label"]):
            del entry["primary"]
        (folder / "datalist.json").write_text(json.dumps(content), encoding="utf-8")
    back = import_cohort("monai", folder, tmp_path / "back", patients=folder / "cases.csv")
    kept = {case.scan_id: case for case in read_cohort(cohort).cases}
    assert sorted(case.scan_id for case in back.cases) == sorted(kept)
    for case in back.cases:
        old = kept[case.scan_id]
        for name in ("patient_id", "primary", "centre", "split", "sex"):
            assert getattr(case, name) == getattr(old, name), name
        assert case.age == pytest.approx(old.age)
        new, volume = read_scan(case.image).volume, read_scan(old.image).volume
        np.testing.assert_array_equal(new.voxels, volume.voxels)
        np.testing.assert_allclose(new.affine, volume.affine, atol=1e-4)
        found, wanted = instances_on_scan(case, new)[0], instances_on_scan(old, volume)[0]
        np.testing.assert_array_equal(found, wanted)


def test_a_list_of_boxes_that_others_made(tmp_path: Path) -> None:
    for name in "abc":
        put(tmp_path / "list" / f"{name}.nii.gz", scan())
    content = {
        "training": [
            {"image": "a.nii.gz", "box": [[1.0, 30, -290, 6, 5, 7.5]], "label": [0]},
            {"image": "b.nii.gz", "box": [], "label": []},
            {"image": "gone.nii.gz", "box": [], "label": []},
        ],
        "validation": [{"image": "c.nii.gz", "box": [[1.0, 30, -290]], "label": [0]}],
        "test": ["b.nii.gz"],
    }
    (tmp_path / "list" / "dataset_fold0.json").write_text(json.dumps(content), encoding="utf-8")
    result = import_cohort("monai", tmp_path / "list", tmp_path / "back")
    assert [(case.scan_id, case.split) for case in result.cases] == [("a", "train"), ("b", "train")]
    boxes = [read_boxes_mm(case.boxes, case.image) for case in result.cases if case.boxes]
    np.testing.assert_allclose(boxes[0], [[-2, 27.5, -293.75, 4, 32.5, -286.25]])
    assert boxes[1].shape == (0, 6)
    reasons = {note.scan: note.note for note in result.notes}
    assert "there is no such file" in reasons["gone"]
    assert "expected lists of six numbers" in reasons["c"]
    assert "neither box nor mask" in reasons["b"]
    (tmp_path / "list" / "another.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"has 2 JSON files; expected one, or datalist\.json"):
        import_cohort("monai", tmp_path / "list", tmp_path / "again")


def test_a_side_without_scans_is_missing_and_not_empty(tmp_path: Path) -> None:
    put(tmp_path / "a.nii.gz", scan())
    put(tmp_path / "a_mask.nii.gz", label_map())
    path = table(
        tmp_path / "cohort.csv",
        "patient_id,image,mask,centre,primary,split",
        "p1,a.nii.gz,a_mask.nii.gz,north,lung,train",
    )
    export_cohort("monai", path, tmp_path / "bone")
    datalist = tmp_path / "bone" / "datalist.json"
    assert len(load_decathlon_datalist(datalist)) == 1
    with pytest.raises(ValueError, match="Data list test not specified"):
        load_decathlon_datalist(datalist, data_list_key="test")


@pytest.mark.parametrize(("degrees", "fits"), [(0.5, True), (12.0, False)])
def test_boxes_on_an_oblique_grid(tmp_path: Path, degrees: float, fits: bool) -> None:
    put(tmp_path / "a.nii.gz", turned(scan(), degrees))
    put(tmp_path / "a_mask.nii.gz", turned(label_map(1, 0), degrees))
    put(tmp_path / "b.nii.gz", scan())
    path = table(
        tmp_path / "cohort.csv",
        "patient_id,image,mask,centre,primary,split,mask_kind",
        "p1,a.nii.gz,a_mask.nii.gz,north,lung,train,",
        "p2,b.nii.gz,,north,lung,train,none",
    )
    result = export_cohort("monai", path, tmp_path / "bone")
    assert result.cases == (("p1", "p2") if fits else ("p2",))
    assert [name for name, _ in result.skipped] == ([] if fits else ["p1"])
    # What MONAI makes of such a box, whether it was exported or not.
    volume = turned(scan(), degrees)
    low, high = np.split(volume.boxes_to_world(np.array([[3.0, 8, 6, 6, 13, 10]])), 2, axis=1)
    entry = {
        "image": str(tmp_path / "a.nii.gz"),
        "mask": str(tmp_path / "a_mask.nii.gz"),
        "box": np.concatenate([(low + high) / 2, high - low], axis=1).tolist(),
        "label": [0],
    }
    if fits:
        entry["box"] = json.loads((tmp_path / "bone" / "datalist.json").read_text())["training"][0][
            "box"
        ]
    seen = Compose((*LOAD, *PLACE_BOXES))(entry)["box"].numpy()
    apart = np.abs(seen - [[5.5, 7.5, 2.5, 9.5, 12.5, 5.5]]).max()
    assert bool(apart <= 0.5) is fits, apart
