"""The training state on disk: all that a resumed run needs to go on as if never stopped."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn, optim

from osteomet.checkpoint import load_into, replace_file
from osteomet.config import Config, parse_kept_config
from osteomet.errors import CheckpointError, ConfigError
from osteomet.training.ema import ExponentialMovingAverage

STATE_VERSION = 1

# They change how fast and how often, never what is learned; the HU constants are measured
# when a run starts and are taken from its state afterwards.
FREE_SETTINGS = frozenset(
    {
        "data.workers",
        "training.checkpoint_every",
        "preprocess.mean_hu",
        "preprocess.std_hu",
    }
)


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        step: steps done.
        total_steps: after which the run ends; None until a wall-clock budget has fixed it.
        best_loss: validation loss of the best validation so far.
        best_sensitivity: its sensitivity.
        best_step: at which it was reached.
        stale_validations: validations since then.
        skipped_steps: steps without an update because a gradient was not finite.
        elapsed_s: wall-clock seconds in all processes of the run up to the last checkpoint.
        step_seconds: of the first steps, from which a budget fixes the total.
    """

    step: int = 0
    total_steps: int | None = None
    best_loss: float = float("inf")
    best_sensitivity: float = -1.0
    best_step: int = 0
    stale_validations: int = 0
    skipped_steps: int = 0
    elapsed_s: float = 0.0
    step_seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Learner:
    """What learns: the model, its average and the optimiser, saved and loaded together."""

    model: nn.Module
    average: ExponentialMovingAverage
    optimizer: optim.Optimizer

    def state(self) -> dict[str, Any]:
        """Return plain dicts of numbers and of tensors with memory of their own."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict(),
            "average_updates": self.average.updates,
            "optimizer": self.optimizer.state_dict(),
        }
        copied: dict[str, Any] = _copy(state)  # saved as they are, all of a shared memory would go
        return copied

    def load(self, state: Mapping[str, Any], where: str) -> None:
        """Take over what ``state`` returned.

        Raises:
            CheckpointError: it belongs to another model.
        """
        load_into(self.model, state["model"], where)
        load_into(self.average.model, state["average"], where)
        self.average.updates = state["average_updates"]
        self.optimizer.load_state_dict(state["optimizer"])


def save_state(
    path: Path, learner: Learner, progress: Progress, config: Config, cohort_sha256: str
) -> None:
    """Write the state; the previous one stays until the new one is complete.

    Raises:
        CheckpointError: the file cannot be written.
    """
    content = {
        "version": STATE_VERSION,
        "progress": asdict(progress),
        "config": config.model_dump(mode="json"),
        "cohort_sha256": cohort_sha256,
        **learner.state(),
    }
    replace_file(path, lambda temporary: torch.save(content, temporary))


def read_state(path: Path) -> dict[str, Any]:
    """Read a training state without running code from it.

    Raises:
        CheckpointError: the file is missing, damaged or of another version.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no training state to resume; start without --resume")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises six kinds for one damaged file
        raise CheckpointError(
            f"{path}: not a readable training state ({type(error).__name__}); start a new run"
        ) from error
    if not isinstance(content, dict) or content.get("version") != STATE_VERSION:
        raise CheckpointError(
            f"{path}: not a training state of version {STATE_VERSION}; resume with the osteomet "
            "that wrote it"
        )
    return content


def resumed_config(path: Path, state: Mapping[str, Any], config: Config) -> Config:
    """Return ``config`` with the HU constants of the run, if nothing else differs.

    Raises:
        CheckpointError: names the settings that differ.
    """
    try:
        saved = parse_kept_config(state["config"], str(path))
    except ConfigError as error:
        raise CheckpointError(f"{error}; resume with the osteomet that wrote it") from error
    before, now = (_flat(one.resolved().model_dump()) for one in (saved, config))
    differing = [
        f"{name} (was {before.get(name)!r}, now {now.get(name)!r})"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and name not in FREE_SETTINGS
    ]
    if differing:
        raise CheckpointError(
            f"{path}: the run was started with other settings: {'; '.join(differing)}; resume "
            "with the same settings or start a new run"
        )
    constants = saved.preprocess.model_dump(include={"mean_hu", "std_hu"})
    return config.updated({f"preprocess.{name}": value for name, value in constants.items()})


def check_cohort(path: Path, state: Mapping[str, Any], cohort_sha256: str) -> None:
    """Refuse to go on with other scans than the run began with.

    Raises:
        CheckpointError: the scans or their split differ.
    """
    if state["cohort_sha256"] != cohort_sha256:
        raise CheckpointError(
            f"{path}: the run was started with another cohort or split (digest "
            f"{state['cohort_sha256'][:12]}, now {cohort_sha256[:12]}); resume with the cohort.csv "
            "in the run's folder and the same --hard-places, or start a new run"
        )


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _copy(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _copy(value) for key, value in content.items()}
    return content.clone() if isinstance(content, torch.Tensor) else content
