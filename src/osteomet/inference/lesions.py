"""From merged detections to candidates and measured lesions on the scan's own grid.

A mask crop is sampled once, at the centres of the scan's voxels. Candidates keep their masks
as they are. Lesions, those above the operating threshold, share a label map: a voxel that two
of them claim goes to the one whose mask is surer there, or else to the better one.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist

from osteomet.config import InferenceConfig
from osteomet.data.preprocess import ModelGrid
from osteomet.findings import (
    BoxVox,
    Candidate,
    HUStatistics,
    Lesion,
    LesionAttributes,
    RunLengthMask,
)
from osteomet.label_map import InstanceMask, LabelMap, tight_window
from osteomet.ops.masks import paste_mask
from osteomet.structures import ATTRIBUTES, Detections
from osteomet.volume import Volume, Window

REMAINING_SHARE = 0.1
"""A lesion that keeps less of its mask beside surer ones is one of them, found twice."""

SURER = 0.01
"""By so much a mask's probability must be larger to take a voxel from a better candidate."""

HULL_FROM = 500
"""Surface voxels above which their convex hull is taken before distances are measured."""


@dataclass(frozen=True, eq=False)
class PlacedMask:
    """One detection's mask in a window of the scan's own grid.

    Attributes:
        probability: of each voxel in the window.
        mask: the voxels taken.
        window: where they lie in the scan as it was read.
    """

    probability: Float[np.ndarray, "z y x"]
    mask: Bool[np.ndarray, "z y x"]
    window: Window

    def encode(self) -> RunLengthMask | None:
        """Return the mask within its own bounding box; None where it is empty."""
        if not self.mask.any():
            return None
        tight = self.tight(1)
        return RunLengthMask.encode(tight.mask, tight.corner)

    def tight(self, label: int) -> InstanceMask:
        """Return the mask, which has a voxel, within its own bounding box and with a label."""
        part = tight_window(self.mask)
        z, y, x = (w.start + t.start for w, t in zip(self.window, part, strict=True))
        return InstanceMask(label, (z, y, x), self.mask[part].copy())


@dataclass(frozen=True, eq=False)
class MeasuredLesions:
    """What is written about the lesions of a scan.

    Attributes:
        candidates: all detections, best first.
        lesions: those above the operating threshold, measured.
        labels: instance labels on the scan's grid; 0 is background.
        warnings: one sentence for each lesion whose mask had to be repaired or left out.
    """

    candidates: tuple[Candidate, ...]
    lesions: tuple[Lesion, ...]
    labels: LabelMap
    warnings: tuple[str, ...]


def measure_lesions(
    detections: Detections, scan: Volume, grid: ModelGrid, config: InferenceConfig
) -> MeasuredLesions:
    """Place detections on the scan's grid and measure those above the operating threshold.

    Args:
        detections: of the whole scan, best first, in voxels of the model's grid; may be empty.
        scan: HU as they were read.
        grid: the model's grid over the scan.
        config: thresholds of lesions and masks.
    """
    boxes = grid.boxes_to_native(detections.boxes.double().numpy())
    boxes = boxes.clip(0, np.array([*scan.shape, *scan.shape]))
    placed = [_place(detections, index, grid, config) for index in range(len(detections))]
    candidates = tuple(
        Candidate(
            box_vox=_six(box),
            score=_probability(detections.scores[index]),
            p_lung=_probability(detections.p_lung[index]),
            mask=placed[index].encode(),
        )
        for index, box in enumerate(boxes)
    )
    above = [i for i, c in enumerate(candidates) if c.score >= config.operating_threshold]
    warnings: list[str] = []
    masks: dict[int, PlacedMask] = {}
    for index in above:
        masks[index] = placed[index]
        if not placed[index].mask.any():
            masks[index] = _ellipsoid(detections.boxes[index].double().numpy(), grid)
            warnings.append(
                f"candidate {index} has no voxel above the mask threshold "
                f"{config.mask_threshold}; the ellipsoid in its box stands for its mask"
            )
    kept = _without_overlaps(masks)
    for index in above:
        if index not in kept:
            warnings.append(
                f"candidate {index} lies within lesions that are surer of its voxels; it is not "
                "listed as a lesion of its own"
            )
    instances, lesions = [], []
    for label, (index, one) in enumerate(sorted(kept.items()), start=1):
        instances.append(one.tight(label))
        attributes = _attributes(detections.attributes[index])
        lesions.append(_measured(label, index, candidates[index], one, scan, attributes))
    labels = LabelMap.on(scan, tuple(instances))
    return MeasuredLesions(candidates, tuple(lesions), labels, tuple(warnings))


def longest_diameter_mm(points_mm: Float[np.ndarray, "n 3"]) -> float:
    """Return the largest distance between two points; 0 for one point or none."""
    if len(points_mm) > HULL_FROM:
        # Points in one plane have no hull, and there are few enough of them to compare all.
        with contextlib.suppress(QhullError):
            points_mm = points_mm[ConvexHull(points_mm).vertices]
    return float(pdist(points_mm).max(initial=0.0))


def extreme_voxels(mask: Bool[np.ndarray, "z y x"]) -> Num[np.ndarray, "n 3"]:
    """Return the indices of voxels that can end the longest diameter.

    Such a voxel ends its row along every axis, so it has a free neighbour along each.
    """
    padded = np.pad(mask, 1)
    extreme = mask
    for axis in range(3):
        before = np.roll(padded, 1, axis)[1:-1, 1:-1, 1:-1]
        after = np.roll(padded, -1, axis)[1:-1, 1:-1, 1:-1]
        extreme = extreme & ~(before & after)
    return np.argwhere(extreme)


