"""What stages hand over, with lesions and without."""

from dataclasses import fields, replace

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from osteomet.structures import (
    ATTRIBUTES,
    LUNG,
    METASTASIS,
    OTHER,
    UNKNOWN,
    Detections,
    Proposals,
    Targets,
)


def targets(n: int = 3, m: int = 1) -> Targets:
    boxes = torch.arange(6 * n).reshape(n, 6).float()
    return Targets(
        boxes=boxes,
        labels=torch.tensor([LUNG, OTHER, METASTASIS] * (n + 1))[:n],
        instances=torch.zeros(4, 5, 6, dtype=torch.int16),
        instance_ids=torch.arange(n),
        ignore_boxes=torch.zeros(m, 6),
        attributes=torch.full((n, len(ATTRIBUTES)), UNKNOWN),
    )


def detections(n: int = 4, first: float = 0.0) -> Detections:
    """Return detections whose every number tells which one it belongs to."""
    number = first + torch.arange(n).float()
    return Detections(
        boxes=number[:, None] + torch.tensor([0.0, 0, 0, 1, 2, 3]),
        scores=1 - number / 100,
        p_lung=number / 100,
        embeddings=number[:, None].expand(n, 5).clone(),
        attributes=number[:, None].expand(n, 4).clone() / 100,
        mask_boxes=number[:, None] + torch.tensor([-1.0, -1, -1, 2, 3, 4]),
        masks=number[:, None, None, None].expand(n, 2, 2, 2).clone() / 100,
    )


def same(a: Detections, b: Detections) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Detections))


class TestTargets:
    def test_lesion_without_mask_has_id_zero(self) -> None:
        assert targets(3).has_mask.tolist() == [False, True, True]

    def test_no_lesion(self) -> None:
        empty = targets(0, 0)
        assert empty.has_mask.shape == (0,)
        assert empty.to(torch.device("cpu")).boxes.shape == (0, 6)

    @pytest.mark.parametrize("name", ["labels", "instance_ids", "attributes"])
    def test_as_many_of_each(self, name: str) -> None:
        content = {field.name: getattr(targets(2), field.name) for field in fields(Targets)}
        content[name] = content[name][:1]
        # The shape checks of the tests see it first; without them the class does.
        with pytest.raises((ValueError, TypeCheckError)):
            Targets(**content)

    def test_moves_every_tensor(self) -> None:
        moved = replace(targets(2), seed=5).to(torch.device("meta"))
        assert moved.seed == 5
        for field in fields(Targets):
            value = getattr(moved, field.name)
            assert field.name == "seed" or value.device.type == "meta", field.name

    def test_what_is_drawn_depends_on_seed_and_purpose(self) -> None:
        def drawn(seed: int, purpose: int) -> list[int]:
            one = replace(targets(2), seed=seed)
            return torch.randperm(50, generator=one.generator(purpose)).tolist()

        assert drawn(5, 1) == drawn(5, 1)
        assert len({tuple(drawn(seed, purpose)) for seed in (4, 5) for purpose in (1, 2)}) == 4


class TestDetections:
    @pytest.mark.parametrize(
        ("keep", "expected"),
        [
            (torch.tensor([True, False, False, True]), [0, 3]),
            (torch.tensor([3, 1]), [3, 1]),
            (torch.tensor([], dtype=torch.int64), []),
            (torch.zeros(4, dtype=torch.bool), []),
        ],
    )
    def test_choosing_chooses_in_every_field(self, keep: Tensor, expected: list[int]) -> None:
        chosen = detections(4)[keep]
        assert len(chosen) == len(expected)
        parts = [detections(1, float(number)) for number in expected]
        assert same(chosen, Detections.concatenate(parts) if parts else detections(0))

    def test_shifting_moves_both_boxes(self) -> None:
        before = detections(2)
        after = before.shifted((10.0, 20.0, 30.0))
        offset = torch.tensor([10.0, 20, 30, 10, 20, 30])
        assert torch.equal(after.boxes, before.boxes + offset)
        assert torch.equal(after.mask_boxes, before.mask_boxes + offset)
        assert same(after.shifted((-10.0, -20.0, -30.0)), before)

    def test_joining_keeps_order(self) -> None:
        joined = Detections.concatenate([detections(2), detections(0), detections(1, 7.0)])
        assert joined.embeddings[:, 0].tolist() == [0.0, 1.0, 7.0]
        assert same(joined[torch.tensor([0, 1])], detections(2))

    def test_joining_nothing_but_empty_parts(self) -> None:
        joined = Detections.concatenate([detections(0), detections(0)])
        assert len(joined) == 0
        assert joined.embeddings.shape == (0, 5)
        assert joined.masks.shape == (0, 2, 2, 2)

    def test_half_precision_becomes_single(self) -> None:
        whole = detections(3)
        half = Detections(**{f.name: getattr(whole, f.name).half() for f in fields(Detections)})
        for field in fields(Detections):
            assert getattr(half.cpu(), field.name).dtype == torch.float32, field.name

    def test_empty(self) -> None:
        empty = detections(0)
        assert len(empty) == 0
        assert len(empty.shifted((1.0, 2.0, 3.0))) == 0
        assert len(empty.cpu()) == 0

    @pytest.mark.parametrize("name", [field.name for field in fields(Detections)])
    def test_fields_of_other_lengths_are_found(self, name: str) -> None:
        content = {field.name: getattr(detections(3), field.name) for field in fields(Detections)}
        content[name] = content[name][:2]
        with pytest.raises(TypeCheckError):
            Detections(**content)


def test_proposals_of_an_image_without_any() -> None:
    assert Proposals(torch.zeros(0, 6), torch.zeros(0)).boxes.shape == (0, 6)
