"""An export keeps the rules that nnDetection checks, and nnDetection's own checks pass on it.

nnDetection has an environment of its own: OSTEOMET_NNDETECTION names the Python of one that has
nndet. Without it, the rules stand here in other words: README.md ("Adding New Data sets") and
nndet/utils/check.py of its version 0.1.
"""

import json
import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from data_sets import LESION, SHAPE, label_map, put, scan, table
from export_cohorts import simulated

from osteomet.data.annotations import instances_on_scan
from osteomet.data.exports import export_cohort
from osteomet.data.importing import import_cohort
from osteomet.data.manifest import read_cohort
from osteomet.findings import PrimaryTumour
from osteomet.io.scan import read_scan
from osteomet.io.volumes import read_labels

PYTHON = os.environ.get("OSTEOMET_NNDETECTION")
NAME = "Task501_Bone"
CLASSES = {PrimaryTumour.LUNG: 0, PrimaryTumour.OTHER: 1}
OPEN_IT = """
import json, pickle, sys
from pathlib import Path

from nndet.io.crop import ImageCropper
from nndet.io.paths import get_paths_from_splitted_dir
from nndet.utils.check import check_data_and_label_splitted, check_dataset_file

if __name__ == "__main__":
    data, name, answer = Path(sys.argv[1]), *sys.argv[2:]
    check_dataset_file(name)
    for test in (False, True):
        check_data_and_label_splitted(name, test=test, labels=True, full_check=True)
    cropper = ImageCropper(1, data / name / "raw_cropped")
    cropper.run_cropping(get_paths_from_splitted_dir(1, data / name / "raw_splitted"))
    cases = {}
    for path in (data / name / "raw_cropped").glob("*.pkl"):
        properties = pickle.loads(path.read_bytes())
        cases[path.stem] = {
            "instances": properties["instances"],
            "spacing": list(properties["original_spacing"]),
            "labels": sorted(int(one) for one in properties["classes"] if one > 0),
        }
    Path(answer).write_text(json.dumps(cases))
"""


def faults(task: Path) -> list[str]:
    """Return what nnDetection would refuse in a data set."""
    info = json.loads((task / "dataset.json").read_text(encoding="utf-8"))
    found = faults_of_description(task, info)
    sides = ["Tr", "Ts"] if info["test_labels"] else ["Tr"]
    for side in sides:
        images, labels = (task / "raw_splitted" / f"{kind}{side}" for kind in ("images", "labels"))
        files = sorted(path.name for path in images.glob("*.nii.gz"))
        found += [] if files else [f"{images.name} holds no scans"]
        # The last five characters before the ending are the number of the channel.
        for case in {name.removesuffix(".nii.gz")[:-5] for name in files}:
            wanted = [images / f"{case}_{int(one):04d}.nii.gz" for one in info["modalities"]]
            wanted.append(labels / f"{case}.nii.gz")
            absent = [path.name for path in wanted if not path.is_file()]
            found += [f"{name} is missing" for name in absent]
            found += [] if absent else faults_of_case(wanted, info)
    return found


def faults_of_description(task: Path, info: dict[str, Any]) -> list[str]:
    found = []
    if info.get("task") != task.name:
        found.append("the task is not called like its folder")
    if type(info.get("dim")) is not int or info["dim"] not in (2, 3):
        found.append("dim is neither 2 nor 3")
    if "." in task.name:
        found.append("a folder has a dot")
    for key in ("labels", "modalities"):
        names = info[key]
        if sorted(names) != [str(number) for number in range(len(names))]:
            found.append(f"{key} do not count from 0")
        if not all(isinstance(name, str) for name in names.values()):
            found.append(f"{key} are not called by text")
    if not isinstance(info.get("target_class"), int | None):
        found.append("the target class is no number")
    return found


