import dataclasses
import math

import pytest
import torch
from spheres import cpu, example
from torch import Tensor, nn

from osteomet.structures import Detections, Targets
from osteomet.training.validation import Validation, validate


class _Answers(nn.Module):
    """A model that returns the given boxes and scores for each image in turn."""

    def __init__(self, answers: list[tuple[list[list[float]], list[float]]]) -> None:
        super().__init__()
        self.answers = iter(answers)

    def forward(
        self, images: Tensor, targets: list[Targets]
    ) -> tuple[list[Detections], dict[str, Tensor]]:
        found = [_detections(*next(self.answers)) for _ in images]
        return found, {"box": torch.rand(()), "mask": torch.tensor(float(len(targets)))}


def _detections(boxes: list[list[float]], scores: list[float]) -> Detections:
    count, tensor = len(boxes), torch.tensor(boxes).reshape(-1, 6)
    ball = torch.zeros(count, 4, 4, 4) + 1.0
    return Detections(
        tensor,
        torch.tensor(scores),
        torch.zeros(count),
        torch.zeros(count, 2),
        torch.zeros(count, 0),
        tensor,
        ball,
    )


def _validate(answers: list[tuple[list[list[float]], list[float]]], lesions: int = 1) -> Validation:
    examples = [example(index, lesions) for index in range(len(answers))]
    return validate(cpu(), _Answers(answers), examples, batch_size=2, seed=0)


def _box(index: int) -> list[float]:
    return [float(value) for value in example(index).targets.boxes[0]]


FAR = [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]


def test_found_lesions_and_their_dice() -> None:
    result = _validate([([_box(0)], [0.9]), ([], [])])
    assert result.sensitivity == 0.5
    inside = int((example(0).targets.instances > 0).sum())
    z1, y1, x1, z2, y2, x2 = _box(0)
    box = (z2 - z1) * (y2 - y1) * (x2 - x1)
    assert result.dice == pytest.approx(2 * inside / (inside + box))


def test_sensitivity_is_read_at_one_false_positive_a_patch() -> None:
    # two patches allow two false positives; the hit of 0.1 comes after the third
    false = ([FAR, FAR, FAR, _box(0)], [0.9, 0.8, 0.7, 0.1])
    assert _validate([false, ([_box(1)], [0.75])]).sensitivity == 0.5
    assert _validate([false, ([_box(1)], [0.65])]).sensitivity == 0.0


def test_second_box_on_a_lesion_is_false() -> None:
    twice = ([_box(0), _box(0), _box(0), _box(0)], [0.9, 0.8, 0.7, 0.6])
    assert _validate([twice, ([_box(1)], [0.5])]).sensitivity == 0.5


def test_equal_scores_are_taken_together() -> None:
    tied = ([FAR, FAR, FAR, _box(0)], [0.5] * 4)
    assert _validate([tied, ([], [])]).sensitivity == 0.0


def test_ignored_regions_neither_help_nor_harm() -> None:
    patch = example(0)
    ignoring = dataclasses.replace(patch.targets, ignore_boxes=torch.tensor([FAR]))
    patch = dataclasses.replace(patch, targets=ignoring)
    model = _Answers([([FAR, FAR, _box(0)], [0.9, 0.8, 0.7])])
    assert validate(cpu(), model, [patch], 1, 0).sensitivity == 1.0


def test_without_a_lesion_there_is_no_sensitivity() -> None:
    result = _validate([([FAR], [0.9])], lesions=0)
    assert math.isnan(result.sensitivity)
    assert math.isnan(result.dice)


def test_losses_are_means_and_random_numbers_are_the_same_each_time() -> None:
    first, second = (_validate([([], [])] * 3) for _ in range(2))
    assert first.losses == second.losses
    assert first.losses["mask"] == pytest.approx((2 + 2 + 1) / 3)
    assert first.loss == pytest.approx(sum(first.losses.values()))
