from pathlib import Path

import pytest
import torch

from osteomet.config import Config
from osteomet.errors import CheckpointError
from osteomet.training.state import check_cohort, read_state, resumed_config

PATH = Path("run/last.ckpt")


def _saved(config: Config) -> dict[str, object]:
    return {"config": config.model_dump(mode="json"), "cohort_sha256": "a" * 64}


def test_differing_settings_are_named() -> None:
    now = Config().updated({"training.seed": 3, "model.neck.channels": 12})
    with pytest.raises(CheckpointError) as caught:
        resumed_config(PATH, _saved(Config()), now)
    message = str(caught.value)
    assert "model.neck.channels (was 48, now 12); training.seed (was 0, now 3)" in message


def test_constants_of_the_run_are_taken_and_speed_may_change() -> None:
    saved = Config().updated({"preprocess.mean_hu": 123.0, "preprocess.std_hu": 45.0})
    resumed = resumed_config(PATH, _saved(saved), Config().updated({"data.workers": 7}))
    assert resumed == saved.updated({"data.workers": 7})


def test_another_cohort_is_refused() -> None:
    check_cohort(PATH, _saved(Config()), "a" * 64)
    with pytest.raises(CheckpointError, match=r"another cohort or split \(digest aaaa"):
        check_cohort(PATH, _saved(Config()), "b" * 64)


def test_missing_damaged_and_foreign_states_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    with pytest.raises(CheckpointError, match="no training state to resume"):
        read_state(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="not a readable training state"):
        read_state(path)
    torch.save({"version": 99}, path)
    with pytest.raises(CheckpointError, match="not a training state of version 1"):
        read_state(path)


def test_code_in_a_state_does_not_run(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"version": 1, "progress": _Evil(tmp_path / "ran")}, path)
    with pytest.raises(CheckpointError, match="not a readable training state"):
        read_state(path)
    assert not (tmp_path / "ran").exists()


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (self.path,))
