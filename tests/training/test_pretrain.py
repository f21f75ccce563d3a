"""The command's whole way: scans without labels, a run that resumes, a picture, a detector."""

import csv
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from spheres import tiny_config
from typer.testing import CliRunner

import osteomet
from osteomet.checkpoint import DEFAULT_WEIGHTS, load_weights
from osteomet.cli.app import build_app
from osteomet.config import Config, load_config
from osteomet.errors import CheckpointError, ConfigError, InputError
from osteomet.io.volumes import write_labels, write_volume
from osteomet.training.loop import Trainer
from osteomet.training.pretrain import find_images, picture, pretrain
from osteomet.training.run import train
from osteomet.volume import Volume

SIDE, SCANS = 40, 3


def config(**training: object) -> Config:
    return tiny_config(batch_size=2, **training).updated({"pretraining.decoder_channels": 8})


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for number in range(SCANS):
        hu = np.random.default_rng(number).normal(100, 30, (SIDE,) * 3)
        hu[10 + 3 * number : 30, 10:30, 10:30] += 400
        write_volume(folder / f"{number}.nii.gz", Volume(hu.astype(np.int16), np.eye(4)))
    return folder


@pytest.fixture(scope="module")
def run(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    result = pretrain([scans], config(), folder, device="cpu", provenance={"command": "a test"})
    assert (result.outcome, result.step) == ("finished", 6)
    return folder


def rows(folder: Path, name: str = "log.csv") -> list[dict[str, str]]:
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_run_leaves_its_files(run: Path, scans: Path) -> None:
    assert {path.name for path in run.iterdir()} == {
        "config.toml", "images.csv", "warnings.txt", "log.csv", "validation.csv", "tensorboard",
        "last.ckpt", "weights.safetensors", "last.safetensors", "reconstructions.png",
    }  # fmt: skip
    images = rows(run, "images.csv")
    assert [row["path"] for row in images] == [str(scans / f"{n}.nii.gz") for n in range(SCANS)]
    assert sorted(row["use"] for row in images) == ["learning", "learning", "measuring"]
    assert len(rows(run)) == 6
    assert [row["step"] for row in rows(run, "validation.csv")] == ["3", "6"]
    weights = load_weights(run / "weights.safetensors")
    assert weights.config == load_config(run / "config.toml")
    assert weights.provenance["pretrained_on_images"] == 2
    assert weights.provenance["command"] == "a test"
    assert weights.metrics["loss"] == min(float(row["loss"]) for row in rows(run, "validation.csv"))


def test_picture_shows_image_visible_cubes_and_reconstruction(run: Path) -> None:
    with Image.open(run / "reconstructions.png") as opened:
        pixels = np.asarray(opened)
    side = 32 * 3
    assert pixels.shape == (2 * side + 6, 3 * side + 2 * 6)
    image, seen, filled = (
        pixels[:side, start : start + side] for start in (0, side + 6, 2 * side + 12)
    )
    hidden = (seen == 90) & (image != 90)
    assert 0 < hidden.mean() < 1
    assert (image == filled)[~hidden].all()
    assert (image != filled)[hidden].mean() > 0.5


def test_interrupted_run_resumes_to_the_same_numbers(
    run: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer._step

    def interrupted(self: Trainer, batch: object) -> dict[str, float]:
        if self.progress.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch)  # type: ignore[arg-type] - what the loop gave

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", interrupted)
        result = pretrain([scans], config(), tmp_path, device="cpu")
    assert (result.outcome, result.step) == ("interrupted", 4)
    torch.manual_seed(99)
    assert pretrain([scans], config(), tmp_path, resume=True, device="cpu").step == 6
    assert rows(tmp_path) == rows(run)
    assert rows(tmp_path, "validation.csv") == rows(run, "validation.csv")
    for name in ("weights.safetensors", "last.safetensors"):
        again, before = load_weights(tmp_path / name), load_weights(run / name)
        assert all(torch.equal(again.model_state[k], v) for k, v in before.model_state.items())
    assert (tmp_path / "reconstructions.png").read_bytes() == (
        run / "reconstructions.png"
    ).read_bytes()


def test_other_scans_or_settings_are_not_resumed(run: Path, scans: Path) -> None:
    fewer = [scans / "0.nii.gz", scans / "1.nii.gz"]
    with pytest.raises(CheckpointError, match="another cohort or split"):
        pretrain(fewer, config(), run, resume=True, device="cpu")
    other = config().updated({"pretraining.mask_ratio": 0.5})
    with pytest.raises(CheckpointError, match=r"pretraining\.mask_ratio \(was 0\.6, now 0\.5\)"):
        pretrain([scans], other, run, resume=True, device="cpu")
    with pytest.raises(CheckpointError, match="add --resume"):
        pretrain([scans], config(), run, device="cpu")


def test_detector_starts_from_the_backbone(run: Path, tmp_path: Path) -> None:
    lines = ["patient_id,image,mask,centre,primary,split"]
    for number, split in enumerate(("train", "val")):
        hu = np.random.default_rng(number).normal(100, 30, (SIDE,) * 3).astype(np.int16)
        lesion = np.zeros(hu.shape, np.int16)
        lesion[15:22, 15:22, 15:22] = 1
        write_volume(tmp_path / f"{number}.nii.gz", Volume(hu, np.eye(4)))
        write_labels(tmp_path / f"{number}m.nii.gz", Volume(lesion, np.eye(4)))
        lines.append(f"p{number},{number}.nii.gz,{number}m.nii.gz,here,lung,{split}")
    (tmp_path / "cohort.csv").write_text("\n".join(lines))
    still = tiny_config(learning_rate=1e-12, max_steps=1)
    weights = run / "weights.safetensors"
    train(tmp_path / "cohort.csv", still, tmp_path / "run", init=weights, device="cpu")
    before, after = load_weights(weights), load_weights(tmp_path / "run" / "last.safetensors")
    names = [name for name in after.model_state if name.startswith("backbone.")]
    assert names
    for name in names:
        torch.testing.assert_close(
            after.model_state[name], before.model_state[name], rtol=0, atol=1e-6
        )
    assert after.config.preprocess == before.config.preprocess
    assert after.provenance["init"]["pretrained_on_images"] == 2


def test_a_single_scan_is_measured_on_itself(scans: Path, tmp_path: Path) -> None:
    result = pretrain([scans / "0.nii.gz"], config(max_steps=1), tmp_path, device="cpu")
    assert result.best_step == 1
    assert [row["use"] for row in rows(tmp_path, "images.csv")] == ["learning"]


def test_budget_fixes_the_number_of_steps(scans: Path, tmp_path: Path) -> None:
    short = config(budget_minutes=0.001, validate_every=100, checkpoint_every=100)
    assert pretrain([scans / "0.nii.gz"], short, tmp_path, device="cpu").step == 30


def test_backbones_without_a_mask_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    other = config().updated({"model.backbone.name": "resnet18"})
    with pytest.raises(ConfigError, match="resnet18; pretraining hides cells"):
        pretrain([tmp_path / "missing.nii.gz"], other, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_images_are_files_folders_of_files_or_dicom_folders(scans: Path, tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "1.dcm").touch()
    files = [scans / f"{number}.nii.gz" for number in range(SCANS)]
    assert find_images([scans, tmp_path / "series"]) == [*files, tmp_path / "series"]
    with pytest.raises(InputError, match=r"0\.nii\.gz: is given twice"):
        find_images([scans, scans / "0.nii.gz"])
    with pytest.raises(InputError, match="no such file or folder"):
        find_images([tmp_path / "none"])
    with pytest.raises(InputError, match="no scan is given"):
        find_images([])


def test_picture_of_a_detector_is_refused() -> None:
    with pytest.raises(CheckpointError, match="is missing; the weights belong to another model"):
        picture(bundled_path(), [])


def bundled_path() -> Path:
    return Path(osteomet.__file__).parent / "weights" / f"{DEFAULT_WEIGHTS}.safetensors"


def test_command_reaches_the_run(run: Path, scans: Path, tmp_path: Path) -> None:
    arguments = ["pretrain", str(scans / "0.nii.gz"), "-o", str(tmp_path / "run")]
    settings = ["--config", str(run / "config.toml"), "--set", "training.max_steps=1"]
    done = CliRunner().invoke(
        build_app(), [*arguments, *settings, "--device", "cpu"], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert (tmp_path / "run" / "reconstructions.png").is_file()
