"""Which lesions were found, and at what price in false positives.

The hit rule, stated here and nowhere else:

- A candidate hits a lesion if their boxes overlap with an IoU of at least ``HIT_IOU``. Lesions
  are small and 3D IoU falls fast, so 0.1 asks for the right place rather than the right size;
  how well the shape fits is the business of ``segmentation``.
- Candidates choose in the order of their scores. Each takes the lesion that is still free and
  that it overlaps most. One candidate hits one lesion, and one lesion is hit once.
- A second candidate on a lesion that was already hit is a false positive: one lesion must
  be reported once.
- A candidate that hits nothing but overlaps an ignore region with at least ``HIT_IOU``, or
  lies in it with more than half of its volume, is dropped: neither rewarded nor punished.

Since a candidate never changes the choice of those above it, one matching of all candidates
holds for every threshold.

False positives are averaged over all scans, those without a lesion included; sensitivity is
over lesions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from osteomet.box_arrays import Boxes, box_intersection, box_iou, box_volume

HIT_IOU = 0.1
IGNORED_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class ScanMatches:
    """Candidates of one scan, best first, and the lesion that each hit; dropped ones are gone.

    Attributes:
        scores: ``(n,)``, falling.
        lesion: ``(n,)`` index of the lesion that was hit; -1 for a false positive.
        candidate: ``(n,)`` place of each in the input.
        lesions: how many lesions there truly are.
    """

    scores: Float[np.ndarray, " n"]
    lesion: Int[np.ndarray, " n"]
    candidate: Int[np.ndarray, " n"]
    lesions: int

    @property
    def hits(self) -> Bool[np.ndarray, " n"]:
        return self.lesion >= 0


@dataclass(frozen=True, eq=False)
class FROC:
    """Sensitivity against false positives per scan, one point per distinct score.

    Attributes:
        thresholds: ``(k,)`` falling; a candidate counts if its score is at least this. The first
            is infinity, at which nothing counts.
        sensitivity: ``(k,)`` share of lesions hit, never falling; NaN where there is no lesion.
        false_positives: ``(k,)`` per scan, never falling.
        scans: how many, with and without lesions.
        lesions: how many.
    """

    thresholds: Float[np.ndarray, " k"]
    sensitivity: Float[np.ndarray, " k"]
    false_positives: Float[np.ndarray, " k"]
    scans: float
    lesions: float

    def at(self, false_positives: float) -> tuple[float, float, float]:
        """Return threshold, sensitivity and FP per scan of the best point within a limit.

        The limit is never exceeded: no line is drawn between two points, since no threshold
        gives what lies between them. Of points with equal sensitivity the one with the highest
        threshold, and so the fewest false positives, is taken. The threshold is infinite
        where every point that hits a lesion exceeds the limit.
        """
        last = int(np.searchsorted(self.false_positives, false_positives, side="right")) - 1
        if np.isnan(self.sensitivity[last]):
            best = 0
        else:
            best = int(np.searchsorted(self.sensitivity, self.sensitivity[last]))
        return (
            float(self.thresholds[best]),
            float(self.sensitivity[best]),
            float(self.false_positives[best]),
        )

    def sensitivity_at(self, false_positives: float) -> float:
        """Return the highest sensitivity within a limit of false positives per scan."""
        return self.at(false_positives)[1]

    def sensitivities_at(self, rates: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Return ``sensitivity_at`` for many limits, none below 0, at once."""
        last = np.searchsorted(self.false_positives, rates, side="right") - 1
        sensitivities: Float[np.ndarray, " n"] = self.sensitivity[last]
        return sensitivities

    def operating_threshold(self, false_positives: float) -> float:
        """Return the score above which candidates become lesions, to be kept in the weights.

        Choose it on validation scans, never on those that are reported. 1.0 where no lesion
        can be hit within the limit.
        """
        return min(self.at(false_positives)[0], 1.0)


