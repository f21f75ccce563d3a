"""Which of many overlapping boxes to keep (NMS), or how to fuse them (box clustering).

Both are the same greedy walk: the best box left becomes a head and takes every box that
overlaps it by more than ``iou_threshold``. NMS keeps the heads; clustering averages the
members. Equal scores are ordered by index, so the result never depends on the machine.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from osteomet.ops.acceleration import compile_kernel, uses_numba
from osteomet.ops.boxes import paired_iou

BLOCK = 512
"""Boxes that the torch path compares at once: 1 MB of IoU, small enough for a cache."""

MIN_TRUST = 1e-12
"""Weight of a box that the caller gives none, so that no mean divides by 0."""


def nms(
    boxes: Float[Tensor, "n 6"], scores: Float[Tensor, " n"], iou_threshold: float
) -> Int[Tensor, " kept"]:
    """Keep each box that no better kept box overlaps by more than ``iou_threshold``.

    Returns:
        Indices of the boxes kept, best first; empty where ``n`` is 0.
    """
    groups = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    return batched_nms(boxes, scores, groups, iou_threshold)


def batched_nms(
    boxes: Float[Tensor, "n 6"],
    scores: Float[Tensor, " n"],
    groups: Int[Tensor, " n"],
    iou_threshold: float,
) -> Int[Tensor, " kept"]:
    """Run ``nms`` within each group (image, level or class) at once.

    Boxes of different groups never suppress each other. Groups are compared, not hidden in
    shifted coordinates, which would cost the precision of boxes.

    Returns:
        Indices of the boxes kept, best first over all groups.
    """
    order = scores.argsort(descending=True, stable=True)
    heads = _assign_to_heads(boxes[order].detach().float(), groups[order], iou_threshold)
    return order[heads == torch.arange(len(order), device=order.device)]


def weighted_box_clustering(
    boxes: Float[Tensor, "n 6"],
    scores: Float[Tensor, " n"],
    weights: Float[Tensor, " n"],
    expected_views: Float[Tensor, " n"],
    iou_threshold: float,
) -> tuple[Float[Tensor, "k 6"], Float[Tensor, " k"], list[Tensor]]:
    """Fuse the detections of overlapping tiles, or of several models, into one set.

    A member counts by ``w = IoU with its head * weights``. The box of a cluster is the mean of
    its members' weighted by ``score * w``; its score is their mean weighted by ``w``, in which
    each view that should have seen the lesion and did not counts as a member of score 0.

    Args:
        boxes: detections of all views.
        scores: their probabilities.
        weights: trust in each box, positive, such as how central it lies in its tile.
        expected_views: how many views cover each box; a cluster expects the mean of its members.
        iou_threshold: boxes that overlap a head by more than this join its cluster.

    Returns:
        Boxes and scores of the clusters, best first, and of each cluster the indices of its
        members, the head first. All are empty where ``n`` is 0.

    Source: Jaeger et al., "Retina U-Net", arXiv:1811.08661, Sec. "Weighted Box Clustering"; its
    weight by the area of the box is left out, since it favours boxes that are too large.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes, scores = boxes[order].float(), scores[order].float()
    weights, expected_views = weights[order].float(), expected_views[order].float()
    heads = _assign_to_heads(boxes, torch.zeros_like(order), iou_threshold)
    is_head = heads == torch.arange(len(order), device=order.device)
    cluster = (is_head.cumsum(0) - 1)[heads]  # (n,) cluster of each box, in order of heads
    count = int(is_head.sum())

    # A degenerate head overlaps nothing, not even itself, yet stands for its cluster.
    overlap = torch.where(is_head, 1.0, paired_iou(boxes, boxes[heads]))
    w = (weights * overlap).clamp(min=MIN_TRUST)
    size = _sum_by(cluster, torch.ones_like(w), count)
    missing = (_sum_by(cluster, expected_views, count) / size - size).clamp(min=0)
    w_sum = _sum_by(cluster, w, count)
    fused_scores = _sum_by(cluster, scores * w, count) / (w_sum + missing * w_sum / size)
    pull = (scores * w).clamp(min=MIN_TRUST)[:, None]
    fused_boxes = _sum_by(cluster, boxes * pull, count) / _sum_by(cluster, pull, count)

    best_first = fused_scores.argsort(descending=True, stable=True)
    by_cluster = torch.split(order[cluster.argsort(stable=True)], size.long().tolist())
    members = [by_cluster[i] for i in best_first.tolist()]
    return fused_boxes[best_first], fused_scores[best_first], members


def _sum_by(cluster: Tensor, values: Tensor, count: int) -> Tensor:
    return values.new_zeros(count, *values.shape[1:]).index_add_(0, cluster, values)


