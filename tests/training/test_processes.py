"""Two processes that share each batch, started as a user starts them."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from osteomet.checkpoint import load_weights
from osteomet.config import Config, load_config
from osteomet.data.loader import PatchLoader
from osteomet.data.manifest import read_cohort
from osteomet.data.patches import PatchSampler
from osteomet.data.store import build_store
from osteomet.models.mask_rcnn import MaskRCNN
from osteomet.simulate import SimulationConfig
from osteomet.simulate.cohort import write_cohort
from osteomet.training.validation import seed_torch

COMMAND = Path(sys.executable).with_name("osteomet")
CONFIG = Path(__file__).parents[2] / "configs" / "tiny.toml"
STEPS = 3

pytestmark = pytest.mark.skipif(
    not COMMAND.is_file(), reason="the command osteomet is not installed beside Python"
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    small = SimulationConfig(field_mm=(60.0, 70.0), lesion_free_share=0.0)
    return write_cohort(folder, 2, seed=5, config=small, splits={"train": 0.5, "val": 0.5})


@pytest.fixture(scope="module")
def run(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared") / "run"
    done = _train(cohort, folder, "--processes", "2")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("finished after step 3") == 1
    return folder


def test_log_holds_the_mean_over_both_processes(cohort: Path, run: Path) -> None:
    config = load_config(run / "config.toml")
    store = build_store(
        read_cohort(cohort).of_split("train"), cohort.parent / "osteomet-store", 2.0
    )
    halves = [_first_losses(config, PatchSampler(store, config, 0), rank) for rank in range(2)]
    logged = _rows(run)[0]
    for name in ("rpn_objectness", "segmentation", "classes", "mask"):
        mean = (halves[0][name] + halves[1][name]) / 2
        assert float(logged[name]) == pytest.approx(mean, rel=1e-4)
    assert halves[0]["segmentation"] != pytest.approx(halves[1]["segmentation"], rel=1e-3)


def _first_losses(config: Config, sampler: PatchSampler, rank: int) -> dict[str, float]:
    seed_torch(0, "weights")
    model = MaskRCNN(config.model, 2.0).train()
    seed_torch(0, "step", 0, rank)
    with PatchLoader(sampler, config.training.batch_size, rank=rank, processes=2) as batches:
        batch = next(batches)
    _, losses = model(batch.images, list(batch.targets))
    return {name: float(value.detach()) for name, value in losses.items()}


def test_one_process_writes(run: Path) -> None:
    assert [row["step"] for row in _rows(run)] == ["1", "2", "3"]
    weights = load_weights(run / "weights.safetensors")
    assert weights.provenance["processes"] == 2
    assert weights.provenance["step"] == STEPS


def test_same_seed_gives_the_same_run(cohort: Path, run: Path, tmp_path: Path) -> None:
    done = _train(cohort, tmp_path / "again", "--processes", "2")
    assert done.returncode == 0, done.stderr
    assert _rows(tmp_path / "again") == _rows(run)
    again = load_weights(tmp_path / "again" / "weights.safetensors").model_state
    before = load_weights(run / "weights.safetensors").model_state
    assert all(torch.equal(again[name], value) for name, value in before.items())


def test_torchrun_starts_the_processes(cohort: Path, run: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = _train(cohort, tmp_path / "run", launcher=torchrun)
    assert done.returncode == 0, done.stderr
    assert _rows(tmp_path / "run") == _rows(run)


def _train(
    cohort: Path, folder: Path, *options: str, launcher: list[str] | None = None
) -> subprocess.CompletedProcess[str]:
    settings = ["--set", f"training.max_steps={STEPS}", "--set", "training.validate_every=3"]
    where = ["train", "--cohort", str(cohort), "--config", str(CONFIG), "-o", str(folder)]
    return subprocess.run(
        [*(launcher or []), str(COMMAND), *where, *settings, *options, "--device", "cpu"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))