def match_candidates(
    boxes: Boxes,
    scores: Float[np.ndarray, " n"],
    lesion_boxes: Float[np.ndarray, "m 6"],
    ignore_boxes: Float[np.ndarray, "k 6"] | None = None,
    iou_threshold: float = HIT_IOU,
) -> ScanMatches:
    """Apply the hit rule of this module to one scan or patch.

    Args:
        boxes: candidates; any number, in any order.
        scores: theirs. Equal scores choose in the order of their largest IoU.
        lesion_boxes: the truth, on the same grid; may be empty.
        ignore_boxes: regions neither rewarded nor punished.
        iou_threshold: smallest IoU of a hit.
    """
    iou = box_iou(boxes, lesion_boxes)
    best = iou.max(axis=1, initial=0.0)
    order = np.lexsort((-best, -scores))
    taken = np.zeros(len(lesion_boxes), dtype=bool)
    lesion = np.full(len(boxes), -1)
    for place in order:
        free = np.where(taken, -1.0, iou[place])
        if len(free) and free.max() >= iou_threshold:
            lesion[place] = int(free.argmax())
            taken[lesion[place]] = True
    if ignore_boxes is not None and len(ignore_boxes):
        dropped = _ignored(boxes, ignore_boxes, iou_threshold) & (lesion < 0)
        order = order[~dropped[order]]
    return ScanMatches(scores[order].astype(np.float64), lesion[order], order, len(lesion_boxes))


def froc(scans: Sequence[ScanMatches]) -> FROC:
    """Return the FROC curve of a set of scans.

    Raises:
        ValueError: there is no scan.
    """
    if not scans:
        raise ValueError("no scan to evaluate; expected at least one")
    return PooledMatches(scans, np.arange(len(scans))).froc(np.ones(len(scans)))


class PooledMatches:
    """The candidates of many scans, sorted once, so that a resample costs a few sums.

    Args:
        scans: their matches.
        patients: ``(scans,)`` index of each scan's patient, from 0.
    """

    def __init__(self, scans: Sequence[ScanMatches], patients: Int[np.ndarray, " scans"]) -> None:
        scores = np.concatenate([scan.scores for scan in scans])
        hits = np.concatenate([scan.hits for scan in scans])
        owner = np.repeat(patients, [len(scan.scores) for scan in scans])
        order = np.argsort(-scores, kind="stable")
        self._scores, self._hits, self._owner = scores[order], hits[order], owner[order]
        # A threshold admits all candidates of one score, so a point stands after the last.
        self._ends = np.flatnonzero(np.diff(self._scores, append=-np.inf))
        self._scan_patient = patients
        self._lesions = np.array([scan.lesions for scan in scans], dtype=np.float64)

    def froc(self, weights: Float[np.ndarray, " patients"]) -> FROC:
        """Return the curve with each patient counted ``weights`` times."""
        of_scan, of_candidate = weights[self._scan_patient], weights[self._owner]
        scans, lesions = float(of_scan.sum()), float((of_scan * self._lesions).sum())
        hits = np.cumsum(of_candidate * self._hits)[self._ends]
        misses = np.cumsum(of_candidate * ~self._hits)[self._ends]
        found = np.concatenate([[0.0], hits])
        return FROC(
            np.concatenate([[np.inf], self._scores[self._ends]]),
            found / lesions if lesions else np.full(len(found), np.nan),
            np.concatenate([[0.0], misses]) / scans,
            scans,
            lesions,
        )


def _ignored(
    boxes: Boxes, ignore_boxes: Float[np.ndarray, "k 6"], iou_threshold: float
) -> Bool[np.ndarray, " n"]:
    share = (
        box_intersection(boxes, ignore_boxes)
        / np.maximum(box_volume(boxes), np.finfo(np.float64).tiny)[:, None]
    )
    touched = box_iou(boxes, ignore_boxes) >= iou_threshold
    ignored: Bool[np.ndarray, " n"] = (touched | (share > IGNORED_SHARE)).any(axis=1)
    return ignored
