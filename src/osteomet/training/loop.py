"""The training loop, explicit because the loop is the method.

A step draws nothing but from generators seeded by (seed, step): a run that was killed and
resumed takes the same steps as one that was not.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor, nn

from osteomet.checkpoint import load_fitting, save_weights
from osteomet.config import Config
from osteomet.data.loader import Batch
from osteomet.data.patches import Patch
from osteomet.errors import ConfigError, TrainingError
from osteomet.training.budget import TIMED_STEPS, Costs, affordable_steps, mean_step_seconds
from osteomet.training.ema import ExponentialMovingAverage
from osteomet.training.interrupt import StopRequest
from osteomet.training.logs import NoLogs, TrainingLogs
from osteomet.training.run_folder import RunFolder
from osteomet.training.schedule import adamw, learning_rate, planned_steps, roi_weight
from osteomet.training.starting_weights import StartingWeights
from osteomet.training.state import Learner, Progress, save_state
from osteomet.training.task import DETECTION, Measurement, Task
from osteomet.training.update import make_update
from osteomet.training.validation import seed_torch

ROI_LOSSES = frozenset({"classes", "box", "attributes", "mask", "mask_dice"})
"""Losses of the RoI heads, which wait for the RPN; the others count fully from the start."""

SKIPPED_IN_A_ROW = 10
"""So many steps without a finite gradient are no accident."""

Batches = Callable[[int], AbstractContextManager[Iterator[Batch]]]
"""Opens the batches from the given step on."""


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What a run learns from and is checked on.

    Attributes:
        batches: opens the endless batches from a step on; that of step k is always the same.
        validation: fixed patches.
        epoch_steps: steps of an epoch.
        cohort_sha256: digest of the scans and their split.
        provenance: what the weights' file tells about the data.
    """

    batches: Batches
    validation: Sequence[Patch]
    epoch_steps: int
    cohort_sha256: str
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        outcome: all steps done, stopped early for want of progress, or interrupted.
        step: steps done.
        best_step: whose validation was the best; its weights are ``weights``.
        best_loss: the validation loss then; infinite before the first validation.
        skipped_steps: steps without an update because a gradient was not finite.
        seconds: wall-clock time of the whole run.
        weights: the weights' file; it does not exist before the first validation.
    """

    outcome: Literal["finished", "stopped early", "interrupted"]
    step: int
    best_step: int
    best_loss: float
    skipped_steps: int
    seconds: float
    weights: Path


class Trainer:
    """One run from its first or resumed step to its end.

    Args:
        fabric: device, precision and processes.
        folder: where the run is kept.
        config: with the HU constants of this run.
        data: patches.
        task: what is learned.
        initial: weights to start from, as far as they fit; None starts from random ones.
        state: of the run to resume, as ``read_state`` gave it.
        started: ``time.perf_counter()`` when the budget began.
        console: for the bar and messages; None is silent.

    Raises:
        ConfigError: the patches do not fit the model's levels.
        CheckpointError: the state, or all of the weights to start from, belong to another model.
    """

    def __init__(  # noqa: PLR0913 - what a run is made of, each named once by its caller
        self,
        fabric: Fabric,
        folder: RunFolder,
        config: Config,
        data: TrainingData,
        *,
        task: Task = DETECTION,
        initial: StartingWeights | None = None,
        state: Mapping[str, Any] | None = None,
        started: float | None = None,
        console: Console | None = None,
    ) -> None:
        self.fabric, self.folder, self.config, self.data = fabric, folder, config, data
        self.task, self.console = task, console
        self.settings = config.training
        self.started = time.perf_counter() if started is None else started
        seed_torch(self.settings.seed, "weights")
        model = task.build(config)
        _check_patch_size(config, cast("int", model.multiple_of))
        if initial is not None and state is None:
            self._start_from(model, initial)
        optimizer = adamw(model, self.settings)
        self.model, self.optimizer = fabric.setup(model, optimizer)
        average = ExponentialMovingAverage(model, self.settings.ema_decay)
        self.learner = Learner(model, average, optimizer)
        self.progress = Progress()
        self.progress.total_steps = planned_steps(data.epoch_steps, self.settings)
        in_epochs = self.settings.epochs is not None
        self.validate_every = data.epoch_steps if in_epochs else self.settings.validate_every
        if state is not None:
            self.learner.load(state, str(folder.state))
            self.progress = Progress(**state["progress"])
        self._update = make_update(fabric, self.learner, self.settings.gradient_clip)
        self._spent_before = self.progress.elapsed_s
        self._skipped_in_a_row = 0
        self._stop, self._stopping = StopRequest(), False
        self._alone = fabric.world_size == 1

    def _start_from(self, model: nn.Module, initial: StartingWeights) -> None:
        fresh = load_fitting(model, initial.state, initial.name)
        if self.console is not None:
            said = initial.told(fresh, model.state_dict())
            self.console.print(said, highlight=False, markup=False, soft_wrap=True)

    def fit(self) -> TrainingResult:
        """Train to the end of the run, or until a signal asks to stop.

        Raises:
            TrainingError: a loss is not finite, or gradients stay so.
            CheckpointError: the disk is full; the last checkpoint is kept.
        """
        progress = self.progress
        logs = self._logs()
        with self._stop, logs, self.data.batches(progress.step) as batches:
            self.model.train()
            while not self._ended() and not self._stopping:
                began = time.perf_counter()
                row = self._step(next(batches))
                self._note_time(time.perf_counter() - began)
                logs.step(progress.step, progress.total_steps, row)
                if progress.total_steps is None and progress.step >= TIMED_STEPS:
                    self._fix_total(logs)
                if self._due(self.validate_every):
                    self._validate(logs)
                if self._due(self.settings.checkpoint_every) or self._ended():
                    self._checkpoint()
                if self._alone:  # nobody to agree with: what came after the step counts, too
                    self._stopping = self._stop.requested
            if self._stopping:
                self._checkpoint()
                logs.say(f"stopped after step {progress.step}; go on with --resume")
        return self._result(interrupted=self._stopping and not self._ended())

    def _logs(self) -> TrainingLogs:
        if not self.fabric.is_global_zero:
            return NoLogs()
        progress = self.progress
        return TrainingLogs(self.folder.path, progress.step, progress.total_steps, self.console)

    def _step(self, batch: Batch) -> dict[str, float]:
        """Take one step and return what the log shows of it."""
        step = self.progress.step
        seed_torch(self.settings.seed, "step", step, self.fabric.global_rank)
        rate = learning_rate(step, self.progress.total_steps, self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate_scale"]
        device = self.fabric.device
        images = batch.images.to(device, non_blocking=True)
        targets = [targets.to(device) for targets in batch.targets]
        losses = self.task.losses(self.model, images, targets)
        self._check_finite(losses, step)
        ramp = roi_weight(step, self.settings)
        loss = torch.stack([v * (ramp if k in ROI_LOSSES else 1) for k, v in losses.items()]).sum()
        self.fabric.backward(loss)
        # a signal may have reached one process only; all stop at the same step
        asked = torch.tensor(float(not self._alone and self._stop.requested), device=device)
        told = torch.stack([loss, *losses.values(), asked]).detach()
        norm, (*means, stop) = self._follow_gradient(told)
        self.progress.step += 1
        self._stopping = stop > 0
        shown = dict(zip(("loss", *losses), means, strict=True))
        return {**shown, "gradient_norm": norm, "learning_rate": rate}

    def _follow_gradient(self, told: Tensor) -> tuple[float, list[float]]:
        """Update the weights, unless the gradient is not finite; return its norm, and means."""
        norm, means = self._update.follow(told)
        if math.isfinite(norm):
            self._skipped_in_a_row = 0
            return norm, means
        self.progress.skipped_steps += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"step {self.progress.step + 1}: the gradient was not finite in "
                f"{SKIPPED_IN_A_ROW} steps in a row; lower training.learning_rate"
            )
        return norm, means

    def _validate(self, logs: TrainingLogs) -> None:
        """Measure the averaged weights, and keep them if they are the best so far."""
        if not self.data.validation:
            return
        result = self._measure(self.data.validation)
        progress = self.progress
        logs.validation(progress.step, result.row())
        sensitivity = _sensitivity(result)
        if self._is_better(result.loss, sensitivity):
            progress.best_loss, progress.best_step = result.loss, progress.step
            progress.best_sensitivity = sensitivity
            progress.stale_validations = 0
            self._save_weights(self.folder.weights, result.row())
        else:
            progress.stale_validations += 1

    def _is_better(self, loss: float, sensitivity: float) -> bool:
        """Say whether a validation beats the best so far, by what the settings monitor."""
        best = self.progress
        if self.settings.monitor == "sensitivity" and sensitivity != best.best_sensitivity:
            return sensitivity > best.best_sensitivity
        return loss < best.best_loss

    def _measure(self, examples: Sequence[Patch]) -> Measurement:
        settings, average = self.settings, self.learner.average.model
        return self.task.measure(self.fabric, average, examples, settings.batch_size, settings.seed)

    def _checkpoint(self) -> None:
        """Write the state, and the averaged weights of this step."""
        self.progress.elapsed_s = self._seconds()
        if self.fabric.is_global_zero:
            save_state(
                self.folder.state,
                self.learner,
                self.progress,
                self.config,
                self.data.cohort_sha256,
            )
        self._save_weights(self.folder.last_weights, {})
        if not self.data.validation:
            self._save_weights(self.folder.weights, {})

    def _save_weights(self, path: Path, metrics: Mapping[str, float]) -> None:
        if not self.fabric.is_global_zero:
            return
        save_weights(
            path,
            self.learner.average.model.state_dict(),
            None,
            self.config,
            {name: value if math.isfinite(value) else None for name, value in metrics.items()},
            {
                "step": self.progress.step,
                "total_steps": self.progress.total_steps,
                "seconds": round(self._seconds(), 1),
                "device": str(self.fabric.device),
                "torch": str(torch.__version__),
                "cohort_sha256": self.data.cohort_sha256,
                **self.data.provenance,
            },
        )

    def _fix_total(self, logs: TrainingLogs) -> None:
        """Turn the wall-clock budget into a number of steps, and save it at once."""
        self._measure(self.data.validation[:1])  # compilers warm up outside the measurement
        began = time.perf_counter()
        self._measure(self.data.validation)
        validated = time.perf_counter()
        self._checkpoint()
        costs = Costs(
            step_s=mean_step_seconds(self.progress.step_seconds),
            validation_s=validated - began,
            checkpoint_s=time.perf_counter() - validated,
        )
        budget_s = 60 * (self.settings.budget_minutes or 0.0)
        progress = self.progress
        progress.total_steps = int(
            self.fabric.broadcast(
                affordable_steps(budget_s, self._seconds(), progress.step, costs, self.settings)
            )
        )
        logs.say(
            f"{self.settings.budget_minutes:g} minutes are {progress.total_steps} steps of "
            f"{costs.step_s:.2f} s, with validations of {costs.validation_s:.1f} s"
        )
        self._checkpoint()

    def _ended(self) -> bool:
        total = self.progress.total_steps
        return (total is not None and self.progress.step >= total) or self._stale()

    def _stale(self) -> bool:
        return 0 < self.settings.patience <= self.progress.stale_validations

    def _due(self, every: int) -> bool:
        return self.progress.step % every == 0 or self.progress.step == self.progress.total_steps

    def _note_time(self, seconds: float) -> None:
        if self.progress.total_steps is None:
            self.progress.step_seconds.append(seconds)

    def _seconds(self) -> float:
        return self._spent_before + time.perf_counter() - self.started

    def _check_finite(self, losses: Mapping[str, Tensor], step: int) -> None:
        if torch.isfinite(torch.stack(list(losses.values()))).all():
            return
        for name, value in losses.items():
            if not torch.isfinite(value):
                raise TrainingError(
                    f"step {step + 1}: the loss {name!r} is {value.item()}; check the values of "
                    "the training scans, or lower training.learning_rate"
                )

    def _result(self, interrupted: bool) -> TrainingResult:
        progress = self.progress
        if interrupted:
            outcome: Literal["finished", "stopped early", "interrupted"] = "interrupted"
        else:
            outcome = "stopped early" if self._stale() else "finished"
        return TrainingResult(
            outcome=outcome,
            step=progress.step,
            best_step=progress.best_step,
            best_loss=progress.best_loss,
            skipped_steps=progress.skipped_steps,
            seconds=self._seconds(),
            weights=self.folder.weights,
        )


def _sensitivity(result: Measurement) -> float:
    """Return the sensitivity; 0 where there is none: without a lesion, or in pretraining."""
    value = result.row().get("sensitivity", math.nan)
    return 0.0 if math.isnan(value) else value


def _check_patch_size(config: Config, multiple_of: int) -> None:
    if any(side % multiple_of for side in config.data.patch_size):
        raise ConfigError(
            f"data.patch_size is {config.data.patch_size}; expected multiples of {multiple_of}, "
            "the stride of the coarsest of model.neck.levels"
        )