def faults_of_case(files: list[Path], info: dict[str, Any]) -> list[str]:
    *_, mask = files
    # nnDetection reads the classes from the file called as the mask up to its first dot.
    table_of_classes = mask.parent / f"{mask.name.split('.')[0]}.json"
    if not table_of_classes.is_file():
        return [f"{table_of_classes.name} is missing"]
    classes = json.loads(table_of_classes.read_text(encoding="utf-8"))["instances"]
    found = []
    if any(
        type(number) is not int or str(number) not in info["labels"] for number in classes.values()
    ):
        found.append(f"{mask.name}: a class is not in dataset.json")
    numbers = sorted(map(int, classes))
    if numbers != list(range(1, len(numbers) + 1)):
        found.append(f"{mask.name}: its instances do not count from 1")
    opened = [sitk.ReadImage(str(path)) for path in files]
    present = np.unique(sitk.GetArrayFromImage(opened[-1]))
    if present[present > 0].tolist() != numbers:
        found.append(f"{mask.name}: the mask holds other instances than the table")
    for one in opened[1:]:
        for what in ("Dimension", "Size", "Origin", "Direction", "Spacing"):
            first, second = (getattr(image, f"Get{what}")() for image in (opened[0], one))
            if np.shape(first) != np.shape(second) or not np.allclose(first, second):
                found.append(f"{mask.name}: {what} is not the scan's")
    return found


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulated(tmp_path_factory.mktemp("cohort"))


@pytest.fixture
def exported(cohort: Path, tmp_path: Path) -> Path:
    result = export_cohort("nndetection", cohort, tmp_path / "data" / NAME, by_primary=True)
    assert result.skipped == ()
    return tmp_path / "data" / NAME


def test_simulated_patients(cohort: Path, exported: Path) -> None:
    assert faults(exported) == []
    cases = read_cohort(cohort).cases
    for case in cases:
        side = "Ts" if case.split == "test" else "Tr"
        path = exported / "raw_splitted" / f"labels{side}" / f"{case.scan_id}.nii.gz"
        volume = read_scan(case.image).volume
        np.testing.assert_array_equal(read_labels(path).voxels, instances_on_scan(case, volume)[0])
        table_of_classes = path.with_name(f"{case.scan_id}.json").read_text(encoding="utf-8")
        classes = set(json.loads(table_of_classes)["instances"].values())
        assert classes <= {CLASSES[case.primary]}
    back = import_cohort(
        "nndetection", exported, exported.parent / "back", patients=exported / "cases.csv"
    )
    for case, old in zip(sorted(back.cases, key=lambda case: case.scan_id), cases, strict=True):
        for name in ("scan_id", "patient_id", "primary", "centre", "split", "age", "sex"):
            assert getattr(case, name) == getattr(old, name), name
        found, wanted = (instances_on_scan(c, read_scan(c.image).volume)[0] for c in (case, old))
        np.testing.assert_array_equal(found, wanted)
    (fold,) = pickle.loads((exported / "preprocessed" / "splits_final.pkl").read_bytes())
    for side in ("train", "val"):
        assert fold[side] == [case.scan_id for case in cases if case.split == side]


def spoil(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda d: d.update(task="Task502_Bone"), "the task is not called like its folder"),
        (lambda d: d.update(labels={"1": "lung", "2": "other"}), "labels do not count from 0"),
        (lambda d: d.update(dim=True), "dim is neither 2 nor 3"),
        (lambda d: d.update(labels={"0": "lung"}), "a class is not in dataset.json"),
    ],
)
def test_a_wrong_description_is_found(
    exported: Path, change: Callable[[dict[str, Any]], None], fault: str
) -> None:
    spoil(exported / "dataset.json", change)
    assert fault in "; ".join(faults(exported))


