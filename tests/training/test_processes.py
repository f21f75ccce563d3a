"""Two processes that share each batch, started as a user starts them."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from osteomet.checkpoint import load_weights
from osteomet.config import load_config
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


def test_two_processes_give_the_losses_of_one(cohort: Path, run: Path, tmp_path: Path) -> None:
    done = _train(cohort, tmp_path / "alone")
    assert done.returncode == 0, done.stderr
    for alone, shared in zip(_rows(tmp_path / "alone"), _rows(run), strict=True):
        for name, value in alone.items():
            # Sums in another order.
            assert float(shared[name]) == pytest.approx(float(value), rel=1e-5, abs=1e-6), name
    weights = load_weights(tmp_path / "alone" / "weights.safetensors").model_state
    together = load_weights(run / "weights.safetensors").model_state
    seed_torch(0, "weights")
    start = MaskRCNN(load_config(run / "config.toml").model, 2.0)
    moved = sum(float((weights[n] - v).abs().sum()) for n, v in start.state_dict().items())
    apart = sum(float((weights[n] - v).abs().sum()) for n, v in together.items())
    assert apart < 0.05 * moved


def test_a_run_of_two_processes_goes_on_with_one(cohort: Path, run: Path, tmp_path: Path) -> None:
    often = ["--set", "training.checkpoint_every=1"]
    started = subprocess.Popen(_command(cohort, tmp_path / "run", "--processes", "2", *often))
    while not (tmp_path / "run" / "last.ckpt").is_file():
        assert started.poll() is None
        time.sleep(0.05)
    started.send_signal(signal.SIGINT)
    started.wait(120)
    done = _train(cohort, tmp_path / "run", *often, "--resume")
    assert done.returncode == 0, done.stderr
    for resumed, shared in zip(_rows(tmp_path / "run"), _rows(run), strict=True):
        assert float(resumed["loss"]) == pytest.approx(float(shared["loss"]), rel=2e-4)


def test_what_is_wrong_with_the_input_is_told_once(cohort: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "cohort.csv"
    wrong.write_text(cohort.read_text().replace("images/", "nowhere/"))
    done = _train(wrong, tmp_path / "run", "--processes", "2")
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1
    assert "does not exist" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc to find a process")
def test_a_killed_process_ends_the_run_with_one_line_each(cohort: Path, tmp_path: Path) -> None:
    long = ["--processes", "2", "--set", "training.max_steps=100000"]
    started = subprocess.Popen(
        _command(cohort, tmp_path / "run", *long), stderr=subprocess.PIPE, text=True
    )
    while not _lines(tmp_path / "run" / "log.csv"):
        assert started.poll() is None
        time.sleep(0.05)
    tasks = Path(f"/proc/{started.pid}/task")
    (child,) = {int(n) for t in tasks.iterdir() for n in (t / "children").read_text().split()}
    os.kill(child, signal.SIGKILL)
    _, told = started.communicate(timeout=120)
    assert started.returncode == 2
    assert "process 1 of 2 lost another one" in told
    assert "Traceback" not in told


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


def test_without_memory_to_share_gradients_go_through_sockets(
    cohort: Path, run: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os\ndel os.memfd_create\n")
    done = _train(cohort, tmp_path / "run", "--processes", "2", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    for sockets, shared in zip(_rows(tmp_path / "run"), _rows(run), strict=True):
        for name, value in shared.items():
            assert float(sockets[name]) == pytest.approx(float(value), rel=1e-5, abs=1e-6), name


def test_torchrun_starts_the_processes(cohort: Path, run: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = _train(cohort, tmp_path / "run", launcher=torchrun)
    assert done.returncode == 0, done.stderr
    assert _rows(tmp_path / "run") == _rows(run)


def _command(
    cohort: Path, folder: Path, *options: str, launcher: list[str] | None = None
) -> list[str]:
    settings = ["--set", f"training.max_steps={STEPS}", "--set", "training.validate_every=3"]
    # Which negatives are the hardest is a near tie at first, that rounding decides: all may train.
    settings += ["--set", "model.rpn.hard_negative_pool=1000000"]
    where = ["train", "--cohort", str(cohort), "--config", str(CONFIG), "-o", str(folder)]
    return [*(launcher or []), str(COMMAND), *where, *settings, *options, "--device", "cpu"]


def _train(
    cohort: Path,
    folder: Path,
    *options: str,
    launcher: list[str] | None = None,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(cohort, folder, *options, launcher=launcher),
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )


def _lines(file: Path) -> int:
    return file.read_text().count("\n") - 1 if file.is_file() else 0


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))
