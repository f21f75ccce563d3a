"""Adaptive Training Sample Selection in loops, for a CPU: which anchors a lesion claims.

Source: Zhang et al., "ATSS", arXiv:1912.02424. ``osteomet.models.matching`` says what it does, and
does the same by torch on other devices, in some dozens of passes over all anchors.
"""

from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from osteomet.ops.acceleration import compile_kernel


def claim_anchors(
    anchors: Float[Tensor, "n 6"],
    levels: Int[Tensor, " n"],
    gt_boxes: Float[Tensor, "g 6"],
    iou: Float[Tensor, "g n"],
    candidates_per_level: int,
) -> Int[Tensor, " n"]:
    """Return of each anchor the lesion that claims it; -1 where none does.

    Args:
        anchors: boxes.
        levels: of each anchor, counted from 0.
        gt_boxes: lesions, one or more.
        iou: of each lesion with each anchor.
        candidates_per_level: nearest anchors of each level that set a lesion's threshold.
    """
    claimed = torch.full((len(anchors),), -1, dtype=torch.int64)
    shape = int(levels.max()) + 1, candidates_per_level
    nearest = np.empty(shape, np.float32), np.empty(shape, np.int64), np.empty(shape[0], np.int64)
    arrays = anchors.T.contiguous().numpy(), levels.numpy(), gt_boxes.numpy(), iou.numpy()
    _claim(*arrays, *nearest, claimed.numpy())
    return claimed


@partial(compile_kernel, fastmath=False)
def _claim(
    anchors: np.ndarray,
    levels: np.ndarray,
    lesions: np.ndarray,
    iou: np.ndarray,
    distances: np.ndarray,
    nearest: np.ndarray,
    counts: np.ndarray,
    claimed: np.ndarray,
) -> None:
    """Fill ``claimed``; one coordinate of the anchors is a row. The three before are for work."""
    best = np.full(len(claimed), -1.0, np.float32)
    half = np.float32(0.5)
    for lesion in range(len(lesions)):
        box, overlap = lesions[lesion], iou[lesion]
        _find_nearest(anchors, levels, box, distances, nearest, counts)
        total, squares, count = 0.0, 0.0, 0
        for level in range(len(counts)):
            for i in range(counts[level]):
                value = np.float64(overlap[nearest[level, i]])
                total += value
                squares += value * value
            count += counts[level]
        mean = total / count
        threshold = np.float32(mean + np.sqrt(max(0.0, squares / count - mean * mean)))
        for level in range(len(counts)):
            for i in range(counts[level]):
                anchor = nearest[level, i]
                inside = True
                for axis in range(3):
                    center = (anchors[axis, anchor] + anchors[axis + 3, anchor]) * half
                    inside &= box[axis] < center < box[axis + 3]
                # one that two claim goes to the larger overlap
                if inside and overlap[anchor] >= threshold and overlap[anchor] > best[anchor]:
                    best[anchor], claimed[anchor] = overlap[anchor], lesion


@partial(compile_kernel, fastmath=False)
def _find_nearest(
    anchors: np.ndarray,
    levels: np.ndarray,
    box: np.ndarray,
    distances: np.ndarray,
    nearest: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Keep of each level the anchors whose centres are nearest that of a box, nearest first.

    Of those as far the first ones stay.
    """
    half, most = np.float32(0.5), distances.shape[1]
    z, y, x = (box[0] + box[3]) * half, (box[1] + box[4]) * half, (box[2] + box[5]) * half
    counts[:] = 0
    for anchor in range(len(levels)):
        dz = (anchors[0, anchor] + anchors[3, anchor]) * half - z
        dy = (anchors[1, anchor] + anchors[4, anchor]) * half - y
        dx = (anchors[2, anchor] + anchors[5, anchor]) * half - x
        distance, level = dz * dz + dy * dy + dx * dx, levels[anchor]
        near, at = distances[level], counts[level]
        if at == most:
            if distance >= near[most - 1]:
                continue
            at -= 1
        else:
            counts[level] += 1
        while at > 0 and near[at - 1] > distance:
            near[at], nearest[level, at] = near[at - 1], nearest[level, at - 1]
            at -= 1
        near[at], nearest[level, at] = distance, anchor
