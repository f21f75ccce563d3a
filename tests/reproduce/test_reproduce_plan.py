"""What cannot be done is refused before anything is written."""

import re
from pathlib import Path
from typing import Any

import pytest

from osteomet.config import Config
from osteomet.errors import ConfigError, InputError
from osteomet.reproduce.plan import PAPER, SMALL, Plan, architectures, make_plan, open_folder
from osteomet.reproduce.stages import lung_threshold_of


def cohort(folder: Path, patients: list[tuple[str, str]], mask: str = "m.nii.gz") -> Path:
    """Write a cohort of (centre, primary); the files exist and hold nothing."""
    for name in ("i.nii.gz", "m.nii.gz", "b.csv"):
        (folder / name).touch()
    rows = ["patient_id,image,mask,boxes,centre,primary"]
    rows += [
        f"p{n},i.nii.gz,{mask},b.csv,{centre},{primary}"
        for n, (centre, primary) in enumerate(patients)
    ]
    path = folder / "cohort.csv"
    path.write_text("\n".join(rows))
    return path


def both(centre: str, count: int) -> list[tuple[str, str]]:
    return [(centre, "lung"), (centre, "other")] * count


def plan(path: Path, protocol: str = "p1", *names: str, test_centre: str | None = None) -> Plan:
    return make_plan(path, Config(), protocol, "B", test_centre, names or SMALL)


def test_sides_of_both_protocols(tmp_path: Path) -> None:
    path = cohort(tmp_path, [*both("A", 3), *both("B", 15)])
    first = plan(path)
    assert first.patients["test"] == (3, 3)
    assert sum(first.patients["train"]) + sum(first.patients["val"]) == 30
    second = plan(path, "p2")
    assert {case.centre for case in second.cohort.cases} == {"B"}
    assert sum(map(sum, second.patients.values())) == 30
    assert second.told() == "Protocol P2: 70 : 15 : 15 at random within centre B"


@pytest.mark.parametrize(
    ("patients", "protocol", "message"),
    [
        (both("A", 9), "p1", "no scan is of centre 'B'; there are A"),
        (both("B", 9), "p1", "all scans are of centre 'B'; expected another to test"),
        ([("A", "lung")] * 3 + both("B", 9), "p1", "side 'test' 3 patients .* and 0 with another"),
        (
            [*both("A", 9), *both("B", 3)],
            "p2",
            "side '(val|test)' . patients with lung cancer and .",
        ),
    ],
)
def test_cohort_that_cannot_do_the_protocol(
    patients: list[tuple[str, str]], protocol: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        plan(cohort(tmp_path, patients), protocol)


def test_boxes_alone_are_refused(tmp_path: Path) -> None:
    path = cohort(tmp_path, [*both("A", 3), *both("B", 15)], mask="")
    with pytest.raises(InputError, match="no scan of side 'train' has a mask"):
        plan(path)


def test_other_requests_that_cannot_be(tmp_path: Path) -> None:
    path = cohort(tmp_path, [*both("A", 3), *both("B", 15)])
    with pytest.raises(ConfigError, match="protocol 'p3'; expected p1 or p2"):
        plan(path, "p3")
    with pytest.raises(ConfigError, match="test centre 'A' with protocol p2"):
        plan(path, "p2", test_centre="A")
    with pytest.raises(ConfigError, match="did you mean 'resnet50'"):
        plan(path, "p1", "resnet5")


def test_architectures_by_name_and_by_set() -> None:
    assert architectures("paper") == PAPER
    assert architectures(" resnet18, small ,resnet18") == ("resnet18", *SMALL[1:])
    with pytest.raises(ConfigError, match="no architecture in ' ,'; expected paper, small"):
        architectures(" ,")


def test_folder_of_another_plan_is_refused_and_more_architectures_are_not(tmp_path: Path) -> None:
    path = cohort(tmp_path, [*both("A", 3), *both("B", 15)])
    out = tmp_path / "out"
    open_folder(plan(path, "p1", "resnet18"), out)
    open_folder(plan(path, "p1", "yolov8n", "resnet18"), out)
    with pytest.raises(ConfigError, match=r"begun with other protocol \(was 'p1', now 'p2'\)"):
        open_folder(plan(path, "p2"), out)
    path.write_text(path.read_text() + "\n")
    with pytest.raises(ConfigError, match="begun with other cohort_sha256"):
        open_folder(plan(path), out)


@pytest.mark.parametrize(
    ("calibration", "value", "source"),
    [
        ({"out_of_fold": {"lung_threshold": 0.3, "patients": 7}}, 0.3, "of 7 validation patients"),
        ({"out_of_fold": {"lung_threshold": None, "patients": 1}}, 0.5, "not chosen: the valid"),
        ({"operating_threshold": 0.9}, 0.5, "not chosen: .* by an older osteomet"),
    ],
)
def test_threshold_is_the_validation_patients_or_says_that_it_is_not(
    calibration: dict[str, Any], value: float, source: str
) -> None:
    chosen = lung_threshold_of({"command": "osteomet reproduce", "calibration": calibration})
    assert chosen.value == value
    assert re.search(source, chosen.source)
