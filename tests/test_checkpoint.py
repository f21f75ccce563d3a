import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from osteomet.checkpoint import (
    bundled_weights,
    load_into,
    load_weights,
    replace_file,
    save_weights,
)
from osteomet.config import Config, parse_kept_config
from osteomet.errors import CheckpointError


def _save(path: Path, **options: bool) -> dict[str, torch.Tensor]:
    state = {"conv.weight": torch.randn(4, 3, 3, 3, 3), "count": torch.tensor(7)}
    primary = {"linear.weight": torch.randn(2, 2)}
    save_weights(path, state, primary, Config(), {"dice": 0.8}, {"seed": 1}, **options)
    return state


def test_weights_come_back_with_all_they_carry(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    state = _save(path)
    loaded = load_weights(path)
    assert loaded.config == Config()
    assert loaded.model_state.keys() == state.keys()
    assert all(torch.equal(loaded.model_state[name], state[name]) for name in state)
    assert loaded.primary_state is not None
    assert loaded.primary_state.keys() == {"linear.weight"}
    assert (loaded.metrics, loaded.provenance, loaded.name) == ({"dice": 0.8}, {"seed": 1}, "mine")
    assert len(loaded.sha256) == 64


def test_without_a_second_stage_there_is_none(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", {"a": torch.ones(1)}, None, Config(), {}, {})
    assert load_weights(tmp_path / "w.safetensors").primary_state is None


def test_half_is_half_the_size_and_reads_as_float32(tmp_path: Path) -> None:
    state = {"weight": torch.randn(50_000), "large": torch.tensor([1e9]), "n": torch.tensor(3)}
    for name, half in (("full", False), ("half", True)):
        save_weights(tmp_path / f"{name}.safetensors", state, None, Config(), {}, {}, half=half)
    full, half_size = (
        (tmp_path / f"{name}.safetensors").stat().st_size for name in ("full", "half")
    )
    assert half_size == full - 2 * 50_000
    loaded = load_weights(tmp_path / "half.safetensors").model_state
    assert loaded["weight"].dtype == torch.float32
    torch.testing.assert_close(loaded["weight"], state["weight"], rtol=1e-3, atol=1e-6)
    assert loaded["large"].item() == 1e9  # float16 ends at 65504
    assert loaded["n"].dtype == torch.int64


def test_channels_last_weights_are_stored_dense(tmp_path: Path) -> None:
    weight = torch.randn(4, 3, 3, 3, 3).to(memory_format=torch.channels_last_3d)
    save_weights(tmp_path / "w.safetensors", {"w": weight}, None, Config(), {}, {})
    assert torch.equal(load_weights(tmp_path / "w.safetensors").model_state["w"], weight)


def test_unknown_name_lists_the_bundled_ones() -> None:
    with pytest.raises(CheckpointError, match=r"no weights 'nonsense': .*\(bundled: "):
        load_weights("nonsense")


def test_bundled_names_are_those_that_load() -> None:
    assert all(load_weights(name).name == name for name in bundled_weights())


def test_other_files_are_refused(tmp_path: Path) -> None:
    pickle = tmp_path / "model.pt"
    torch.save({"weight": torch.ones(2)}, pickle)
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_weights(pickle)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.ones(1)}, foreign)
    with pytest.raises(CheckpointError, match="has no osteomet_format entry"):
        load_weights(foreign)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"osteomet_format": "2"}, "format version 2, this osteomet reads 1"),
        ({"osteomet_format": "1"}, "damaged metadata: 'config'"),
        ({"osteomet_format": "1", "config": "{"}, "damaged metadata"),
        (
            {"osteomet_format": "1", "config": json.dumps({"modle": {}})},
            "unknown setting 'modle': did you mean 'model'",
        ),
    ],
)
def test_damaged_metadata_is_named(tmp_path: Path, metadata: dict[str, str], message: str) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"model.a": torch.ones(1)}, path, metadata)
    with pytest.raises(CheckpointError, match=message):
        load_weights(path)


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    _save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_weights(path)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": torch.ones(2, 3)}, "'bias' is missing"),
        ({"weight": torch.ones(3, 3), "bias": torch.ones(2)}, r"'weight' has shape \(3, 3\)"),
        (
            {"weight": torch.ones(2, 3), "bias": torch.ones(2), "c": torch.ones(1)},
            "'c' is unexpected",
        ),
    ],
)
def test_state_of_another_model_is_refused(state: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"my.file: {message}"):
        load_into(nn.Linear(3, 2), state, "my.file")


@contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    """Let the system refuse to write more into one file, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_keeps_the_previous_weights(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    state = _save(path)
    large = {"weight": torch.ones(100_000)}
    with (
        _files_of_at_most(10_000),
        pytest.raises(CheckpointError, match=r"cannot be written .* the previous file is kept"),
    ):
        save_weights(path, large, None, Config(), {}, {})
    assert load_weights(path).model_state.keys() == state.keys()
    assert list(tmp_path.iterdir()) == [path]


def test_failed_write_of_a_training_state_keeps_the_previous_one(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    replace_file(path, lambda temporary: torch.save({"a": torch.ones(2)}, temporary))
    with _files_of_at_most(10_000), pytest.raises(CheckpointError, match="cannot be written"):
        replace_file(path, lambda temporary: torch.save(torch.ones(100_000), temporary))
    assert torch.load(path, weights_only=True)["a"].tolist() == [1.0, 1.0]
    assert list(tmp_path.iterdir()) == [path]


def test_older_weights_mean_the_settings_they_were_trained_with() -> None:
    content = Config().model_dump(mode="json")
    del content["model"]["losses"]["attributes"]
    kept = parse_kept_config(content, "old weights")
    assert kept.model.losses.attributes == 0.0 != Config().model.losses.attributes
    assert kept.updated({"model.losses.attributes": 0.5}) == Config()
    assert parse_kept_config(Config().model_dump(mode="json"), "new weights") == Config()
