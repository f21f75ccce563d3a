"""The main job with the bundled weights, through the command line, as a user runs it."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

from osteomet.checkpoint import bundled_weights
from osteomet.cli.app import build_app
from osteomet.findings import Findings
from osteomet.io.scan import read_scan
from osteomet.simulate.cohort import write_cohort

REAL = os.environ.get("OSTEOMET_REAL_DATA")
SCANS = [
    *(f"blds_bone_lesions/{k}.nii.gz" for k in (1, 2, 3, 4)),
    "totalseg_example_ct/example_ct.nii.gz",
    "totalseg_example_dicom/ct",
    "sts_001_thigh_sarcoma/dicom/ct",
]
RESULT_FILES = {"findings.json", "lesions.csv", "lesions.nii.gz", "report.html"}

pytestmark = pytest.mark.skipif(not bundled_weights(), reason="this checkout has no weights")


def run(*arguments: object) -> str:
    result = CliRunner().invoke(build_app(), [str(a) for a in arguments])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


def check_result(folder: Path) -> Findings:
    assert {path.name for path in folder.iterdir()} == RESULT_FILES
    findings = Findings.read(folder / "findings.json")
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "lesions.nii.gz")))
    assert labels.shape == findings.series.shape_zyx
    assert sorted(set(np.unique(labels)) - {0}) == sorted(one.label for one in findings.lesions)
    assert all(one.score >= findings.provenance.operating_threshold for one in findings.lesions)
    assert (findings.primary.p_lung is None) == (not findings.lesions)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Not a medical device" in page
    assert all(one.id in page for one in findings.lesions)
    return findings


def test_demo_finds_lesions_and_names_its_report(tmp_path: Path) -> None:
    output = run("demo", "-o", tmp_path / "demo")
    findings = check_result(tmp_path / "demo" / "demo-patient")
    assert len(findings.lesions) >= 1
    assert len(list((tmp_path / "demo" / "ct").glob("*.dcm"))) == findings.series.shape_zyx[0]
    assert "report.html" in output.replace("\n", "")


def test_a_cohort_is_predicted_and_evaluated(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort", count=3, seed=77, splits={"test": 1.0})
    run("predict", "--cohort", cohort, "--split", "test", "-o", tmp_path / "found")
    for case in sorted(
        p for p in (tmp_path / "found").iterdir() if p.is_dir() and p.name[0] != "."
    ):
        check_result(case)
    output = run(
        "evaluate", tmp_path / "found", "--cohort", cohort,
        "--resamples", 50, "-o", tmp_path / "tables",
    )  # fmt: skip
    assert "sensitivity at 1 FP/scan" in output
    figures = json.loads((tmp_path / "tables" / "evaluation.json").read_text())
    assert figures


@pytest.mark.skipif(REAL is None, reason="OSTEOMET_REAL_DATA names no folder of real CT")
@pytest.mark.parametrize("name", SCANS)
def test_real_ct_from_file_to_report(name: str, tmp_path: Path) -> None:
    source = Path(str(REAL)) / name
    if not source.exists():
        pytest.skip(f"{name} is not in OSTEOMET_REAL_DATA")
    run("predict", source, "-o", tmp_path)
    (folder,) = tmp_path.iterdir()
    findings = check_result(folder)
    assert findings.series.shape_zyx == read_scan(source).volume.shape


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no scan")
    result = CliRunner().invoke(
        build_app(), ["predict", str(tmp_path), "-o", str(tmp_path / "out")]
    )
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
