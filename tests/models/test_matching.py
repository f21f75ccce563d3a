import pytest
import torch

from osteomet.config import Config
from osteomet.models.anchors import AnchorGenerator
from osteomet.models.matching import (
    IGNORED,
    NEGATIVE,
    ignore_inside,
    match_by_atss,
    match_by_iou,
    sample,
)
from osteomet.ops import acceleration

CONFIG = Config()


def cubes(*rows: tuple[float, float]) -> torch.Tensor:
    return torch.tensor([[low] * 3 + [high] * 3 for low, high in rows]).float()


def test_thresholds_split_positive_ignored_and_negative() -> None:
    boxes = cubes((0, 10), (0, 9), (0, 8), (20, 30))  # IoU 1, 0.73, 0.51, 0
    matches = match_by_iou(boxes, cubes((0, 10)), 0.7, 0.5, force_best=False)
    assert matches.tolist() == [0, 0, IGNORED, NEGATIVE]


def test_forced_best_rescues_the_papers_095() -> None:
    boxes, lesion = cubes((0, 9), (0, 8)), cubes((0, 10))
    assert match_by_iou(boxes, lesion, 0.95, 0.3, force_best=False).tolist() == [IGNORED] * 2
    assert match_by_iou(boxes, lesion, 0.95, 0.3, force_best=True).tolist() == [0, IGNORED]


def test_no_lesion_makes_every_box_negative() -> None:
    none = torch.zeros(0, 6)
    boxes, levels = cubes((0, 4), (2, 8)), torch.tensor([0, 1])
    assert match_by_iou(boxes, none, 0.5, 0.3, True).tolist() == [NEGATIVE] * 2
    assert match_by_atss(boxes, levels, none, 4).tolist() == [NEGATIVE] * 2
    assert match_by_iou(none, boxes, 0.5, 0.3, True).tolist() == []


def test_atss_gives_a_small_lesion_a_positive_anchor() -> None:
    axes = (torch.arange(8) + 0.5) * 4
    centers = torch.stack(torch.meshgrid(axes, axes, axes, indexing="ij"), -1).reshape(-1, 3)
    anchors = torch.cat([centers - 4, centers + 4], dim=1)
    lesion = torch.tensor([[9.0, 9, 9, 13, 13, 13]])  # 4 voxels: no anchor reaches IoU 0.5
    matches = match_by_atss(anchors, torch.zeros(len(anchors), dtype=torch.long), lesion, 9)
    assert 1 <= (matches == 0).sum() <= 9


@pytest.mark.skipif(not acceleration.NUMBA_ENABLED, reason="numba is not installed or off")
@pytest.mark.parametrize("whole", [True, False])
def test_loops_claim_the_anchors_that_torch_claims(
    whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(int(whole))
    anchors, levels = AnchorGenerator(CONFIG.model.anchors, (2, 3, 4), 1.0)(
        [(16,) * 3, (8,) * 3, (4,) * 3], torch.device("cpu")
    )
    found = 0
    for count in (1, 2, 3, 6) * 4:
        low = 50 * torch.rand(count, 3, generator=generator)
        high = low + 2 + 20 * torch.rand(count, 3, generator=generator)
        lesions = torch.cat([low, high], dim=1)
        if whole:  # centres between cells: many anchors are as near as each other
            lesions = (lesions / 4).round() * 4 + torch.tensor([0.0, 0, 0, 4, 4, 4])
        by_loops = match_by_atss(anchors, levels, lesions, 18, 0.5)
        with monkeypatch.context() as context:
            context.setattr(acceleration, "NUMBA_ENABLED", False)
            assert torch.equal(by_loops, match_by_atss(anchors, levels, lesions, 18, 0.5))
        found += int((by_loops >= 0).sum())
    assert found > 40


def test_an_anchor_claimed_twice_goes_to_the_larger_overlap() -> None:
    anchors = cubes((0, 10))
    lesions = torch.tensor([[0.0, 0, 0, 8, 10, 10], [0, 0, 0, 10, 10, 10]])
    assert match_by_atss(anchors, torch.zeros(1, dtype=torch.long), lesions, 1).tolist() == [1]


def test_ignored_regions_take_negatives_only() -> None:
    boxes = cubes((0, 10), (4, 14), (8, 18))
    matches = torch.tensor([0, NEGATIVE, NEGATIVE])
    region = cubes((0, 13))
    assert ignore_inside(matches, boxes, region).tolist() == [0, IGNORED, NEGATIVE]


def test_sampling_takes_hard_negatives_and_at_most_a_share_of_positives() -> None:
    torch.manual_seed(0)
    matches = torch.tensor([0] * 10 + [NEGATIVE] * 90 + [IGNORED] * 10)
    hardness = torch.arange(110.0)
    positive, negative = sample(
        matches, hardness, 12, positive_fraction=0.25, pool=1, generator=torch.Generator()
    )
    assert len(positive) == 3
    assert set(positive.tolist()) <= set(range(10))
    assert sorted(negative.tolist()) == list(range(91, 100))


def test_sampling_of_an_image_without_positives() -> None:
    positive, negative = sample(
        torch.full((5,), NEGATIVE), torch.zeros(5), 12, 0.25, 1, torch.Generator()
    )
    assert positive.tolist() == []
    assert sorted(negative.tolist()) == [0, 1, 2, 3, 4]
