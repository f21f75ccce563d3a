import csv
import hashlib
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from spheres import tiny_config

from osteomet.checkpoint import load_fitting, load_weights
from osteomet.config import load_config
from osteomet.data.manifest import read_cohort
from osteomet.errors import CheckpointError, ConfigError, InputError
from osteomet.io.volumes import write_labels, write_volume
from osteomet.models.mask_rcnn import MaskRCNN
from osteomet.training.run import train
from osteomet.volume import Volume

SIDE = 40
PATIENTS = 4


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four patients, each a block of tissue with one sphere; the last one has none."""
    folder = tmp_path_factory.mktemp("cohort")
    rows = ["patient_id,image,mask,centre,primary"]
    for patient in range(PATIENTS):
        rng = np.random.default_rng(patient)
        hu = rng.normal(100, 30, (SIDE,) * 3)
        distance = np.linalg.norm(np.indices(hu.shape).T - rng.uniform(12, SIDE - 12, 3), axis=-1).T
        lesion = (distance < 5) & (patient < PATIENTS - 1)
        hu[lesion] += 600
        write_volume(folder / f"{patient}.nii.gz", Volume(hu.astype(np.int16), np.eye(4)))
        write_labels(folder / f"{patient}m.nii.gz", Volume(lesion.astype(np.int16), np.eye(4)))
        rows.append(f"p{patient},{patient}.nii.gz,{patient}m.nii.gz,here,lung")
    (folder / "cohort.csv").write_text("\n".join(rows))
    return folder / "cohort.csv"


@pytest.fixture(scope="module")
def run(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    result = train(cohort, tiny_config(), folder, device="cpu", provenance={"command": "a test"})
    assert (result.outcome, result.step) == ("finished", 6)
    return folder


def test_run_can_be_read_repeated_and_used(cohort: Path, run: Path) -> None:
    weights = load_weights(run / "weights.safetensors")
    assert weights.config == load_config(run / "config.toml")
    assert weights.provenance["command"] == "a test"
    assert weights.provenance["training_scans"] == PATIENTS - 1
    assert weights.sha256 == hashlib.sha256((run / "weights.safetensors").read_bytes()).hexdigest()
    assert tomllib.loads((run / "config.toml").read_text())["training"]["max_steps"] == 6
    assert (run / "warnings.txt").read_text() == ""
    assert len(_losses(run)) == 6


def test_split_is_made_and_written(cohort: Path, run: Path) -> None:
    written, kept = read_cohort(cohort), read_cohort(run / "cohort.csv")
    splits = sorted(case.split or "" for case in written.cases)
    assert splits == ["train"] * (PATIENTS - 1) + ["val"]
    assert [c.split for c in written.cases] == [c.split for c in kept.cases]
    assert [c.image.resolve() for c in written.cases] == [c.image for c in kept.cases]


def test_constants_come_from_the_training_scans(run: Path) -> None:
    preprocess = load_config(run / "config.toml").preprocess
    assert preprocess.mean_hu == pytest.approx(104, abs=3)  # 100 and some brighter spheres
    assert 30 < preprocess.std_hu < 70


def test_same_seed_in_another_folder_gives_the_same_run(
    cohort: Path, run: Path, tmp_path: Path
) -> None:
    train(cohort, tiny_config().updated({"data.workers": 3}), tmp_path / "again", device="cpu")
    assert _losses(tmp_path / "again") == _losses(run)


def test_interrupted_run_goes_on_with_the_same_patches(
    cohort: Path, run: Path, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("osteomet.training.loop.StopRequest", _StopAfterThree)
        result = train(cohort, tiny_config(), tmp_path, device="cpu")
    assert (result.outcome, result.step) == ("interrupted", 3)
    # the cohort in the folder is the same one
    result = train(tmp_path / "cohort.csv", tiny_config(), tmp_path, resume=True, device="cpu")
    assert result.outcome == "finished"
    assert _losses(tmp_path) == _losses(run)


def test_hard_places_are_part_of_what_a_run_depends_on(
    cohort: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config().updated({"data.lesion_fraction": 0.0})
    with pytest.raises(InputError, match=r"findings\.json: is missing"):
        train(cohort, config, tmp_path / "none", hard_places=tmp_path, device="cpu")
    boxes = np.array([[12.0, 12, 12, 20, 20, 20]])
    monkeypatch.setattr(
        "osteomet.training.run.false_positives",
        lambda folder, scans: {scan.case.scan_id: boxes for scan in scans},
    )
    train(cohort, config, tmp_path / "run", hard_places=tmp_path, device="cpu")
    assert _losses(tmp_path / "run") != _losses(run)
    with pytest.raises(CheckpointError, match="and the same --hard-places"):
        train(cohort, config, tmp_path / "run", resume=True, device="cpu")


class _StopAfterThree:
    def __init__(self) -> None:
        self.asked = 0

    def __enter__(self) -> "_StopAfterThree":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def requested(self) -> bool:
        self.asked += 1
        return self.asked > 2


def test_other_settings_or_scans_are_not_resumed(cohort: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"training\.learning_rate \(was .*, now 0\.5\)"):
        train(cohort, tiny_config(learning_rate=0.5), run, resume=True, device="cpu")
    fewer = tmp_path / "cohort.csv"
    lines = (run / "cohort.csv").read_text().splitlines()
    fewer.write_text("\n".join(line for line in lines if not line.startswith("p0,")))
    with pytest.raises(CheckpointError, match="another cohort or split"):
        train(fewer, tiny_config(), run, resume=True, device="cpu")


def test_finished_run_is_not_overwritten(cohort: Path, run: Path) -> None:
    with pytest.raises(CheckpointError, match="add --resume"):
        train(cohort, tiny_config(), run, device="cpu")


def test_side_without_scans_is_refused(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "cohort.csv"
    alone.write_text((run / "cohort.csv").read_text().replace(",val,", ",train,"))
    with pytest.raises(InputError, match="no scan has split 'val'"):
        train(alone, tiny_config(), tmp_path / "run", device="cpu")


def test_run_goes_on_from_given_weights(cohort: Path, run: Path, tmp_path: Path) -> None:
    start = load_weights(run / "weights.safetensors")
    still = tiny_config(learning_rate=1e-12, max_steps=1)
    config = still.updated({"preprocess.window_hu": [-200.0, 900.0]})
    train(cohort, config, tmp_path, init=run / "weights.safetensors", device="cpu")
    end = load_weights(tmp_path / "last.safetensors")
    for name, value in start.model_state.items():
        torch.testing.assert_close(end.model_state[name], value, rtol=0, atol=1e-6)
    # the constants too: the first layer knows HU by them
    assert end.config.preprocess.mean_hu == start.config.preprocess.mean_hu
    assert end.config.preprocess.std_hu == start.config.preprocess.std_hu
    assert end.provenance["init"]["sha256"] == start.sha256
    assert end.provenance["init"]["command"] == "a test"


def test_run_resumes_without_starting_over(cohort: Path, run: Path, tmp_path: Path) -> None:
    start = run / "weights.safetensors"
    train(cohort, tiny_config(), tmp_path / "whole", init=start, device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("osteomet.training.loop.StopRequest", _StopAfterThree)
        train(cohort, tiny_config(), tmp_path / "cut", init=start, device="cpu")
    # what it began with need not be there any more, and is still told
    train(cohort, tiny_config(), tmp_path / "cut", resume=True, device="cpu")
    assert _losses(tmp_path / "cut") == _losses(tmp_path / "whole")
    assert _losses(tmp_path / "cut") != _losses(run)
    told = load_weights(tmp_path / "cut" / "last.safetensors").provenance["init"]
    assert told["sha256"] == load_weights(start).sha256


def test_what_a_model_lacks_starts_anew(run: Path) -> None:
    start = load_weights(run / "weights.safetensors")
    wider = start.config.updated({"model.box_head.hidden": 24})
    torch.manual_seed(0)
    model = MaskRCNN(wider.model, 1.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fresh = load_fitting(model, start.model_state, "first")
    assert "roi_heads.box_head.layers.0.weight" in fresh
    assert all(name.startswith("roi_heads.box_head") for name in fresh)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name] if name in fresh else start.model_state[name])


def test_weights_of_which_nothing_fits_are_refused(run: Path) -> None:
    start = load_weights(run / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"first: none of its \d+ tensors has the name"):
        load_fitting(torch.nn.Linear(3, 3), start.model_state, "first")


def test_patches_that_do_not_fit_the_levels_are_refused(cohort: Path, tmp_path: Path) -> None:
    config = tiny_config().updated({"data.patch_size": [36, 36, 36]})
    with pytest.raises(ConfigError, match="expected multiples of 8"):
        train(cohort, config, tmp_path, device="cpu")


def _losses(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))
