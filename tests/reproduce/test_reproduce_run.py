"""From a cohort to the tables; a run that is killed goes on and gives the same ones."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from two_centres import reproduce_tiny, tiny_config, two_centres

from osteomet.data.manifest import read_cohort
from osteomet.errors import ConfigError
from osteomet.reproduce import stages
from osteomet.training.loop import TrainingResult

NAME = "convnextv2_atto"
TINY = tiny_config()
TABLES = ("table1.csv", "table1.md", "table2.csv", "table2.md", "figure4.csv", "reproduce.md")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_centres(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def whole(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed, in a fresh process as the killed ones are.

    After a thousand other tests the last bit of a matrix product may differ from a fresh process.
    """
    out = tmp_path_factory.mktemp("whole")
    code = (
        "import sys; from pathlib import Path; from two_centres import reproduce_tiny; "
        "assert reproduce_tiny(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]).missing == ()"
    )
    paths = [str(Path(__file__).parent), *sys.path]
    subprocess.run(
        [sys.executable, "-c", code, str(cohort), str(out), NAME],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        check=True,
    )
    return out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_tables_figure_and_page_are_there(whole: Path) -> None:
    for name in TABLES:
        assert (whole / name).stat().st_size > 100, name
    assert (whole / "figure4.png").read_bytes().startswith(b"\x89PNG")
    page = (whole / "reproduce.html").read_text(encoding="utf-8")
    assert "Research software. Not a medical device." in page
    assert page.count("<img ") == 1
    assert not re.search(r"(src|href)=\"(?!data:)", page)


def test_every_value_stands_beside_the_paper_s(whole: Path) -> None:
    of_table = {(row["patients"], row["figure"]): row for row in rows(whole / "table2.csv")}
    assert len(of_table) == 10
    area = of_table["test", "AUC, all patients"]
    assert (area["paper_table"], area["paper_interval"]) == ("0.955", "0.901 to 1.000")
    assert (area["paper_abstract"], area["n"]) == ("0.842", "4")
    assert 0 <= float(area["value"]) <= 1
    dice = {(row["patients"], row["figure"]): row for row in rows(whole / "table1.csv")}
    assert dice["train", "Dice per patient"]["paper_table"] == "0.956"
    assert dice["test", "Dice pooled"]["paper_abstract"] == "0.849"


def test_sides_are_the_protocol_s(cohort: Path, whole: Path) -> None:
    split = read_cohort(whole / "cohort.csv")
    assert {case.centre for case in split.of_split("test")} == {"A"}
    assert {case.centre for case in (*split.of_split("train"), *split.of_split("val"))} == {"B"}
    assert not read_cohort(cohort).has_split
    assert "other centres" in (whole / "reproduce.md").read_text()


def test_all_patients_are_predicted_by_calibrated_weights(whole: Path) -> None:
    found = sorted(path.parent.name for path in whole.glob(f"{NAME}/predictions/*/findings.json"))
    assert found == sorted(case.scan_id for case in read_cohort(whole / "cohort.csv").cases)
    assert (whole / NAME / "weights.safetensors").is_file()


_KILLED_RUN = """
import sys
import time
from pathlib import Path

from two_centres import reproduce_tiny

from osteomet.inference.pipeline import Predictor
from osteomet.training.loop import Trainer

where, cohort, out, name = sys.argv[1:]
# two validation patients are predicted for the calibration before
owner, method, last = {"train": (Trainer, "_step", 4), "predict": (Predictor, "predict", 5)}[where]
whole, calls = getattr(owner, method), []

def waiting(*arguments, **named):
    calls.append(1)
    if len(calls) > last:
        print("waiting", flush=True)
        time.sleep(600)
    return whole(*arguments, **named)

setattr(owner, method, waiting)
reproduce_tiny(Path(cohort), Path(out), name)
"""


def _kill(where: str, cohort: Path, out: Path) -> None:
    paths = [str(Path(__file__).parent), *sys.path]
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED_RUN, where, str(cohort), str(out), NAME],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        line = process.stdout.readline() if process.stdout else ""
        process.kill()
    assert line == "waiting\n"


def test_killed_in_training_and_in_prediction_it_goes_on(
    cohort: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _kill("train", cohort, tmp_path)
    steps = rows(tmp_path / NAME / "run" / "log.csv")
    assert [row["step"] for row in steps] == ["1", "2", "3", "4"]
    assert not (tmp_path / NAME / "stages.json").exists()

    _kill("predict", cohort, tmp_path)
    trained = (tmp_path / NAME / "weights.safetensors").stat().st_mtime_ns
    folders = (tmp_path / NAME / "predictions").glob("*/findings.json")
    before = {path: path.stat().st_mtime_ns for path in folders}
    assert len(before) == 3
    assert not (tmp_path / "table2.csv").exists()

    monkeypatch.setattr(stages, "train", _not_again)
    monkeypatch.setattr(stages, "calibrate", _not_again)
    assert reproduce_tiny(cohort, tmp_path, NAME).missing == ()
    assert (tmp_path / NAME / "weights.safetensors").stat().st_mtime_ns == trained
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for name in ("log.csv", "validation.csv"):
        assert rows(tmp_path / NAME / "run" / name) == rows(whole / NAME / "run" / name)
    for name in TABLES:
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name


def _not_again(*_: object, **__: object) -> TrainingResult:
    raise AssertionError("done before")


def test_done_run_does_nothing_again_and_refuses_other_settings(
    cohort: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage in stages.STAGES:
        monkeypatch.setitem(stages.STAGES, stage, _not_again)
    before = {name: (whole / name).read_bytes() for name in TABLES}
    assert reproduce_tiny(cohort, whole, NAME).page == whole / "reproduce.html"
    assert {name: (whole / name).read_bytes() for name in TABLES} == before
    monkeypatch.setattr("two_centres.tiny_config", lambda: TINY.updated({"training.max_steps": 7}))
    with pytest.raises(ConfigError, match=r"settings\.training\.max_steps \(was 6, now 7\)"):
        reproduce_tiny(cohort, whole, NAME)


def test_signal_in_training_leaves_the_rest_undone(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> TrainingResult:
        return TrainingResult("interrupted", 3, 0, 1.0, 0, 1.0, tmp_path)

    monkeypatch.setattr(stages, "train", interrupted)
    result = reproduce_tiny(cohort, tmp_path, NAME, "resnet18")
    assert (result.page, result.missing) == (None, (NAME, "resnet18"))
