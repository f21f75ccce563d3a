"""A wall-clock budget, turned once into a number of steps.

Only the first steps are timed. From then on the number is part of the run, so that a slow
moment or a resumed process changes nothing about what is learned.
"""

from dataclasses import dataclass

from osteomet.config import TrainingConfig

TIMED_STEPS = 30
UNTIMED_STEPS = 5
"""Of the timed steps, the first ones: compilers and caches warm up in them."""


@dataclass(frozen=True)
class Costs:
    """Seconds of each part of a run."""

    step_s: float
    validation_s: float
    checkpoint_s: float


def mean_step_seconds(seconds: list[float]) -> float:
    """Return the mean over the first steps without those in which compilers warm up."""
    timed = seconds[UNTIMED_STEPS:TIMED_STEPS]
    return sum(timed) / len(timed)


def affordable_steps(
    budget_s: float, spent_s: float, done: int, costs: Costs, config: TrainingConfig
) -> int:
    """Return the last step that fits the budget, with its validations and checkpoints.

    At least ``done``: a run that has already spent its budget ends at once.
    """
    low, high = done, done + int(max(0.0, budget_s - spent_s) / costs.step_s) + 1
    while low < high:  # largest number of steps whose cost fits
        middle = (low + high + 1) // 2
        if spent_s + _seconds(done, middle, costs, config) <= budget_s:
            low = middle
        else:
            high = middle - 1
    return low


def _seconds(done: int, total: int, costs: Costs, config: TrainingConfig) -> float:
    validations = _multiples(done, total, config.validate_every)
    checkpoints = _multiples(done, total, config.checkpoint_every)
    return (
        (total - done) * costs.step_s
        + validations * costs.validation_s
        + checkpoints * costs.checkpoint_s
    )


def _multiples(done: int, total: int, every: int) -> int:
    """Return how often something due every so many steps, and at the end, happens."""
    at_end = 1 if total % every else 0
    return total // every - done // every + at_end
