import pytest

from osteomet.config import TrainingConfig
from osteomet.training.budget import Costs, affordable_steps, mean_step_seconds


def test_first_steps_are_not_timed() -> None:
    assert mean_step_seconds([100.0] * 5 + [2.0] * 25 + [50.0]) == 2.0


@pytest.mark.parametrize(
    ("budget_s", "spent_s", "expected"),
    [
        (100.0, 30.0, 100),  # 70 s left at 1 s a step, nothing else costs
        (100.0, 99.0, 31),
        (100.0, 100.0, 30),
        (10.0, 40.0, 30),  # already over: end at once
    ],
)
def test_steps_alone(budget_s: float, spent_s: float, expected: int) -> None:
    config = TrainingConfig(validate_every=1000, checkpoint_every=1000)
    costs = Costs(step_s=1.0, validation_s=0.0, checkpoint_s=0.0)
    assert affordable_steps(budget_s, spent_s, 30, costs, config) == expected


def test_validations_and_checkpoints_are_paid_from_the_budget() -> None:
    config = TrainingConfig(validate_every=10, checkpoint_every=20)
    costs = Costs(step_s=1.0, validation_s=5.0, checkpoint_s=2.0)
    # up to step 60: 30 steps, validations at 40, 50, 60 and checkpoints at 40, 60: 49 s
    assert affordable_steps(49.0, 0.0, 30, costs, config) == 60
    # a second less does not pay for step 60 and what is due there; ending at 59 validates too,
    # and writes a checkpoint, for the same price less one step
    assert affordable_steps(48.0, 0.0, 30, costs, config) == 59
    assert affordable_steps(48.0, 1.0, 30, costs, config) == 58
