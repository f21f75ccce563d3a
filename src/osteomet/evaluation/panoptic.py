"""Panoptic quality: one figure for finding lesions and for outlining them.

A predicted and a true lesion match if their masks overlap with an IoU above one half; masks that
do not overlap each other leave no choice then. The quality is the sum of those IoU over the
matches and half of everything unmatched, on either side.

Source: Kirillov et al., Panoptic Segmentation, CVPR 2019.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from osteomet.evaluation.overlap_crops import counted, mask_region
from osteomet.evaluation.statistics import ratio
from osteomet.findings import RunLengthMask

MATCHED_IOU = 0.5


@dataclass(frozen=True)
class PanopticCounts:
    """What panoptic quality is made of, so that scans add up.

    Attributes:
        iou_sum: of the matches.
        matches: pairs of a predicted and a true lesion.
        unmatched_predicted: false positives.
        unmatched_true: misses.
    """

    iou_sum: float = 0.0
    matches: int = 0
    unmatched_predicted: int = 0
    unmatched_true: int = 0


def mask_ious(
    masks: Sequence[RunLengthMask | None],
    instances: Integer[np.ndarray, "z y x"],
    ids: Int[np.ndarray, " lesions"],
    volumes_vox: Int[np.ndarray, " lesions"],
    ignore: Bool[np.ndarray, "z y x"] | None = None,
) -> Float[np.ndarray, "masks lesions"]:
    """Return the IoU of every predicted mask with every true lesion; 0 for an empty mask.

    Args:
        masks: predictions on the grid of ``instances``.
        instances: label map of the scan.
        ids: the lesions' values in it, rising.
        volumes_vox: voxels of each.
        ignore: predicted voxels in here and in no lesion do not count.
    """
    iou = np.zeros((len(masks), len(ids)))
    for row, mask in enumerate(masks):
        if mask is None or not len(ids):
            continue
        region = mask_region(mask)
        labels = instances[region]
        predicted = counted(mask.decode(), labels > 0, None if ignore is None else ignore[region])
        shared = np.bincount(labels[predicted], minlength=int(ids[-1]) + 1)[ids]
        union = np.count_nonzero(predicted) + volumes_vox - shared
        iou[row] = shared / np.maximum(union, 1)
    return iou


def match_masks(iou: Float[np.ndarray, "masks lesions"]) -> PanopticCounts:
    """Match masks and lesions, the largest IoU first; each is matched once."""
    rows, columns = np.nonzero(iou > MATCHED_IOU)
    matched: dict[int, int] = {}
    for place in np.argsort(-iou[rows, columns], kind="stable"):
        row, column = int(rows[place]), int(columns[place])
        if row not in matched and column not in matched.values():
            matched[row] = column
    return PanopticCounts(
        float(sum(iou[row, column] for row, column in matched.items())),
        len(matched),
        iou.shape[0] - len(matched),
        iou.shape[1] - len(matched),
    )


def panoptic_table(counts: Sequence[PanopticCounts]) -> Float[np.ndarray, "scans 4"]:
    """Return one row a scan, in the order of the fields of ``PanopticCounts``."""
    rows = [[c.iou_sum, c.matches, c.unmatched_predicted, c.unmatched_true] for c in counts]
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def panoptic_quality(
    table: Float[np.ndarray, "scans 4"], weights: Float[np.ndarray, " scans"]
) -> tuple[float, float, float]:
    """Return panoptic, segmentation and recognition quality, each scan counted ``weights`` times.

    The first is the product of the others: the mean IoU of matches, and the F1 of matching.
    NaN where there is neither a lesion nor a report.
    """
    iou_sum, matches, spare, missed = (weights @ table).tolist()
    size = matches + (spare + missed) / 2
    return ratio(iou_sum, size), ratio(iou_sum, matches), ratio(matches, size)
