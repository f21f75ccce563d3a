import pytest
from torch import nn

from osteomet.config import TrainingConfig
from osteomet.training.schedule import (
    adamw,
    learning_rate,
    planned_steps,
    roi_weight,
    steps_per_epoch,
)

COMMON = {"learning_rate": 1.0, "warmup_steps": 2, "final_rate": 0.01}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cosine", [0.5, 1.0, 1.0, 0.855, 0.505, 0.155, 0.01]),
        ("exponential", [0.5, 1.0, 1.0, 0.316228, 0.1, 0.0316228, 0.01]),
        ("step", [0.5, 1.0, 1.0, 1.0, 1.0, 0.1, 0.1]),
    ],
)
def test_rates_match_a_literal_table(schedule: str, expected: list[float]) -> None:
    config = TrainingConfig.model_validate({**COMMON, "schedule": schedule, "step_at": 0.7})
    rates = [learning_rate(step, 7, config) for step in range(7)]
    assert rates == pytest.approx(expected, abs=1e-3)


def test_without_warmup_the_first_step_has_the_full_rate() -> None:
    config = TrainingConfig(learning_rate=3.0, warmup_steps=0)
    assert learning_rate(0, 10, config) == 3.0


def test_while_the_total_is_unknown_the_rate_stays_at_its_start() -> None:
    config = TrainingConfig(learning_rate=3.0, warmup_steps=4)
    assert [learning_rate(step, None, config) for step in (0, 3, 29)] == [0.75, 3.0, 3.0]


def test_roi_losses_rise_to_their_weight() -> None:
    config = TrainingConfig(roi_warmup_steps=4)
    assert [roi_weight(step, config) for step in (0, 1, 3, 4, 99)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    assert roi_weight(0, TrainingConfig(roi_warmup_steps=0)) == 1.0


class _EveryKind(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.wide = nn.Linear(8, 2)
        self.norm = nn.LayerNorm(2)
        self.gamma = nn.Parameter(nn.init.ones_(self.linear.weight.new_empty(1, 1, 1, 1, 2)))


def test_decay_spares_biases_norms_and_grn() -> None:
    model = _EveryKind()
    groups = adamw(model, TrainingConfig(weight_decay=0.1)).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] == 0.1 for p in group["params"]}
    spared = {id(p) for group in groups if group["weight_decay"] == 0.0 for p in group["params"]}
    assert decayed == {id(model.linear.weight), id(model.wide.weight)}
    assert spared == {id(p) for p in model.parameters()} - decayed


def test_rates_fall_with_the_inputs_of_a_layer() -> None:
    model = _EveryKind()
    groups = adamw(model, TrainingConfig(reference_fan_in=4)).param_groups
    scales = {id(p): group["rate_scale"] for group in groups for p in group["params"]}
    assert scales[id(model.linear.weight)] == 2.0
    assert scales[id(model.wide.weight)] == 0.5
    assert scales[id(model.wide.bias)] == 1.0
    groups = adamw(model, TrainingConfig(reference_fan_in=0)).param_groups
    assert {group["rate_scale"] for group in groups} == {1.0}


def test_length_of_a_run_in_steps_epochs_and_minutes() -> None:
    config = TrainingConfig(batch_size=8, patches_per_scan=10, max_steps=77)
    assert [steps_per_epoch(scans, config) for scans in (1, 4, 185)] == [2, 5, 232]
    assert planned_steps(232, config) == 77
    assert planned_steps(232, config.model_copy(update={"epochs": 50})) == 11600
    assert planned_steps(232, config.model_copy(update={"budget_minutes": 1.0})) is None


def test_paper_s_two_decays_end_alike() -> None:
    """0.05 an epoch, as an exponential, and a tenth after 40 of 50 epochs."""
    common = {"learning_rate": 1e-4, "warmup_steps": 0}
    step = TrainingConfig.model_validate({**common, "schedule": "step", "step_at": 0.8})
    decay = TrainingConfig.model_validate(
        {**common, "schedule": "exponential", "final_rate": 0.95**50}
    )
    epochs, steps = 50, 100
    for epoch in (0, 10, 39, 49):
        rate = learning_rate(epoch * steps, epochs * steps, decay)
        assert rate == pytest.approx(1e-4 * 0.95**epoch, rel=2e-3)
        expected = 1e-4 if epoch < 40 else 1e-5
        assert learning_rate(epoch * steps, epochs * steps, step) == pytest.approx(expected)
