"""What is exported holds the same patients, and comes back as the same cohort."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from data_sets import LESION, OTHER, SHAPE, label_map, put, scan, table
from typer.testing import CliRunner

from osteomet.cli.app import build_app
from osteomet.data.annotations import instances_on_scan
from osteomet.data.exports import export_cohort
from osteomet.data.importing import import_cohort
from osteomet.data.manifest import read_cohort
from osteomet.errors import ConfigError, InputError, ReportError
from osteomet.io.scan import read_scan
from osteomet.io.volumes import read_labels

BOX = "x1,y1,z1,x2,y2,z2"


def cohort(folder: Path) -> Path:
    """Four patients: instances, one lesion with ignored voxels, boxes alone, no lesion."""
    for name in "abcd":
        put(folder / f"{name}.nii.gz", scan())
    put(folder / "a_mask.nii.gz", label_map(4, 7))
    put(folder / "b_mask.nii.gz", label_map(1, 0))
    put(folder / "b_ignore.nii.gz", label_map(0, 1))
    low, high = scan().edge_to_world(np.array([[3.0, 8, 6], [6, 13, 10]])).tolist()
    table(folder / "c.csv", BOX, ",".join(f"{v:.4f}" for v in (*low, *high)))
    rows = (
        "p1,a.nii.gz,a_mask.nii.gz,north,lung,train,64,F,instance,,",
        "p2,b.nii.gz,b_mask.nii.gz,north,other,val,,,,,b_ignore.nii.gz",
        "p3,c.nii.gz,,south,unknown,val,,,,c.csv,",
        "p4,d.nii.gz,,south,lung,test,,,none,,",
    )
    columns = "patient_id,image,mask,centre,primary,split,age,sex,mask_kind,boxes,ignore"
    return table(folder / "cohort.csv", columns, *rows)


def part(where: tuple[slice, slice, slice]) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=int)
    mask[where] = 1
    return mask


def test_nnunet(tmp_path: Path) -> None:
    folder = tmp_path / "Dataset501_X"
    result = export_cohort("nnunet", cohort(tmp_path / "c"), folder)
    assert result.cases == ("p1", "p2", "p4")
    assert [name for name, _ in result.skipped] == ["p3"]
    assert "boxes" in result.skipped[0][1]
    settings = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    assert settings["labels"] == {"background": 0, "lesion": 1, "ignore": 2}
    assert (settings["numTraining"], settings["channel_names"]) == (2, {"0": "CT"})
    labels = {
        name: read_labels(folder / "labelsTr" / f"{name}.nii.gz").voxels for name in ("p1", "p2")
    }
    splits = json.loads((folder / "splits_final.json").read_text(encoding="utf-8"))
    assert splits == [{"train": ["p1"], "val": ["p2"]}]
    np.testing.assert_array_equal(labels["p1"], part(LESION) + part(OTHER))
    np.testing.assert_array_equal(labels["p2"], part(LESION) + 2 * part(OTHER))
    image = read_scan(folder / "imagesTr" / "p1_0000.nii.gz").volume
    np.testing.assert_array_equal(image.voxels, scan().voxels)
    np.testing.assert_allclose(image.affine, scan().affine, atol=1e-5)
    assert not read_labels(folder / "labelsTs" / "p4.nii.gz").voxels.any()
    with (folder / "skipped.csv").open(encoding="utf-8") as file:
        assert [row["scan_id"] for row in csv.DictReader(file)] == ["p3"]


def test_nnunet_by_primary_and_back(tmp_path: Path) -> None:
    folder = tmp_path / "Dataset501_X"
    before = cohort(tmp_path / "c")
    export_cohort("nnunet", before, folder, by_primary=True)
    settings = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    assert settings["labels"] == {"background": 0, "lung": 1, "other": 2, "ignore": 3}
    assert set(np.unique(read_labels(folder / "labelsTr" / "p2.nii.gz").voxels)) == {0, 2, 3}
    back = import_cohort("nnunet", folder, tmp_path / "back", patients=folder / "cases.csv")
    old = {case.scan_id: case for case in read_cohort(before).cases}
    assert [case.scan_id for case in back.cases] == ["p1", "p2", "p4"]
    for case in back.cases:
        kept = old[case.scan_id]
        assert (case.patient_id, case.primary, case.split) == (
            kept.patient_id,
            kept.primary,
            kept.split,
        )
        assert (case.centre, case.age, case.sex) == (kept.centre, kept.age, kept.sex)
        found, wanted = (
            instances_on_scan(one, read_scan(one.image).volume) for one in (case, kept)
        )
        np.testing.assert_array_equal(found[0] > 0, wanted[0] > 0)


def test_nndetection_and_back(tmp_path: Path) -> None:
    folder = tmp_path / "Task501_X"
    before = cohort(tmp_path / "c")
    assert export_cohort("nndetection", before, folder).skipped == ()
    instances = read_labels(folder / "raw_splitted" / "labelsTr" / "p1.nii.gz").voxels
    np.testing.assert_array_equal(instances, part(LESION) + 2 * part(OTHER))
    boxed = read_labels(folder / "raw_splitted" / "labelsTr" / "p3.nii.gz").voxels
    np.testing.assert_array_equal(boxed, part(LESION))
    found = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))["instances"]
        for path in (folder / "raw_splitted").glob("labels*/*.json")
    }
    assert found == {"p1": {"1": 0, "2": 0}, "p2": {"1": 0}, "p3": {"1": 0}, "p4": {}}
    back = import_cohort("nndetection", folder, tmp_path / "back", patients=folder / "cases.csv")
    assert [case.primary.value for case in back.cases] == ["lung", "other", "unknown", "lung"]


def test_monai_boxes_are_those_of_the_lesions(tmp_path: Path) -> None:
    folder = tmp_path / "monai"
    export_cohort("monai", cohort(tmp_path / "c"), folder, by_primary=True)
    datalist = json.loads((folder / "datalist.json").read_text(encoding="utf-8"))
    assert datalist["classes"] == {"0": "lung", "1": "other"}
    assert [len(datalist[key]) for key in ("training", "validation", "test")] == [1, 1, 1]
    (first,), (second,) = datalist["training"], datalist["validation"]
    assert (first["label"], second["label"]) == ([0, 0], [1])
    low, high = scan().edge_to_world(np.array([[3.0, 8, 6], [6, 13, 10]]))
    np.testing.assert_allclose(first["box"][0], [*(low + high) / 2, *(high - low)], atol=1e-3)
    assert datalist["test"][0]["box"] == []
    assert (folder / first["image"]).is_file()
    assert (folder / first["mask"]).is_file()


def test_monai_takes_boxes_alone(tmp_path: Path) -> None:
    folder = tmp_path / "monai"
    export_cohort("monai", cohort(tmp_path / "c"), folder)
    boxed = json.loads((folder / "datalist.json").read_text(encoding="utf-8"))["validation"][1]
    low, high = scan().edge_to_world(np.array([[3.0, 8, 6], [6, 13, 10]]))
    np.testing.assert_allclose(boxed["box"][0], [*(low + high) / 2, *(high - low)], atol=1e-3)
    assert "mask" not in boxed


def test_a_cohort_without_a_split_gets_one(tmp_path: Path) -> None:
    path = cohort(tmp_path / "c")
    rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
    table(path, *(",".join(row[:5] + row[6:]) for row in rows))
    export_cohort("monai", path, tmp_path / "monai")
    datalist = json.loads((tmp_path / "monai" / "datalist.json").read_text(encoding="utf-8"))
    assert (len(datalist["training"]), len(datalist["validation"])) == (3, 1)


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    path = cohort(tmp_path / "c")
    with pytest.raises(ConfigError, match="there is no layout 'nnunetv2'"):
        export_cohort("nnunetv2", path, tmp_path / "x")
    rows = path.read_text(encoding="utf-8").splitlines()
    table(path, rows[0], rows[3])
    with pytest.raises(
        InputError, match=r"none of its 1 scans can be exported; the first: p3: .*boxes"
    ):
        export_cohort("nnunet", path, tmp_path / "Dataset502_X")
    assert [one.name for one in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize(
    ("layout", "name", "example"),
    [
        ("nnunet", "bone", "Dataset501_Bone"),
        ("nnunet", "Dataset5_Bone", "Dataset501_Bone"),
        ("nndetection", "Dataset501_Bone", "Task501_Bone"),
        ("nndetection", "Task501_Bone.v2", "Task501_Bone"),
    ],
)
def test_folders_that_would_not_be_found(
    tmp_path: Path, layout: str, name: str, example: str
) -> None:
    with pytest.raises(ConfigError, match=f"{name}: nn.* expected one like {example}"):
        export_cohort(layout, cohort(tmp_path / "c"), tmp_path / name)


def test_an_earlier_export_is_not_mixed_with_a_new_one(tmp_path: Path) -> None:
    path, folder = cohort(tmp_path / "c"), tmp_path / "bone"
    folder.mkdir()
    export_cohort("monai", path, folder)
    before = sorted(folder.rglob("*"))
    with pytest.raises(ReportError, match="bone: holds something already; expected a new or empty"):
        export_cohort("monai", path, folder)
    assert sorted(folder.rglob("*")) == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["bone", "c"]


def test_names_that_other_programs_misread(tmp_path: Path) -> None:
    path = cohort(tmp_path / "c")
    header, *rows = path.read_text(encoding="utf-8").splitlines()
    names = ("1.2.840.7", "1_2.840.7", "left_seg", "plain")
    table(path, f"scan_id,{header}", *(",".join(one) for one in zip(names, rows, strict=True)))
    result = export_cohort("monai", path, tmp_path / "bone")
    assert result.cases == ("1_2_840_7", "1_2_840_7-2", "left_seg-1", "plain")
    with (tmp_path / "bone" / "cases.csv").open(encoding="utf-8") as file:
        assert tuple(row["source_scan"] for row in csv.DictReader(file)) == names


def test_the_command_line(tmp_path: Path) -> None:
    arguments = [
        "export",
        "nnunet",
        str(cohort(tmp_path / "c")),
        "-o",
        str(tmp_path / "Dataset501_X"),
    ]
    result = CliRunner().invoke(build_app(), arguments)
    assert result.exit_code == 0, result.output
    assert "3 scans in" in result.output
    assert "skipped: p3" in result.output
