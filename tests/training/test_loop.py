import csv
import dataclasses
import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from spheres import cpu, sphere_data, tiny_config, trainer

from osteomet.checkpoint import load_into, load_weights
from osteomet.data.loader import Batch
from osteomet.errors import CheckpointError, ConfigError, TrainingError
from osteomet.models.mask_rcnn import MaskRCNN
from osteomet.training.fabric import make_fabric
from osteomet.training.logs import TrainingLogs
from osteomet.training.loop import SKIPPED_IN_A_ROW, Trainer
from osteomet.training.run_folder import RunFolder
from osteomet.training.state import read_state
from osteomet.training.validation import Validation

Rows = list[dict[str, str]]


def rows(folder: Path, name: str = "log.csv") -> Rows:
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of 6 steps."""
    path = tmp_path_factory.mktemp("run")
    result = trainer(RunFolder(path), tiny_config()).fit()
    assert (result.outcome, result.step) == ("finished", 6)
    return path


def test_run_leaves_its_files_and_weights_that_load(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {
        "log.csv",
        "validation.csv",
        "tensorboard",
        "last.ckpt",
        "weights.safetensors",
        "last.safetensors",
    }
    loaded = load_weights(finished / "weights.safetensors")
    assert loaded.config == tiny_config()
    assert loaded.metrics["loss"] == min(float(r["loss"]) for r in rows(finished, "validation.csv"))
    model = MaskRCNN(loaded.config.model, loaded.config.preprocess.spacing_mm)
    load_into(model, loaded.model_state, "weights")
    found, _ = model.eval()(torch.zeros(1, 1, 32, 32, 32))
    assert len(found) == 1


def test_two_runs_are_identical(finished: Path, tmp_path: Path) -> None:
    trainer(RunFolder(tmp_path), tiny_config()).fit()
    assert rows(tmp_path) == rows(finished)
    assert rows(tmp_path, "validation.csv") == rows(finished, "validation.csv")


def test_another_seed_is_another_run(finished: Path, tmp_path: Path) -> None:
    trainer(RunFolder(tmp_path), tiny_config(seed=1, max_steps=1)).fit()
    assert rows(tmp_path)[0]["loss"] != rows(finished)[0]["loss"]


def test_loss_is_the_ramped_sum_of_its_terms(finished: Path) -> None:
    for step, row in enumerate(rows(finished)):
        ramp = min(1.0, (step + 1) / 4)
        terms = {k: float(v) for k, v in row.items() if k not in _NOT_TERMS}
        heads = sum(terms.pop(name) for name in ("classes", "box", "mask", "mask_dice"))
        assert float(row["loss"]) == pytest.approx(sum(terms.values()) + ramp * heads, rel=1e-5)


_NOT_TERMS = ("step", "loss", "gradient_norm", "learning_rate")


def test_killed_run_resumes_to_the_same_losses(tmp_path: Path) -> None:
    """All three runs are processes of their own, as a user's are.

    A process that ran many other tests before may round the last bit of a matrix product
    otherwise, which says nothing about resuming.
    """
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    assert _finish(whole) == "finished 6"
    _kill_after_a_checkpoint(killed)
    assert 0 < read_state(killed / "last.ckpt")["progress"]["step"] < 6
    assert _finish(killed) == "finished 6"
    assert rows(killed) == rows(whole)
    assert rows(killed, "validation.csv") == rows(whole, "validation.csv")
    for name in ("weights.safetensors", "last.safetensors"):
        again, before = load_weights(killed / name), load_weights(whole / name)
        assert all(torch.equal(again.model_state[k], v) for k, v in before.model_state.items())


_FINISHED_RUN = """
import sys
from pathlib import Path

import torch
from spheres import tiny_config, trainer
from osteomet.training.run_folder import RunFolder
from osteomet.training.state import read_state

folder = Path(sys.argv[1])
torch.set_num_threads(int(sys.argv[2]))
checkpoint = folder / "last.ckpt"
more = {"state": read_state(checkpoint)} if checkpoint.exists() else {}
# torch's generator stands elsewhere in a resumed run
torch.manual_seed(321 if more else 123)
result = trainer(RunFolder(folder), tiny_config(), **more).fit()
print(result.outcome, result.step)
"""


def _finish(folder: Path) -> str:
    """Run or resume to the end in another process; return how it ended."""
    done = subprocess.run(
        _command(_FINISHED_RUN, folder), env=_environment(), check=True, capture_output=True,
        text=True,
    )  # fmt: skip
    return done.stdout.strip()


def _command(script: str, folder: Path) -> list[str]:
    return [sys.executable, "-c", script, str(folder), str(torch.get_num_threads())]


def _environment() -> dict[str, str]:
    paths = [str(Path(__file__).parent), *sys.path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


_KILLED_RUN = """
import sys
import time
from pathlib import Path

import torch
from spheres import tiny_config, trainer
from osteomet.training.run_folder import RunFolder

torch.set_num_threads(int(sys.argv[2]))
run = trainer(RunFolder(Path(sys.argv[1])), tiny_config(checkpoint_every=3))
step = run._step

