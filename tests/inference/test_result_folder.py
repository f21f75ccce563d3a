"""A result folder is whole or not there, and nobody else's folder is replaced."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from blobs import BlobFinder, blob_weights, patient, scan_of

from osteomet.errors import ReportError
from osteomet.findings import Findings, SeriesInfo
from osteomet.inference import outputs
from osteomet.inference.batch import exit_status, predict_many
from osteomet.inference.outputs import write_results
from osteomet.inference.pipeline import Prediction, Predictor
from osteomet.inference.scan_id import distinct, name_scan, sanitised
from osteomet.io.volumes import read_labels, write_volume

FILES = {"findings.json", "lesions.csv", "lesions.nii.gz", "report.html"}


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(blob_weights(), "cpu", detector=BlobFinder())


@pytest.fixture(scope="module")
def prediction(predictor: Predictor) -> Prediction:
    return predictor.predict(scan_of(patient()), "case")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_folder_holds_four_files_that_agree(prediction: Prediction, tmp_path: Path) -> None:
    folder = write_results(prediction, tmp_path / "new" / "out")
    assert folder == tmp_path / "new" / "out" / "case"
    assert names(folder) == FILES
    findings = Findings.read(folder / "findings.json")
    assert findings == prediction.findings
    labels = read_labels(folder / "lesions.nii.gz")
    assert labels.shape == findings.series.shape_zyx
    assert np.allclose(labels.affine, findings.series.affine_lps, atol=1e-4)
    for lesion in findings.lesions:
        voxels = np.argwhere(labels.voxels == lesion.label)
        assert len(voxels) * labels.voxel_ml == pytest.approx(lesion.volume_ml, rel=1e-4)
    assert len((folder / "lesions.csv").read_text().splitlines()) == 1 + len(findings.lesions)
    if os.name == "posix":
        assert folder.stat().st_mode & 0o077 == 0o077 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_newer_result_replaces_the_older(prediction: Prediction, tmp_path: Path) -> None:
    folder = write_results(prediction, tmp_path)
    (folder / "stale.txt").write_text("from an older version")
    write_results(prediction, tmp_path)
    assert names(folder) == FILES
    assert names(tmp_path) == {"case"}


@pytest.mark.parametrize("earlier", [True, False])
def test_a_full_disk_leaves_what_was_there(
    prediction: Prediction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: bool
) -> None:
    if earlier:
        write_results(prediction, tmp_path)
        before = (tmp_path / "case" / "findings.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(outputs, "write_report", full)
    with pytest.raises(ReportError, match="No space left on device"):
        write_results(prediction, tmp_path)
    assert names(tmp_path) == ({"case"} if earlier else set())
    if earlier:
        assert (tmp_path / "case" / "findings.json").read_bytes() == before


def test_the_older_result_returns_if_the_new_one_cannot_take_its_place(
    prediction: Prediction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_results(prediction, tmp_path)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.suffix == ".partial":
            raise OSError(errno.EACCES, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ReportError, match="Permission denied"):
        write_results(prediction, tmp_path)
    assert names(tmp_path) == {"case"}
    assert names(tmp_path / "case") == FILES


def test_a_folder_of_something_else_is_not_replaced(prediction: Prediction, tmp_path: Path) -> None:
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "thesis.tex").write_text("years of work")
    with pytest.raises(ReportError, match="no result of osteomet"):
        write_results(prediction, tmp_path)
    assert names(tmp_path / "case") == {"thesis.tex"}


def test_a_file_in_the_place_of_the_output_folder(prediction: Prediction, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ReportError, match="cannot be written"):
        write_results(prediction, tmp_path / "out")


def test_a_batch_goes_on_after_a_failed_scan(predictor: Predictor, tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        write_volume(tmp_path / place / "ct.nii.gz", patient())
    (tmp_path / "broken.nii.gz").write_bytes(b"not a volume")
    sources = [
        tmp_path / "a" / "ct.nii.gz",
        tmp_path / "broken.nii.gz",
        tmp_path / "missing.nii.gz",
        tmp_path / "b" / "ct.nii.gz",
    ]
    told = []
    outcomes = predict_many(sources, tmp_path / "out", predictor, report=told.append)
    assert told == outcomes
    assert [outcome.source for outcome in outcomes] == sources
    assert [outcome.folder and outcome.folder.name for outcome in outcomes] == [
        "ct", None, None, "ct-2",
    ]  # fmt: skip
    assert names(tmp_path / "out") == {"ct", "ct-2"}
    assert (
        json.loads((tmp_path / "out" / "ct-2" / "findings.json").read_text())["scan_id"] == "ct-2"
    )
    for failed in outcomes[1:3]:
        assert failed.error is not None
        assert "\n" not in failed.error
    assert exit_status(outcomes) == 2
    assert exit_status([outcomes[0]]) == exit_status([]) == 0


def test_another_run_replaces_results_of_the_same_series_only(
    predictor: Predictor, tmp_path: Path
) -> None:
    other = patient(spacing_zyx_mm=(2.0, 1.0, 1.0))
    for place, volume in (("a", patient()), ("b", other)):
        (tmp_path / place).mkdir()
        write_volume(tmp_path / place / "ct.nii.gz", volume)
    a, b, out = tmp_path / "a" / "ct.nii.gz", tmp_path / "b" / "ct.nii.gz", tmp_path / "out"
    for sources, folders in (([a], ["ct"]), ([b], ["ct-2"]), ([b, a], ["ct-2", "ct"])):
        outcomes = predict_many(sources, out, predictor)
        assert [outcome.folder and outcome.folder.name for outcome in outcomes] == folders
    assert names(out) == {"ct", "ct-2"}
    (out / "ct" / "findings.json").write_text("{}")
    (outcome,) = predict_many([a], out, predictor)
    assert outcome.folder == out / "ct-3"


def test_a_surprise_in_one_scan_is_told_in_one_line(tmp_path: Path) -> None:
    class Broken(BlobFinder):
        def forward(self, *_: object) -> None:
            raise RuntimeError("out of\nmemory")

    write_volume(tmp_path / "ct.nii.gz", patient())
    broken = Predictor(blob_weights(), "cpu", detector=Broken())
    (outcome,) = predict_many([tmp_path / "ct.nii.gz"], tmp_path / "out", broken)
    assert outcome.error == f"{tmp_path / 'ct.nii.gz'}: RuntimeError: out of memory"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("1.2.840.113619", "1.2.840.113619"),
        ("../../etc/passwd", "etc_passwd"),
        ("Ünï cödé (1)", "n_c_d_1"),
        ("", "scan"),
        ("...", "scan"),
        ("con", "scan_con"),
        ("COM1.x", "scan_COM1.x"),
        ("x" * 300, "x" * 100),
    ],
)
def test_scan_ids_are_safe_file_names(name: str, safe: str) -> None:
    assert sanitised(name) == safe


def test_scan_ids_are_distinct_whatever_the_case() -> None:
    assert distinct("ct", []) == "ct"
    assert distinct("ct", ["CT"]) == "ct-2"
    assert distinct("ct", ["ct", "ct-2"]) == "ct-3"


def test_a_dicom_series_is_named_by_its_uid_not_by_its_folder() -> None:
    scan = scan_of(patient(), series_uid="1.2.3")
    assert name_scan(scan.info) == "1.2.3"
    info: SeriesInfo = scan_of(patient()).info
    assert name_scan(info) == "patient"
    assert name_scan(info.model_copy(update={"source": "Study.NII.GZ"})) == "Study"
