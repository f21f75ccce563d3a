"""The mean of two weights: what it holds, and which two have none."""

import dataclasses
from pathlib import Path

import pytest
import torch

from osteomet.checkpoint import LoadedWeights, load_weights, save_weights
from osteomet.cli import learning
from osteomet.config import Config
from osteomet.errors import CheckpointError, ConfigError
from osteomet.training.average import average_weights


def weights(name: str, value: float, **changes: object) -> LoadedWeights:
    state = {"a": torch.full((2, 3), value), "count": torch.tensor(int(value))}
    config = Config().updated(changes)
    made = {"step": int(value), "calibration": {"operating_threshold": 0.4}}
    return LoadedWeights(config, state, {"b": torch.ones(2)}, {"auc": 0.7}, made, name, "0" * 64)


def test_the_mean_has_its_shares_and_nothing_that_was_measured(tmp_path: Path) -> None:
    average_weights(weights("old", 1.0), weights("new", 5.0), 0.75, tmp_path / "mean.safetensors")
    mean = load_weights(tmp_path / "mean.safetensors")
    assert torch.equal(mean.model_state["a"], torch.full((2, 3), 4.0))
    assert mean.model_state["count"].item() == 5
    assert mean.primary_state is None
    assert mean.metrics == {}
    assert mean.provenance == {
        "step": 5,
        "averaged_with": {"name": "old", "sha256": "0" * 64, "share": 0.25},
    }


def test_different_networks_have_no_mean(tmp_path: Path) -> None:
    other = dataclasses.replace(weights("new", 5.0), model_state={"a": torch.ones(4)})
    with pytest.raises(CheckpointError, match="old and new are of different networks: a and 1"):
        average_weights(weights("old", 1.0), other, 0.5, tmp_path / "mean.safetensors")
    coarse = weights("new", 5.0, **{"preprocess.spacing_mm": 2.0})
    with pytest.raises(CheckpointError, match=r"preprocess\.spacing_mm is 1\.0 in old and 2\.0"):
        average_weights(weights("old", 1.0), coarse, 0.5, tmp_path / "mean.safetensors")
    with pytest.raises(ConfigError, match=r"the share is 1\.5"):
        average_weights(weights("old", 1.0), weights("new", 2.0), 1.5, tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_run_comes_after_what_it_started_from(tmp_path: Path) -> None:
    start, output = weights("start", 1.0), tmp_path / "mean.safetensors"
    run = weights("run", 5.0)
    run = dataclasses.replace(
        run, provenance={**run.provenance, "init": {"sha256": start.sha256}}, sha256="1" * 64
    )
    with pytest.raises(ConfigError, match="run was trained from start; expected what a run"):
        average_weights(run, start, 0.3, output)
    average_weights(start, run, 0.7, output)
    assert load_weights(output).provenance["init"] == {"sha256": start.sha256}


def test_the_command_takes_runs_and_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in ("run", 1.0), ("file", 3.0):
        made = weights(name, value)
        (tmp_path / "run").mkdir(exist_ok=True)
        path = tmp_path / "run" / "weights.safetensors" if name == "run" else tmp_path / name
        save_weights(path, made.model_state, None, made.config, {}, made.provenance)
    output = tmp_path / "mean.safetensors"
    learning.average(str(tmp_path / "run"), str(tmp_path / "file"), output)
    assert torch.equal(load_weights(output).model_state["a"], torch.full((2, 3), 2.0))
    assert "0.5 of" in capsys.readouterr().err + capsys.readouterr().out