def wait_after_the_checkpoint(batch):
    if run.progress.step == 4:
        print("step 4", flush=True)
        time.sleep(60)
    return step(batch)

run._step = wait_after_the_checkpoint
run.fit()
"""


def _kill_after_a_checkpoint(folder: Path) -> None:
    """Run in another process; kill it in its fifth step, after a checkpoint at its third."""
    with subprocess.Popen(
        _command(_KILLED_RUN, folder),
        env=_environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        line = process.stdout.readline() if process.stdout else ""
        process.kill()
    assert line == "step 4\n"
    assert [row["step"] for row in rows(folder)] == ["1", "2", "3", "4"]
    assert read_state(folder / "last.ckpt")["progress"]["step"] == 3
    # as it happens when the system stops in the middle of a row
    with (folder / "log.csv").open("a") as file:
        file.write("5,0.3")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_finishes_the_step_and_writes_a_checkpoint(
    finished: Path, tmp_path: Path, number: signal.Signals, request: pytest.FixtureRequest
) -> None:
    # A shell that starts pytest in the background lets it ignore the interrupt key.
    ignored = signal.signal(number, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(number, ignored))
    run = trainer(RunFolder(tmp_path), tiny_config())
    step = run._step

    def interrupted(batch: Batch) -> dict[str, float]:
        if run.progress.step == 2:
            os.kill(os.getpid(), number)
        return step(batch)

    run._step = interrupted  # type: ignore[method-assign] - to send the signal at a known step
    result = run.fit()
    assert (result.outcome, result.step) == ("interrupted", 3)
    assert rows(tmp_path) == rows(finished)[:3]
    state = read_state(tmp_path / "last.ckpt")
    assert trainer(RunFolder(tmp_path), tiny_config(), state=state).fit().step == 6
    assert rows(tmp_path) == rows(finished)
    assert signal.getsignal(number) is signal.default_int_handler


def test_budget_fixes_the_total_once_and_resuming_keeps_it(tmp_path: Path) -> None:
    config = tiny_config(budget_minutes=0.001, validate_every=100, checkpoint_every=100)
    result = trainer(RunFolder(tmp_path), config).fit()
    assert result.step == 30  # already spent when it is fixed
    state = read_state(tmp_path / "last.ckpt")
    assert state["progress"]["total_steps"] == 30
    state["progress"]["total_steps"] = 31  # whatever was saved is kept
    again = trainer(RunFolder(tmp_path), config, state=state)
    assert again.fit().step == 31


def test_run_stopped_before_its_total_is_fixed_goes_on_timing(tmp_path: Path) -> None:
    config = tiny_config(budget_minutes=0.001, validate_every=100, checkpoint_every=4)
    run = trainer(RunFolder(tmp_path), config)
    run._note_time = lambda _: run.progress.step_seconds.append(  # type: ignore[method-assign] - to stop there
        _terminate() if run.progress.step == 7 else 1.0
    )
    assert run.fit().step == 7
    state = read_state(tmp_path / "last.ckpt")
    assert state["progress"]["total_steps"] is None
    assert len(state["progress"]["step_seconds"]) == 7
    assert trainer(RunFolder(tmp_path), config, state=state).fit().step == 30


def _terminate() -> float:
    os.kill(os.getpid(), signal.SIGTERM)
    return 1.0


def test_budget_is_kept_within_a_few_steps(tmp_path: Path) -> None:
    config = tiny_config(budget_minutes=10.0, validate_every=100, checkpoint_every=100)
    run = trainer(RunFolder(tmp_path), config)
    run.progress.step, run.progress.step_seconds = 30, [9.0] * 5 + [2.0] * 25
    run.started = time.perf_counter() - 100
    with _silent_logs(tmp_path) as logs:
        run._fix_total(logs)
    # 500 s of 2 s a step, less some tiny validations
    assert run.progress.total_steps is not None
    assert 255 < run.progress.total_steps <= 280
    assert read_state(tmp_path / "last.ckpt")["progress"]["total_steps"] == run.progress.total_steps


def _silent_logs(folder: Path) -> TrainingLogs:
    return TrainingLogs(folder, 0, None, console=None)


def test_early_stopping_counts_validations_without_a_better_loss(tmp_path: Path) -> None:
    losses = iter([3.0, 2.0, 2.5, 2.0, 1.0, 1.0])
    run = trainer(RunFolder(tmp_path), tiny_config(validate_every=1, patience=2))
    run._measure = lambda _: Validation({"box": next(losses)}, 0.5, 0.5)  # type: ignore[method-assign] - to set the losses
    result = run.fit()
    assert (result.outcome, result.step, result.best_step) == ("stopped early", 4, 2)
    assert read_state(tmp_path / "last.ckpt")["progress"]["stale_validations"] == 2
    assert load_weights(tmp_path / "weights.safetensors").provenance["step"] == 2
    # a run that ended so has nothing left to resume
    state = read_state(tmp_path / "last.ckpt")
    again = trainer(RunFolder(tmp_path), tiny_config(validate_every=1, patience=2), state=state)
    assert again.fit().step == 4


def test_patch_without_a_lesion_trains(tmp_path: Path) -> None:
    result = trainer(RunFolder(tmp_path), tiny_config(max_steps=3), lesions=0).fit()
    assert result.step == 3
    assert all(math.isfinite(float(row["loss"])) for row in rows(tmp_path))
    assert all(math.isfinite(float(row["gradient_norm"])) for row in rows(tmp_path))
    assert rows(tmp_path, "validation.csv")[0]["sensitivity"] == "nan"


def test_nan_in_the_loss_names_step_and_term(tmp_path: Path) -> None:
    run = trainer(RunFolder(tmp_path), tiny_config())
    with torch.no_grad():
        next(run.learner.model.rpn.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"step 1: the loss 'rpn_\w+' is nan"):
        run.fit()


def test_gradient_that_is_not_finite_is_skipped_and_counted(tmp_path: Path) -> None:
    run = trainer(RunFolder(tmp_path), tiny_config(max_steps=2))
    weight = run.learner.model.backbone.parameters().__next__()
    hook = weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weight.detach().clone()
    run.progress.total_steps = 1
    assert run.fit().skipped_steps == 1
    assert torch.equal(weight, before)
    assert run.learner.average.updates == 0
    run.progress.total_steps = 2
    hook.remove()
    assert run.fit().skipped_steps == 1
    assert not torch.equal(weight, before)


def test_gradients_that_stay_infinite_stop_the_run(tmp_path: Path) -> None:
    run = trainer(RunFolder(tmp_path), tiny_config(max_steps=50, checkpoint_every=100))
    weight = next(run.learner.model.backbone.parameters())
    weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match=f"not finite in {SKIPPED_IN_A_ROW} steps in a row"):
        run.fit()


def test_full_disk_stops_with_the_previous_checkpoint_kept(finished: Path, tmp_path: Path) -> None:
    run = trainer(RunFolder(tmp_path), tiny_config())
    step = run._step

    def full_from_the_fourth(batch: Batch) -> dict[str, float]:
        if run.progress.step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        return step(batch)

    run._step = full_from_the_fourth  # type: ignore[method-assign] - the disk fills at a known step
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(CheckpointError, match=r"last\.ckpt: cannot be written .* is kept"):
            run.fit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    state = read_state(tmp_path / "last.ckpt")
    assert state["progress"]["step"] == 2
    trainer(RunFolder(tmp_path), tiny_config(), state=state).fit()
    assert rows(tmp_path) == rows(finished)


def test_unusable_device_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"device 'abacus' is not available here; .* cpu"):
        make_fabric("abacus", "auto")


def test_run_is_not_overwritten_and_nothing_is_not_resumed(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="already holds a run; add --resume"):
        RunFolder(finished).open(resume=False)
    with pytest.raises(CheckpointError, match=r"no last\.ckpt to resume"):
        RunFolder(tmp_path).open(resume=True)


def test_without_validation_patches_the_newest_weights_count(tmp_path: Path) -> None:
    data = dataclasses.replace(sphere_data(), validation=())
    Trainer(cpu(), RunFolder(tmp_path), tiny_config(max_steps=2), data).fit()
    assert load_weights(tmp_path / "weights.safetensors").provenance["step"] == 2


def test_epochs_set_length_and_validations(tmp_path: Path) -> None:
    """An epoch of the spheres is two steps."""
    result = trainer(RunFolder(tmp_path), tiny_config(epochs=2, max_steps=99)).fit()
    assert (result.outcome, result.step) == ("finished", 4)
    assert [row["step"] for row in rows(tmp_path, "validation.csv")] == ["2", "4"]


def test_epochs_beside_minutes_are_refused() -> None:
    with pytest.raises(ConfigError, match="epochs is 2 and budget_minutes 3; expected one"):
        tiny_config(epochs=2, budget_minutes=3.0)


def test_sensitivity_decides_and_the_loss_among_equals(tmp_path: Path) -> None:
    measured = iter([(3.0, 0.5), (1.0, 0.4), (2.0, 0.5), (2.5, 0.5), (9.0, math.nan), (9.0, 0.6)])

    def validation(_: object) -> Validation:
        loss, sensitivity = next(measured)
        return Validation({"box": loss}, sensitivity, 0.5)

    settings = {"validate_every": 1, "patience": 4, "monitor": "sensitivity"}
    run = trainer(RunFolder(tmp_path), tiny_config(**settings, max_steps=4))
    run._measure = validation  # type: ignore[method-assign] - to set what is measured
    result = run.fit()
    assert (result.best_step, result.best_loss) == (3, 2.0)
    state = read_state(tmp_path / "last.ckpt")
    state["progress"]["total_steps"] = 6
    again = trainer(RunFolder(tmp_path), tiny_config(**settings, max_steps=4), state=state)
    again._measure = validation  # type: ignore[method-assign] - to set what is measured
    assert (again.fit().best_step, again.progress.best_sensitivity) == (6, 0.6)
