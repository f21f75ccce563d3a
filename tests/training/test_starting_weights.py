"""What ``--init`` reads: osteomet's own weights, a pretrained backbone, and 2D weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from spheres import tiny_config, trainer
from transformers import ConvNextV2Config, ConvNextV2Model

from osteomet.checkpoint import load_weights, save_weights
from osteomet.config import Config
from osteomet.errors import CheckpointError
from osteomet.models.backbones.inflate import NON_COMMERCIAL
from osteomet.models.masked_autoencoder import MaskedAutoencoder
from osteomet.training.run_folder import RunFolder
from osteomet.training.starting_weights import starting_weights, summarised

DIMS, DEPTHS = (8, 16, 24, 32), (1, 1, 1, 1)


def config() -> Config:
    return tiny_config(learning_rate=1e-12, max_steps=1, validate_every=1)


@pytest.fixture(scope="module")
def flat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A 2D network at random, as transformers saves it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("flat")
    shape = {"hidden_sizes": list(DIMS), "depths": list(DEPTHS)}
    ConvNextV2Model(ConvNextV2Config(**shape)).save_pretrained(folder)
    return folder


def test_2d_file_of_transformers_starts_the_backbone(flat_folder: Path, tmp_path: Path) -> None:
    start = starting_weights(flat_folder / "model.safetensors", config())
    assert start.preprocess is None
    assert start.notes == (NON_COMMERCIAL,)
    assert start.provenance["licence_note"] == NON_COMMERCIAL
    run = trainer(RunFolder(tmp_path), config(), initial=start)
    own = run.learner.model.state_dict()
    assert all(name.startswith("backbone.") for name in start.state)
    assert start.state.keys() >= {name for name in own if name.startswith("backbone.")}
    run.fit()
    end = load_weights(tmp_path / "last.safetensors").model_state
    for name in own.keys() & start.state.keys():
        torch.testing.assert_close(end[name], start.state[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
def test_torch_file_says_the_same_and_runs_no_code(
    flat_folder: Path, tmp_path: Path, wrap: str | None
) -> None:
    start = starting_weights(flat_folder / "model.safetensors", config())
    state = ConvNextV2Model.from_pretrained(flat_folder).state_dict()
    path = tmp_path / "flat.pth"
    torch.save(state if wrap is None else {wrap: state, "epoch": 3}, path)
    again = starting_weights(path, config())
    assert again.state.keys() == start.state.keys()
    assert all(torch.equal(again.state[name], value) for name, value in start.state.items())


class _Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("harm"),))


def test_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": _Harmful()}, tmp_path / "harmful.pt")
    (tmp_path / "text.pt").write_text("no weights")
    for name in ("harmful.pt", "text.pt"):
        with pytest.raises(CheckpointError, match=f"{name}: neither safetensors nor a state dict"):
            starting_weights(tmp_path / name, config())
    assert not (tmp_path / "harm").exists()
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="holds list; expected a state dict"):
        starting_weights(tmp_path / "list.pt", config())
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    with pytest.raises(CheckpointError, match="holds no tensor"):
        starting_weights(tmp_path / "empty.pt", config())
    save_file({"a": torch.ones(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(
        CheckpointError, match="none of its 1 tensors, such as 'a', fits convnextv2"
    ):
        starting_weights(tmp_path / "foreign.safetensors", config())
    with pytest.raises(CheckpointError, match="no weights 'nonsense'"):
        starting_weights("nonsense", config())


def test_pretrained_file_gives_its_backbone_and_its_constants(tmp_path: Path) -> None:
    measured = config().updated({"preprocess.mean_hu": 12.0})
    torch.manual_seed(5)
    state = MaskedAutoencoder(measured).state_dict()
    save_weights(tmp_path / "pretrained.safetensors", state, None, measured, {}, {"step": 7})
    start = starting_weights(tmp_path / "pretrained.safetensors", config())
    assert start.preprocess is not None
    assert start.preprocess.mean_hu == 12.0
    run = trainer(RunFolder(tmp_path / "run"), config(), initial=start)
    own = run.learner.model.state_dict()
    fresh = {name for name in own if name not in start.state}
    assert fresh == {name for name in own if not name.startswith("backbone.")}
    assert all(torch.equal(own[name], state[name]) for name in own.keys() - fresh)
    told = start.told([name for name in own if name in fresh], own)
    assert told == (
        "starting from the weights pretrained; starting anew: neck.*, rpn.*, roi_heads.*, "
        "segmentation.*"
    )


def test_parts_are_told_as_one_only_when_all_of_them_is_new() -> None:
    assert summarised(["a.x", "b.y"], ["a.x", "b.y", "b.z"]) == ["a.*", "b.y"]
    assert summarised([], ["a.x"]) == []
