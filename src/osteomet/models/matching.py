"""Which anchor or proposal belongs to which lesion, and which of them train.

Sources: He et al., "Mask R-CNN" (thresholds); Zhang et al., "ATSS", arXiv:1912.02424.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from osteomet.ops.acceleration import uses_numba
from osteomet.ops.anchor_claims import claim_anchors
from osteomet.ops.boxes import box_centers, box_iou, box_volume

NEGATIVE, IGNORED = -1, -2
TINY_IOU = 1e-6
"""Below it boxes do not overlap."""

Matches = Int[Tensor, " n"]
"""For each box the index of its lesion, NEGATIVE or IGNORED."""


def match_by_iou(
    boxes: Float[Tensor, "n 6"],
    gt_boxes: Float[Tensor, "g 6"],
    positive_iou: float,
    negative_iou: float,
    force_best: bool,
) -> Matches:
    """Match each box to the lesion it overlaps most.

    Args:
        boxes: anchors or proposals.
        gt_boxes: lesions; ``g`` may be 0, and then every box is negative.
        positive_iou: at or above it a box is positive.
        negative_iou: below it a box is negative; between the two it is ignored.
        force_best: the best box of each lesion is positive, whatever its IoU, so long as
            they overlap at all.
    """
    if len(gt_boxes) == 0 or len(boxes) == 0:
        return boxes.new_full((len(boxes),), NEGATIVE, dtype=torch.long)
    iou = box_iou(boxes, gt_boxes)
    best_iou, best = iou.max(dim=1)
    matches = best.clone()
    matches[best_iou < positive_iou] = IGNORED
    matches[best_iou < negative_iou] = NEGATIVE
    if force_best:
        _force_best(matches, iou)
    return matches


def match_by_atss(
    anchors: Float[Tensor, "n 6"],
    levels: Int[Tensor, " n"],
    gt_boxes: Float[Tensor, "g 6"],
    candidates_per_level: int,
    ignored_share: float = 1.0,
) -> Matches:
    """Match anchors by Adaptive Training Sample Selection: each lesion sets its own threshold.

    For each lesion the nearest ``candidates_per_level`` anchors of each level are candidates;
    those are positive whose IoU reaches mean plus standard deviation over the candidates and
    whose centre lies inside the lesion's box. Small lesions thereby keep positives where a
    fixed threshold leaves none. An anchor claimed twice goes to the larger IoU.

    In 3D eight cells surround a lesion about equally, and which of them pass the threshold is
    chance. Those that do not pass but reach ``ignored_share`` of the lesion's best IoU are
    ignored, or hard negative mining would choose just them; 1 ignores none.
    """
    if len(gt_boxes) == 0 or len(anchors) == 0:
        return anchors.new_full((len(anchors),), NEGATIVE, dtype=torch.long)
    iou = box_iou(gt_boxes, anchors)
    claim = claim_anchors if uses_numba(anchors, gt_boxes) else _claim_by_torch
    claimed = claim(anchors, levels, gt_boxes, iou, candidates_per_level)
    near = (iou >= ignored_share * iou.amax(dim=1, keepdim=True).clamp(min=TINY_IOU)).any(dim=0)
    matches = torch.where(near & (claimed == NEGATIVE), IGNORED, claimed)
    _force_best(matches, iou.T)
    return matches


def _claim_by_torch(
    anchors: Float[Tensor, "n 6"],
    levels: Int[Tensor, " n"],
    gt_boxes: Float[Tensor, "g 6"],
    iou: Float[Tensor, "g n"],
    candidates_per_level: int,
) -> Matches:
    """Do on any device what ``claim_anchors`` does in loops."""
    centers = box_centers(anchors)
    # Squared, summed in this order, and sorted stably: of anchors as near the first is taken
    # everywhere.
    dz, dy, dx = (box_centers(gt_boxes)[:, None] - centers).unbind(dim=-1)
    distance = dz * dz + dy * dy + dx * dx
    candidates = []
    for level in levels.unique():
        members = torch.nonzero(levels == level).squeeze(1)
        nearest = distance[:, members].argsort(dim=1, stable=True)[:, :candidates_per_level]
        candidates.append(members[nearest])
    chosen = torch.cat(candidates, dim=1)  # (g, k) anchor of each candidate
    candidate_iou = iou.gather(1, chosen)
    deviation = candidate_iou.std(dim=1, correction=0, keepdim=True)
    threshold = candidate_iou.mean(dim=1, keepdim=True) + deviation
    center = centers[chosen]
    inside = ((center > gt_boxes[:, None, :3]) & (center < gt_boxes[:, None, 3:])).all(dim=-1)
    positive = (candidate_iou >= threshold) & inside
    claims = torch.full_like(iou, -1.0)
    claims.scatter_(1, chosen, torch.where(positive, candidate_iou, -1.0))
    best, lesion = claims.max(dim=0)
    return torch.where(best >= 0, lesion, NEGATIVE)


def ignore_inside(
    matches: Matches, boxes: Float[Tensor, "n 6"], regions: Float[Tensor, "m 6"]
) -> Matches:
    """Ignore negatives that lie by more than half inside a region that must not count."""
    if len(regions) == 0:
        return matches
    low = torch.maximum(boxes[:, None, :3], regions[None, :, :3])
    high = torch.minimum(boxes[:, None, 3:], regions[None, :, 3:])
    covered = (high - low).clamp(min=0).prod(dim=-1).amax(dim=1)
    inside = covered > 0.5 * box_volume(boxes)
    return torch.where(inside & (matches == NEGATIVE), IGNORED, matches)


def sample(
    matches: Matches,
    hardness: Float[Tensor, " n"],
    count: int,
    positive_fraction: float,
    pool: int,
    generator: torch.Generator,
) -> tuple[Int[Tensor, " p"], Int[Tensor, " q"]]:
    """Choose positives at random and negatives among the hardest.

    Args:
        matches: from a matcher.
        hardness: how sure the network is that a box holds a lesion.
        count: boxes to choose; fewer where there are fewer.
        positive_fraction: largest share of positives.
        pool: negatives are drawn at random from the ``pool`` times as many hardest; with
            every negative in the pool this is plain balanced sampling.
        generator: on the CPU, whatever the device of the boxes.

    Returns:
        Indices of positives and of negatives.
    """
    positive = torch.nonzero(matches >= 0).squeeze(1)
    negative = torch.nonzero(matches == NEGATIVE).squeeze(1)
    positive = _choose(positive, max(1, int(count * positive_fraction)), generator)
    wanted = min(count - len(positive), len(negative))
    in_pool = min(len(negative), pool * max(wanted, 1))
    hardest = hardness[negative].topk(in_pool).indices
    return positive, _choose(negative[hardest], wanted, generator)


def _choose(
    index: Int[Tensor, " n"], count: int, generator: torch.Generator
) -> Int[Tensor, " chosen"]:
    if len(index) <= count:
        return index
    # Drawn on the CPU, so that every device draws the same.
    return index[torch.randperm(len(index), generator=generator)[:count].to(index.device)]


def _force_best(matches: Matches, iou: Float[Tensor, "n g"]) -> None:
    best_iou, best = iou.max(dim=0)
    overlapping: Bool[Tensor, " g"] = best_iou > 0
    matches[best[overlapping]] = torch.nonzero(overlapping).squeeze(1)
