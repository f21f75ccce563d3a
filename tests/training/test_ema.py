import pytest
import torch
from torch import nn

from osteomet.training.ema import ExponentialMovingAverage


class _Number(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value]))
        self.register_buffer("count", torch.tensor(0))


def test_average_matches_the_recursion_written_out() -> None:
    model = _Number(0.0)
    average = ExponentialMovingAverage(model, decay=0.3)
    expected = 0.0
    for update, value in enumerate([1.0, 5.0, -2.0, 7.0, 4.0], start=1):
        with torch.no_grad():
            model.weight.fill_(value)
        average.update()
        decay = min(0.3, update / (update + 9))
        expected = decay * expected + (1 - decay) * value
        assert average.model.weight.item() == pytest.approx(expected, rel=1e-6)


def test_only_the_named_weights_move() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    average = ExponentialMovingAverage(model, decay=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    average.update({"0.weight", "1.bias"})
    apart = {
        name: (parameter - dict(average.model.named_parameters())[name]).item()
        for name, parameter in model.named_parameters()
    }
    assert apart["0.weight"] < 1
    assert apart["1.bias"] < 1
    assert apart["0.bias"] == apart["1.weight"] == 1


def test_decay_rises_from_a_tenth_to_its_value() -> None:
    average = ExponentialMovingAverage(_Number(0.0), decay=0.9)
    average.updates = 1
    assert average.current_decay() == pytest.approx(0.1)
    average.updates = 1000
    assert average.current_decay() == 0.9


def test_average_neither_learns_nor_touches_the_model() -> None:
    model = _Number(2.0)
    model.count += 3
    average = ExponentialMovingAverage(model, decay=0.5)
    model.count += 1
    average.update()
    assert model.weight.item() == 2.0
    assert model.weight.requires_grad
    assert average.model.count.item() == 4
    assert not average.model.training
    assert not any(p.requires_grad for p in average.model.parameters())