def _place(
    detections: Detections, index: int, grid: ModelGrid, config: InferenceConfig
) -> PlacedMask:
    box = detections.mask_boxes[index].double()
    window = grid.lps_window(box.numpy())
    centers = [
        torch.from_numpy(axis[part]) for axis, part in zip(grid.lps_centers(), window, strict=True)
    ]
    crop = detections.masks[index].double()
    probability = paste_mask(crop, box, *centers).float().numpy()
    turned = grid.to_native_axes(probability)
    return PlacedMask(turned, turned >= config.mask_threshold, grid.native_window(window))


def _ellipsoid(box: Float[np.ndarray, " 6"], grid: ModelGrid) -> PlacedMask:
    """Return the voxels in the ellipsoid that a box encloses, at least the one at its centre."""
    center, half = (box[:3] + box[3:]) / 2, (box[3:] - box[:3]) / 2
    window = grid.lps_window(box)
    axes = [axis[part] for axis, part in zip(grid.lps_centers(), window, strict=True)]
    z, y, x = (((axis - c) / h) ** 2 for axis, c, h in zip(axes, center, half, strict=True))
    inside = z[:, None, None] + y[:, None] + x <= 1
    if not inside.any():
        nearest = [
            int(np.abs(axis - c).argmin())
            for axis, c in zip(grid.lps_centers(), center, strict=True)
        ]
        window = (
            slice(nearest[0], nearest[0] + 1),
            slice(nearest[1], nearest[1] + 1),
            slice(nearest[2], nearest[2] + 1),
        )
        inside = np.ones((1, 1, 1), dtype=bool)
    turned = grid.to_native_axes(inside)
    return PlacedMask(turned.astype(np.float32) / 2, turned, grid.native_window(window))


def _without_overlaps(masks: dict[int, PlacedMask]) -> dict[int, PlacedMask]:
    """Give each voxel to one lesion; leave out lesions of which next to nothing remains."""
    own = {index: one.mask.copy() for index, one in masks.items()}
    for first, second in _meeting(masks):
        a, b = masks[first], masks[second]
        shared = [
            slice(max(p.start, q.start), min(p.stop, q.stop))
            for p, q in zip(a.window, b.window, strict=True)
        ]
        in_a, in_b = _within(shared, a.window), _within(shared, b.window)
        both = a.mask[in_a] & b.mask[in_b]
        # The better candidate comes first, and keeps a voxel of which both are as good as sure.
        to_second = both & (b.probability[in_b] > a.probability[in_a] + SURER)
        own[first][in_a] &= ~to_second
        own[second][in_b] &= ~(both & ~to_second)
    return {
        index: PlacedMask(one.probability, own[index], one.window)
        for index, one in masks.items()
        if own[index].sum() > REMAINING_SHARE * one.mask.sum()
    }


def _meeting(masks: dict[int, PlacedMask]) -> Iterator[tuple[int, int]]:
    """Yield the pairs whose windows share a voxel, in the order of ``masks``."""
    names = list(masks)
    low = np.array([[w.start for w in one.window] for one in masks.values()]).reshape(-1, 3)
    high = np.array([[w.stop for w in one.window] for one in masks.values()]).reshape(-1, 3)
    for place, name in enumerate(names):
        later = slice(place + 1, None)
        meets = np.maximum(low[place], low[later]) < np.minimum(high[place], high[later])
        for other in np.flatnonzero(meets.all(axis=1)).tolist():
            yield name, names[place + 1 + other]


def _within(part: Sequence[slice], window: Window) -> Window:
    z, y, x = (
        slice(p.start - w.start, p.stop - w.start) for p, w in zip(part, window, strict=True)
    )
    return z, y, x


def _measured(
    label: int,
    index: int,
    candidate: Candidate,
    one: PlacedMask,
    scan: Volume,
    attributes: LesionAttributes | None,
) -> Lesion:
    corner = np.array([part.start for part in one.window])
    voxels = np.argwhere(one.mask)
    center = voxels.mean(axis=0, keepdims=True) + corner
    ends = scan.index_to_world((extreme_voxels(one.mask) + corner).astype(np.float64))
    return Lesion(
        id=f"L{label}",
        label=label,
        candidate=index,
        score=candidate.score,
        p_lung=candidate.p_lung,
        box_vox=candidate.box_vox,
        box_lps_mm=_six(scan.boxes_to_world(np.array([candidate.box_vox]))[0]),
        centroid_lps_mm=_three(scan.index_to_world(center)[0]),
        volume_ml=len(voxels) * scan.voxel_ml,
        longest_diameter_mm=longest_diameter_mm(ends),
        hu=_hu_statistics(scan.voxels[one.window][one.mask]),
        attributes=attributes,
    )


def _attributes(probabilities: Float[torch.Tensor, " a"]) -> LesionAttributes | None:
    if len(probabilities) == 0:
        return None
    said = [_probability(value) for value in probabilities]
    return LesionAttributes(**dict(zip(ATTRIBUTES, said, strict=True)))


def _hu_statistics(hu: Num[np.ndarray, " n"]) -> HUStatistics:
    values = hu.astype(np.float64)
    p5, median, p95 = np.percentile(values, [5, 50, 95]).tolist()
    return HUStatistics(
        mean=float(values.mean()), std=float(values.std()), p5=p5, median=median, p95=p95
    )


def _probability(value: torch.Tensor) -> float:
    return min(max(float(value), 0.0), 1.0)


def _six(values: Float[np.ndarray, " 6"]) -> BoxVox:
    a, b, c, d, e, f = values.tolist()
    return a, b, c, d, e, f


def _three(values: Float[np.ndarray, " 3"]) -> tuple[float, float, float]:
    x, y, z = values.tolist()
    return x, y, z
