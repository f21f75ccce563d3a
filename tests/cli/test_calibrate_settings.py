"""Calibration may change how weights are used, and nothing that they were trained with."""

from pathlib import Path

import pytest

from osteomet.checkpoint import DEFAULT_WEIGHTS, LoadedWeights
from osteomet.cli import learning
from osteomet.errors import ConfigError
from osteomet.training.calibrate import Calibration
from osteomet.training.out_of_fold import OutOfFold


def test_settings_of_inference_stay_with_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[LoadedWeights] = []

    def calibrated(weights: LoadedWeights, *_: object, **__: object) -> Calibration:
        taken.append(weights)
        return Calibration(0.5, 1.0, 0.0, 1, 1, 0, OutOfFold())

    monkeypatch.setattr(learning, "calibrate_weights", calibrated)
    monkeypatch.setattr(learning, "cases_of", lambda *_: [])
    setting = "inference.tile_size=[64,96,64]"
    learning.calibrate(
        DEFAULT_WEIGHTS, tmp_path / "c.csv", tmp_path / "w.safetensors", assignments=[setting]
    )
    assert taken[0].config.inference.tile_size == (64, 96, 64)


def test_what_training_decided_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.backbone\.name: was decided when"):
        learning.calibrate(
            DEFAULT_WEIGHTS,
            tmp_path / "c.csv",
            tmp_path / "w.safetensors",
            assignments=["model.backbone.name=resnet18"],
        )