def test_wrong_cases_are_found(exported: Path) -> None:
    labels = exported / "raw_splitted" / "labelsTr"
    with_lesions = [
        path
        for path in sorted(labels.glob("*.json"))
        if json.loads(path.read_text(encoding="utf-8"))["instances"]
    ]
    first, second, third, *_ = with_lesions
    spoil(first, lambda d: d["instances"].update({"7": 0}))
    second.unlink()
    mask = sitk.ReadImage(str(third.with_suffix(".nii.gz")))
    mask.SetOrigin([one + 1 for one in mask.GetOrigin()])
    sitk.WriteImage(mask, str(third.with_suffix(".nii.gz")))
    (exported / "raw_splitted" / "labelsTs").rename(labels.with_name("elsewhere"))
    found = "; ".join(faults(exported))
    assert f"{first.stem}.nii.gz: its instances do not count from 1" in found
    assert f"{first.stem}.nii.gz: the mask holds other instances than the table" in found
    assert f"{second.stem}.json is missing" in found
    assert f"{third.stem}.nii.gz: Origin is not the scan's" in found
    assert ".nii.gz is missing" in found


def boxes_around(*places: tuple[int, ...]) -> list[str]:
    world = scan().boxes_to_world(np.array(places, dtype=float))
    return [",".join(f"{value:.4f}" for value in box) for box in world]


def test_names_with_dots_and_hidden_boxes(tmp_path: Path) -> None:
    """A series UID is a usual name; one box holds another, one a lesion, and one is there twice."""
    for name in ("a", "b"):
        put(tmp_path / f"{name}.nii.gz", scan())
    put(tmp_path / "a_mask.nii.gz", label_map(2, 0))
    boxes = boxes_around(
        (4, 9, 7, 5, 10, 8),  # within the lesion's mask
        (7, 14, 3, 9, 16, 5),  # within the next one
        (6, 12, 2, 10, 18, 8),
        (6, 12, 2, 10, 18, 8),
    )
    table(tmp_path / "a.csv", "x1,y1,z1,x2,y2,z2", *boxes)
    path = table(
        tmp_path / "cohort.csv",
        "patient_id,scan_id,image,mask,centre,primary,boxes,mask_kind",
        "p1,1.2.840.1,a.nii.gz,a_mask.nii.gz,north,lung,a.csv,",
        "p2,1.2.840.2,b.nii.gz,,north,other,,none",
    )
    result = export_cohort("nndetection", path, tmp_path / NAME)
    assert result.cases == ("1_2_840_1", "1_2_840_2")
    assert faults(tmp_path / NAME) == []
    case = next((tmp_path / NAME / "raw_splitted").glob("labels*/1_2_840_1.nii.gz"))
    wanted = np.zeros(SHAPE, dtype=int)
    wanted[6:10, 12:18, 2:8] = 2
    wanted[7:9, 14:16, 3:5] = 3
    wanted[LESION] = 1
    found = read_labels(case).voxels
    np.testing.assert_array_equal(found > 0, wanted > 0)
    assert len(np.unique(found)) == 4
    for label in (1, 2, 3):
        (same,) = np.unique(found[wanted == label])
        assert (wanted[found == same] == label).all()


@pytest.mark.skipif(not PYTHON, reason="OSTEOMET_NNDETECTION names no Python that has nndet")
def test_its_own_checks_and_cropping(cohort: Path, exported: Path, tmp_path: Path) -> None:
    assert PYTHON is not None
    script = tmp_path / "open_it.py"
    script.write_text(OPEN_IT, encoding="utf-8")
    data = str(exported.parent)
    done = subprocess.run(
        [PYTHON, str(script), data, NAME, str(tmp_path / "seen.json")],
        env={**os.environ, "det_data": data, "det_models": data, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Data and label check complete") == 2
    seen = json.loads((tmp_path / "seen.json").read_text(encoding="utf-8"))
    cases = [c for c in read_cohort(cohort).cases if c.split != "test"]
    assert sorted(seen) == sorted(case.scan_id for case in cases)
    for case in cases:
        volume = read_scan(case.image).volume
        labels = np.unique(instances_on_scan(case, volume)[0])[1:].tolist()
        one = seen[case.scan_id]
        assert one["labels"] == labels
        assert one["instances"] == {str(label): CLASSES[case.primary] for label in labels}
        np.testing.assert_allclose(one["spacing"], volume.spacing_zyx_mm, rtol=1e-5)
