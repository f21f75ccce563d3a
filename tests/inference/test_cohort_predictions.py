"""Scans of a cohort: predicted, joined by patient, evaluated, and used for calibration."""

import csv
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from blobs import BlobFinder, blob_weights, patient

from osteomet.checkpoint import load_weights
from osteomet.data.manifest import Case, read_cohort
from osteomet.errors import AnnotationError, InputError
from osteomet.findings import Findings, PrimaryTumour
from osteomet.inference.batch import exit_status
from osteomet.inference.cohort import predict_cohort
from osteomet.inference.cohort_evaluation import evaluate_cohort
from osteomet.inference.cohort_scan import ScanOutcome
from osteomet.inference.pipeline import Prediction, Predictor
from osteomet.io.volumes import write_labels, write_volume
from osteomet.models.mask_rcnn import MaskRCNN
from osteomet.training import calibrate as calibration

HEADER = "patient_id,image,mask,centre,primary,scan_id,split,mask_kind\n"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, ...]:
    """Three scans with the same two lesions; two of them are of one patient."""
    folder = tmp_path_factory.mktemp("cohort")
    volume = patient()
    bright = volume.with_voxels((volume.voxels > 700).astype(np.uint8))
    write_volume(folder / "ct.nii.gz", volume)
    write_labels(folder / "mask.nii.gz", bright)
    rows = [
        f"{name},ct.nii.gz,mask.nii.gz,A,{primary},{scan},test,auto\n"
        for name, primary, scan in [
            ("p1", "lung", "s1"),
            ("p1", "lung", "s2"),
            ("p2", "other", "s3"),
        ]
    ]
    (folder / "cohort.csv").write_text(HEADER + "".join(rows))
    return read_cohort(folder / "cohort.csv").cases


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(blob_weights(), "cpu", detector=BlobFinder())


def test_scans_of_one_patient_share_one_primary(
    cohort: tuple[Case, ...], predictor: Predictor, tmp_path: Path
) -> None:
    outcomes = predict_cohort(cohort, tmp_path, predictor)
    findings = {
        o.case.scan_id: Findings.read(o.folder / "findings.json") for o in outcomes if o.folder
    }
    assert sorted(findings) == ["s1", "s2", "s3"]
    assert {p.name for p in tmp_path.iterdir()} == {*findings, ".lesions", "predictions.csv"}
    assert {f.patient_id for f in findings.values()} == {"p1", "p2"}
    assert findings["s1"].primary == findings["s2"].primary
    assert "all 2 scans" in findings["s1"].primary.aggregation
    assert "scans" not in findings["s3"].primary.aggregation


def test_perfect_predictions_evaluate_to_one(
    cohort: tuple[Case, ...], predictor: Predictor, tmp_path: Path
) -> None:
    predict_cohort(cohort, tmp_path, predictor)
    evaluation = evaluate_cohort(tmp_path, cohort, resamples=0)
    values = {one.name: one.value for one in evaluation.estimates}
    assert values["sensitivity at 1 FP/scan"] == 1.0
    assert values["Dice per matched lesion"] == pytest.approx(1.0, abs=0.08)


def test_a_failed_scan_stops_no_other(
    cohort: tuple[Case, ...], predictor: Predictor, tmp_path: Path
) -> None:
    (tmp_path / "broken.nii").write_bytes(b"no image")
    broken = Case("s0", "p0", tmp_path / "broken.nii", None, "A", PrimaryTumour.LUNG)
    outcomes = predict_cohort((broken, cohort[2]), tmp_path / "out", predictor)
    assert [o.error is None for o in outcomes] == [False, True]
    assert exit_status(outcomes) == 2
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["scan_id"], row["state"]) for row in rows] == [
        ("s0", "failed"),
        ("s3", "finished"),
    ]
    assert rows[0]["error"] == outcomes[0].error
    assert rows[1]["lesions"] == "2"


class CountingPredictor(Predictor):
    """Counts the scans it is asked for."""

    scans: list[str]

    def predict(self, *arguments: object, **options: object) -> Prediction:
        self.scans.append(str(options["scan_id"]))
        return super().predict(*arguments, **options)  # type: ignore[arg-type]  # as it came


@pytest.fixture
def counting() -> CountingPredictor:
    predictor = CountingPredictor(blob_weights(), "cpu", detector=BlobFinder())
    predictor.scans = []
    return predictor


def states(outcomes: list[ScanOutcome]) -> list[str]:
    return [outcome.state.value for outcome in outcomes]


def test_what_is_finished_is_not_predicted_again(
    cohort: tuple[Case, ...], counting: CountingPredictor, tmp_path: Path
) -> None:
    assert states(predict_cohort(cohort, tmp_path, counting)) == ["finished"] * 3
    assert states(predict_cohort(cohort, tmp_path, counting)) == ["kept"] * 3
    assert counting.scans == ["s1", "s2", "s3"]


