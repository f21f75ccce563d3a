"""NMS against the rule as two loops, and box clustering against the paper's formulas."""

import pytest
import torch
from box_samples import float_boxes, whole_boxes

from osteomet.ops.boxes import box_iou
from osteomet.ops.nms import BLOCK, batched_nms, nms, weighted_box_clustering

pytestmark = pytest.mark.usefixtures("path")


def loop_nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> list[int]:
    order = sorted(range(len(boxes)), key=lambda i: (-scores[i].item(), i))
    overlap = (box_iou(boxes, boxes) > iou_threshold).tolist()
    kept: list[int] = []
    for i in order:
        if not any(overlap[i][j] for j in kept):
            kept.append(i)
    return kept


def scores_with_ties(n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, max(2, n // 4), (n,), generator=generator) / max(2, n // 4)


@pytest.mark.parametrize("iou_threshold", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("spread", [3.0, 15.0, 60.0])
def test_nms_equals_two_loops(spread: float, iou_threshold: float) -> None:
    boxes, scores = float_boxes(150, 0, spread, 8), scores_with_ties(150, 1)
    assert nms(boxes, scores, iou_threshold).tolist() == loop_nms(boxes, scores, iou_threshold)


def test_nms_of_more_boxes_than_a_block() -> None:
    n = 2 * BLOCK + 77
    boxes, scores = float_boxes(n, 2, 30, 8), scores_with_ties(n, 3)
    assert nms(boxes, scores, 0.3).tolist() == loop_nms(boxes, scores, 0.3)


def test_nms_follows_a_chain() -> None:
    """Each box of a row suppresses the next one only: every second stays."""
    low = torch.arange(9.0)[:, None] * torch.tensor([1.0, 0, 0])
    boxes = torch.cat([low, low + 2], dim=1)  # neighbours overlap by 1/3
    assert nms(boxes, torch.linspace(1, 0, 9), 0.3).tolist() == [0, 2, 4, 6, 8]


def test_equal_scores_go_by_index_and_the_threshold_itself_stays() -> None:
    boxes = torch.tensor([[0.0, 0, 0, 2, 1, 1], [0, 0, 0, 1, 1, 1], [0, 0, 0, 2, 1, 1]])
    assert nms(boxes, torch.ones(3), 0.5).tolist() == [0, 1]


def test_nms_within_groups_equals_nms_of_each_group() -> None:
    boxes, scores = float_boxes(120, 4, 6, 8), torch.rand(120)
    groups = torch.arange(120) % 3 + 2**40
    kept = batched_nms(boxes, scores, groups, 0.3)
    assert (scores[kept].diff() <= 0).all()
    for group in groups.unique():
        members = (groups == group).nonzero()[:, 0]
        alone = members[nms(boxes[members], scores[members], 0.3)]
        assert torch.equal(kept[groups[kept] == group], alone)


def test_no_box_and_boxes_without_volume() -> None:
    none = nms(torch.zeros(0, 6), torch.zeros(0), 0.5)
    assert none.shape == (0,)
    assert none.dtype == torch.int64
    points = torch.tensor([[3.0, 3, 3, 3, 3, 3]]).repeat(4, 1)
    assert nms(points, torch.ones(4), 0.5).tolist() == [0, 1, 2, 3]


def loop_clustering(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    weights: torch.Tensor,
    views: torch.Tensor,
    iou_threshold: float,
) -> list[tuple[float, list[float], list[int]]]:
    left = sorted(range(len(boxes)), key=lambda i: (-scores[i].item(), i))
    clusters = []
    while left:
        head = left[0]
        overlap = box_iou(boxes[head : head + 1], boxes)[0]
        members = [i for i in left if i == head or overlap[i] > iou_threshold]
        left = [i for i in left if i not in members]
        w = [(overlap[i] * weights[i]).item() for i in members]
        missing = max(0.0, sum(views[i].item() for i in members) / len(members) - len(members))
        s = [scores[i].item() for i in members]
        total = sum(a * b for a, b in zip(s, w, strict=True))
        score = total / (sum(w) + missing * sum(w) / len(w))
        box = sum(boxes[i] * (a * b) for i, a, b in zip(members, s, w, strict=True)) / total
        clusters.append((score, box.tolist(), members))
    return sorted(clusters, key=lambda cluster: -cluster[0])


def test_clustering_equals_the_formulas_as_loops() -> None:
    generator = torch.Generator().manual_seed(5)
    boxes, scores = float_boxes(80, 5, 8, 8), torch.rand(80, generator=generator)
    weights, views = torch.rand(80, generator=generator) + 0.1, torch.arange(80.0) % 4 + 1
    fused, fused_scores, members = weighted_box_clustering(boxes, scores, weights, views, 0.2)
    expected = loop_clustering(boxes, scores, weights, views, 0.2)
    assert len(members) == len(expected) < 80
    torch.testing.assert_close(fused_scores, torch.tensor([score for score, _, _ in expected]))
    torch.testing.assert_close(fused, torch.tensor([box for _, box, _ in expected]))
    assert [m.tolist() for m in members] == [m for _, _, m in expected]


def test_clusters_of_agreeing_views_keep_their_box_and_score() -> None:
    box = whole_boxes(1, 0).repeat(3, 1)
    scores, ones = torch.full((3,), 0.8), torch.ones(3)
    fused, score, members = weighted_box_clustering(box, scores, ones, 3 * ones, 0.5)
    torch.testing.assert_close(fused, box[:1])
    assert score.item() == pytest.approx(0.8)
    assert members[0].tolist() == [0, 1, 2]


def test_views_that_saw_nothing_lower_the_score() -> None:
    box, score, one = whole_boxes(1, 0), torch.tensor([0.9]), torch.ones(1)
    assert weighted_box_clustering(box, score, one, 3 * one, 0.5)[1].item() == pytest.approx(0.3)


def test_clustering_without_boxes_weight_or_volume() -> None:
    none = torch.zeros(0)
    boxes, scores, members = weighted_box_clustering(torch.zeros(0, 6), none, none, none, 0.5)
    assert (boxes.shape, scores.shape, members) == ((0, 6), (0,), [])
    points, zero = torch.tensor([[3.0, 3, 3, 3, 3, 3]]).repeat(2, 1), torch.zeros(2)
    boxes, scores, members = weighted_box_clustering(points, zero, zero, zero, 0.5)
    torch.testing.assert_close(boxes, points)
    assert scores.tolist() == [0, 0]
    assert len(members) == 2
