"""Every family of backbones trains, is kept, and predicts, with the same neck and heads."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from spheres import tiny_config, trainer

from osteomet.checkpoint import load_weights
from osteomet.config import Config
from osteomet.inference.pipeline import Predictor
from osteomet.io.volumes import write_volume
from osteomet.training.run_folder import RunFolder
from osteomet.volume import Volume

SIDE = 40


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "bone.nii.gz"
    hu = np.random.default_rng(0).normal(100, 30, (SIDE,) * 3)
    hu[12:30, 12:30, 12:30] += 400
    write_volume(path, Volume(hu.astype(np.int16), np.eye(4)))
    return path


def config(name: str, normalisation: str) -> Config:
    settings = {
        "model.backbone.name": name,
        "model.backbone.normalisation": normalisation,
        "model.min_score": 0.0,
        "inference.candidate_score": 0.0,
        "inference.tile_size": [32, 32, 32],
        "inference.overlap_vox": 8,
    }
    return tiny_config(batch_size=2, max_steps=2, validate_every=2).updated(settings)


@pytest.mark.parametrize(
    ("name", "normalisation"),
    [
        ("resnet18", "group"),
        ("resnet50", "batch"),
        ("convnext_tiny", "auto"),
        ("convnextv2_atto", "auto"),
        ("yolov8n", "instance"),
        ("yolov8n", "batch"),
    ],
)
def test_two_steps_and_a_prediction(
    name: str, normalisation: str, scan: Path, tmp_path: Path
) -> None:
    result = trainer(RunFolder(tmp_path), config(name, normalisation)).fit()
    assert (result.outcome, result.step, result.skipped_steps) == ("finished", 2, 0)
    with (tmp_path / "log.csv").open(newline="") as file:
        assert all(math.isfinite(float(row["loss"])) for row in csv.DictReader(file))
    weights = load_weights(result.weights)
    assert weights.config.model.backbone.name == name
    running = [key for key in weights.model_state if key.endswith("running_mean")]
    assert bool(running) == (normalisation == "batch")
    prediction = Predictor(weights, "cpu").predict(scan)
    assert len(prediction.detections.scores) > 0
    assert np.isfinite(prediction.detections.boxes.numpy()).all()