def test_what_depends_on_something_else_now_is_predicted_again(
    cohort: tuple[Case, ...], counting: CountingPredictor, tmp_path: Path
) -> None:
    image = tmp_path / "ct.nii.gz"
    image.write_bytes(cohort[0].image.read_bytes())
    case = replace(cohort[2], image=image)
    predict_cohort((case,), tmp_path / "out", counting)
    os.utime(image, ns=(1, 1))
    assert states(predict_cohort((case,), tmp_path / "out", counting)) == ["finished"]
    counting.prior_lung = 0.5
    assert states(predict_cohort((case,), tmp_path / "out", counting)) == ["finished"]
    (tmp_path / "out" / "s3" / "findings.json").write_text("{}")
    assert states(predict_cohort((case,), tmp_path / "out", counting)) == ["finished"]
    assert len(counting.scans) == 4


def test_a_scan_that_is_mended_joins_the_others_of_its_patient(
    cohort: tuple[Case, ...], counting: CountingPredictor, tmp_path: Path
) -> None:
    image = tmp_path / "ct.nii.gz"
    image.write_bytes(b"no image")
    cases = (cohort[0], replace(cohort[1], image=image))
    out = tmp_path / "out"
    assert states(predict_cohort(cases, out, counting)) == ["finished", "failed"]
    alone = Findings.read(out / "s1" / "findings.json")
    assert "scans of the patient" not in alone.primary.aggregation
    assert states(predict_cohort(cases, out, counting)) == ["kept", "failed"]
    image.write_bytes(cohort[1].image.read_bytes())
    assert states(predict_cohort(cases, out, counting)) == ["finished", "finished"]
    joined = Findings.read(out / "s1" / "findings.json")
    assert "all 2 scans" in joined.primary.aggregation
    assert joined.lesions == alone.lesions
    # s1 was predicted once, s2 tried three times.
    assert counting.scans == ["s1", "s2", "s2", "s2"]


def test_a_join_without_its_lesions_says_what_to_do(
    cohort: tuple[Case, ...], counting: CountingPredictor, tmp_path: Path
) -> None:
    predict_cohort(cohort[:2], tmp_path, counting)
    for path in (tmp_path / ".lesions").rglob("*.npz"):
        path.write_bytes(path.read_bytes()[:100])
    (tmp_path / "s2" / "findings.json").unlink()
    (tmp_path / "s2" / "report.html").unlink()
    (tmp_path / "s2" / "lesions.csv").unlink()
    (tmp_path / "s2" / "lesions.nii.gz").unlink()
    outcomes = predict_cohort(cohort[:2], tmp_path, counting)
    assert states(outcomes) == ["kept", "failed"]
    assert "damaged" in str(outcomes[1].error)
    assert "delete the results of this patient's scans" in str(outcomes[1].error)


def test_what_cannot_be_evaluated_is_said(cohort: tuple[Case, ...], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no scan to evaluate"):
        evaluate_cohort(tmp_path, ())
    with pytest.raises(InputError, match="run osteomet predict --cohort"):
        evaluate_cohort(tmp_path, cohort)


def test_boxes_without_a_mask_cannot_be_evaluated(
    cohort: tuple[Case, ...], predictor: Predictor, tmp_path: Path
) -> None:
    (tmp_path / "boxes.csv").write_text("x1,y1,z1,x2,y2,z2\n0,0,0,9,9,9\n")
    case = Case(
        "s1", "p1", cohort[0].image, None, "A", PrimaryTumour.LUNG, boxes=tmp_path / "boxes.csv"
    )
    predict_cohort((case,), tmp_path / "out", predictor)
    with pytest.raises(AnnotationError, match="expected a mask"):
        evaluate_cohort(tmp_path / "out", (case,))


def test_calibration_keeps_threshold_and_second_stage(
    cohort: tuple[Case, ...],
    predictor: Predictor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calibration, "Predictor", lambda *_: predictor)
    weights = blob_weights()
    torch.manual_seed(0)
    weights.model_state.update(MaskRCNN(weights.config.model, 1.0).state_dict())
    path = tmp_path / "weights.safetensors"
    result = calibration.calibrate(weights, cohort, path)
    assert result.sensitivity == 1.0
    assert result.false_positives == 0.0
    assert (result.scans, result.lesions, result.primary_patients) == (3, 6, 2)
    kept = load_weights(path)
    assert kept.config.inference.operating_threshold == pytest.approx(0.9, abs=1e-6)
    assert kept.primary_state is not None
    told = kept.provenance["calibration"]
    assert told["lesions"] == 6
    # one patient of each kind: a fit to the other one has only one kind
    assert (told["out_of_fold"]["patients"], told["out_of_fold"]["lung_threshold"]) == (0, None)


def test_calibration_without_lesions_is_refused(
    cohort: tuple[Case, ...],
    predictor: Predictor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calibration, "Predictor", lambda *_: predictor)
    healthy = [
        Case(case.scan_id, case.patient_id, case.image, None, "A", PrimaryTumour.LUNG)
        for case in cohort
    ]
    with pytest.raises(InputError, match="hold no lesion"):
        calibration.calibrate(blob_weights(), healthy, tmp_path / "weights.safetensors")
    assert not list(tmp_path.iterdir())
