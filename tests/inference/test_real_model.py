"""The real network with random weights, from a weights file to a result folder."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from blobs import patient, scan_of

from osteomet.checkpoint import save_weights
from osteomet.config import Config
from osteomet.errors import CheckpointError
from osteomet.findings import Findings
from osteomet.inference.outputs import write_results
from osteomet.inference.pipeline import Predictor
from osteomet.io.volumes import read_labels
from osteomet.models.mask_rcnn import MaskRCNN
from osteomet.models.primary import PrimaryModel


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = Config().updated(
        {
            "preprocess.spacing_mm": 3.0,
            "model.backbone.depths": (1, 1, 1, 1),
            "model.backbone.dims": (8, 16, 24, 32),
            "model.neck.channels": 16,
            "model.box_head.hidden": 32,
            "model.box_head.embedding": 6,
            "inference.tile_size": (64, 64, 64),
            "inference.operating_threshold": 0.3,
        }
    )
    torch.manual_seed(0)
    model = MaskRCNN(config.model, config.preprocess.spacing_mm)
    primary = PrimaryModel(features=6 + 4 + 2, members=4)
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_weights(path, model.state_dict(), primary.state_dict(), config, {}, {})
    return path


def check(result: Path) -> Findings:
    findings = Findings.read(result / "findings.json")
    labels = read_labels(result / "lesions.nii.gz")
    assert labels.shape == findings.series.shape_zyx
    present = set(np.unique(labels.voxels).tolist()) - {0}
    assert present == {lesion.label for lesion in findings.lesions}
    scores = [candidate.score for candidate in findings.candidates]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) <= 100
    assert all(score >= 0.05 for score in scores)
    above = findings.provenance.operating_threshold
    assert all(lesion.score >= above for lesion in findings.lesions)
    assert (findings.primary.p_lung is None) == (len(findings.lesions) == 0)
    assert findings.provenance.weights == "random"
    return findings


def test_random_weights_give_a_whole_result(weights: Path, tmp_path: Path) -> None:
    prediction = Predictor(weights, "cpu").predict(scan_of(patient()))
    findings = check(write_results(prediction, tmp_path))
    assert len(findings.candidates) > 0


def test_two_runs_agree(weights: Path) -> None:
    first, second = (Predictor(weights, "cpu").predict(scan_of(patient())) for _ in range(2))
    assert first.findings.candidates == second.findings.candidates
    assert first.findings.lesions == second.findings.lesions


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights"):
        Predictor(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    "scan",
    [
        "totalseg_example_ct/example_ct.nii.gz",
        "totalseg_example_dicom/ct",
        "sts_001_thigh_sarcoma/dicom",
        "blds_bone_lesions/1.nii.gz",
        "dcmqi_ct_3slice_spine",
    ],
)
def test_real_scans_give_a_whole_result(scan: str, weights: Path, tmp_path: Path) -> None:
    data = os.environ.get("OSTEOMET_REAL_DATA")
    if not data or not (Path(data) / scan).exists():
        pytest.skip("OSTEOMET_REAL_DATA names no folder with this scan")
    prediction = Predictor(weights, "cpu").predict(Path(data) / scan)
    check(write_results(prediction, tmp_path))
