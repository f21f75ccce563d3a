"""`osteomet prepare`: what it prints, and how it ends."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from osteomet.cli import main
from osteomet.cli.app import build_app
from osteomet.data.manifest import read_cohort
from osteomet.data.store import build_store
from osteomet.io.volumes import write_labels, write_volume
from osteomet.volume import Volume


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    voxels = np.random.default_rng(0).integers(-50, 300, (12, 30, 28)).astype(np.int16)
    volume = Volume.from_spacing(voxels, (2.0, 1.0, 1.0))
    write_volume(tmp_path / "a.nii", volume)
    write_labels(tmp_path / "mask.nii", volume.with_voxels((voxels > 295).astype(np.int16)))
    path = tmp_path / "cohort.csv"
    path.write_text("patient_id,image,mask,centre,primary\np,a.nii,mask.nii,A,lung\n")
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(build_app(), ["prepare", *map(str, arguments)])


def test_a_second_run_keeps_what_is_there(cohort: Path) -> None:
    first, second = run(cohort), run(cohort)
    assert first.exit_code == second.exit_code == 0
    assert "1 scans prepared, 0 kept, 0 failed" in first.stderr
    assert "0 scans prepared, 1 kept, 0 failed" in second.stderr


def test_settings_and_place(cohort: Path, tmp_path: Path) -> None:
    store = tmp_path / "elsewhere"
    done = run(cohort, "-o", store, "--set", "preprocess.spacing_mm=2")
    assert done.exit_code == 0
    (scan,) = build_store(read_cohort(cohort).cases, store, 2.0).scans
    assert scan.shape == (12, 15, 14)
    assert len([path for path in store.iterdir() if not path.name.startswith(".")]) == 1


def test_a_bad_scan_is_one_error_and_exit_code_1(cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.nii").write_bytes(b"not an image")
    with cohort.open("a") as file:
        file.write("q,bad.nii,mask.nii,A,lung\n")
    done = run(cohort)
    assert done.exit_code == 1
    assert done.stderr.count("error:") == 1
    assert "scan 'q': " in done.stderr
    assert "1 scans prepared, 0 kept, 1 failed" in done.stderr


def test_a_store_that_cannot_be_is_exit_code_2(
    cohort: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["osteomet", "prepare", str(cohort), "-o", str(cohort)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "cannot be made" in capsys.readouterr().err


def test_a_worker_needs_no_torch() -> None:
    """It takes more memory than a scan, and each of many workers would have its own."""
    code = "import osteomet.cli, osteomet.data.prepare, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