def _assign_to_heads(
    boxes: Float[Tensor, "n 6"], groups: Int[Tensor, " n"], iou_threshold: float
) -> Int[Tensor, " n"]:
    """Return of each box, sorted best first, the index of the head that takes it.

    A head takes itself. Block by block: settle the block, then let its heads take the rest.
    """
    if uses_numba(boxes):
        return _assign_with_numba(boxes, groups, iou_threshold)
    n = len(boxes)
    heads = torch.full((n,), -1, dtype=torch.int64, device=boxes.device)
    for start in range(0, n, BLOCK):
        block = (heads[start : start + BLOCK] < 0).nonzero()[:, 0] + start
        takes = _overlaps(boxes, groups, block, block, iou_threshold).triu(diagonal=1)
        is_head = torch.ones(len(block), dtype=torch.bool, device=boxes.device)
        # Whether a box is a head depends on better boxes only, so repeating the rule from any
        # start settles at least one more box each time, and in practice all within a few.
        while True:
            settled = ~(takes & is_head[:, None]).any(dim=0)
            if torch.equal(settled, is_head):
                break
            is_head = settled
        new_heads = block[is_head]
        rest = (heads[start:] < 0).nonzero()[:, 0] + start
        taken = _overlaps(boxes, groups, new_heads, rest, iou_threshold)
        taken |= new_heads[:, None] == rest  # a degenerate box overlaps nothing, yet is its own
        taken &= new_heads[:, None] <= rest
        if len(new_heads):
            first = taken.byte().argmax(dim=0)
            found = taken.any(dim=0)
            heads[rest[found]] = new_heads[first[found]]
    return heads


def _assign_with_numba(boxes: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    by_group = groups.argsort(stable=True)  # only boxes of one group are compared
    columns = boxes[by_group].T.contiguous()
    volumes = (columns[3:] - columns[:3]).clamp(min=0)
    volumes = volumes[0] * volumes[1] * volumes[2]
    threshold: Any = np.float32(iou_threshold)
    taken = torch.full((len(boxes),), -1, dtype=torch.int64)
    arrays = columns.numpy(), volumes.numpy(), groups[by_group].long().numpy()
    _take_greedily(*arrays, threshold, taken.numpy())
    heads = torch.empty_like(taken)
    heads[by_group] = by_group[taken]
    return heads


@partial(compile_kernel, fastmath=False)
def _take_greedily(
    columns: np.ndarray,
    volumes: np.ndarray,
    groups: np.ndarray,
    threshold: float,
    heads: np.ndarray,
) -> None:
    """Let each box that is left, best first, take what it overlaps; one coordinate a row.

    Boxes of a group follow one another.
    """
    excess, stop = np.empty(len(heads), np.float32), 0
    for i in range(len(heads)):
        if i == stop:
            while stop < len(heads) and groups[stop] == groups[i]:
                stop += 1
        if heads[i] >= 0:
            continue
        heads[i] = i
        low = columns[0, i:stop], columns[1, i:stop], columns[2, i:stop]
        high = columns[3, i:stop], columns[4, i:stop], columns[5, i:stop]
        if _compare(low, high, volumes[i:stop], threshold, excess[i:stop]) > 0:
            for j in range(i + 1, stop):
                if excess[j] > 0 and heads[j] < 0:
                    heads[j] = i


@partial(compile_kernel, fastmath=False)
def _compare(
    low: tuple[np.ndarray, np.ndarray, np.ndarray],
    high: tuple[np.ndarray, np.ndarray, np.ndarray],
    volumes: np.ndarray,
    threshold: float,
    excess: np.ndarray,
) -> int:
    """Write how far the overlap of each box with the first exceeds the threshold; count those.

    Without a branch and with an array a coordinate, so that it runs in vectors.
    """
    (z1, y1, x1), (z2, y2, x2) = low, high
    low_z, low_y, low_x, high_z, high_y, high_x = z1[0], y1[0], x1[0], z2[0], y2[0], x2[0]
    volume, zero, above = volumes[0], np.float32(0), 0
    for j in range(1, len(excess)):
        dz = max(min(high_z, z2[j]) - max(low_z, z1[j]), zero)
        dy = max(min(high_y, y2[j]) - max(low_y, y1[j]), zero)
        dx = max(min(high_x, x2[j]) - max(low_x, x1[j]), zero)
        overlap = dz * dy * dx
        excess[j] = overlap - threshold * (volume + volumes[j] - overlap)
        above += excess[j] > 0
    return above


def _overlaps(
    boxes: Tensor, groups: Tensor, rows: Tensor, columns: Tensor, iou_threshold: float
) -> Tensor:
    """Return ``(rows, columns)``: of one group, and IoU above the threshold."""
    a, b = boxes[rows][:, None], boxes[columns][None]
    sides = (torch.minimum(a[..., 3:], b[..., 3:]) - torch.maximum(a[..., :3], b[..., :3])).clamp(
        min=0
    )
    intersection = sides[..., 0] * sides[..., 1] * sides[..., 2]
    volume = (boxes[:, 3:] - boxes[:, :3]).clamp(min=0)
    volume = volume[:, 0] * volume[:, 1] * volume[:, 2]
    union = volume[rows][:, None] + volume[columns] - intersection
    # Multiplied, not divided: 0 overlap in a union of 0 is no overlap, without a special case.
    return (intersection > iou_threshold * union) & (groups[rows][:, None] == groups[columns])
