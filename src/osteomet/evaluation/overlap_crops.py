"""Where masks and lesions lie, cut out of the scan: nothing here is as large as the scan.

Boxes that touch are one crop, so that the union of masks, and distances up to a margin, come out
of the crops exactly as they would of the whole scan.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Integer
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from osteomet.findings import RunLengthMask

Region = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class Crop:
    """A part of a scan.

    Attributes:
        predicted: voxels of any predicted mask, less those that do not count.
        true: voxels of any true lesion.
    """

    predicted: Bool[np.ndarray, "z y x"]
    true: Bool[np.ndarray, "z y x"]


def scan_crops(
    masks: Sequence[RunLengthMask | None],
    instances: Integer[np.ndarray, "z y x"],
    boxes: Float[np.ndarray, "n 6"],
    margin_zyx: tuple[int, int, int],
    ignore: Bool[np.ndarray, "z y x"] | None = None,
) -> Iterator[Crop]:
    """Yield the parts of a scan that hold a mask or a lesion; each voxel of one is in one crop.

    Args:
        masks: predictions on the scan's grid; they may overlap, None is an empty one.
        instances: true lesions as a label map.
        boxes: voxel-edge boxes of these.
        margin_zyx: voxels around each mask and lesion; what is farther apart never meets.
        ignore: predicted voxels in here and in no lesion do not count.
    """
    given = [mask for mask in masks if mask is not None and np.prod(mask.shape_zyx) > 0]
    mask_boxes = [
        [*mask.offset_zyx, *np.add(mask.offset_zyx, mask.shape_zyx).tolist()] for mask in given
    ]
    extents = np.array([*mask_boxes, *boxes.tolist()], dtype=np.int64).reshape(-1, 6)
    margin = np.array(margin_zyx)
    extents[:, :3] -= margin
    extents[:, 3:] += margin
    hulls, owner = _clusters(extents)
    for number, hull in enumerate(hulls):
        low = np.maximum(hull[:3], 0)
        high = np.minimum(hull[3:], instances.shape)
        region = _region(low, high)
        predicted = np.zeros(tuple((high - low).tolist()), dtype=bool)
        for mask, its in zip(given, owner[: len(given)].tolist(), strict=True):
            if its == number:
                start = np.array(mask.offset_zyx) - low
                predicted[_region(start, start + np.array(mask.shape_zyx))] |= mask.decode()
        true = instances[region] > 0
        yield Crop(counted(predicted, true, None if ignore is None else ignore[region]), true)


def pair_crop(
    mask: RunLengthMask,
    instances: Integer[np.ndarray, "z y x"],
    lesion_id: int,
    box: Float[np.ndarray, " 6"],
    ignore: Bool[np.ndarray, "z y x"] | None = None,
) -> Crop:
    """Return one predicted mask and one true lesion in the smallest crop that holds both.

    Args:
        mask: the prediction, on the grid of ``instances``.
        instances: label map of the scan.
        lesion_id: the lesion's value in it.
        box: the lesion's voxel-edge box, which spares a search of the scan.
        ignore: predicted voxels in here and in no lesion do not count.
    """
    offset = np.array(mask.offset_zyx)
    edges = box.astype(np.int64)
    low = np.minimum(offset, edges[:3])
    high = np.maximum(offset + np.array(mask.shape_zyx), edges[3:])
    region = _region(low, high)
    predicted = np.zeros(tuple((high - low).tolist()), dtype=bool)
    predicted[_region(offset - low, offset - low + np.array(mask.shape_zyx))] = mask.decode()
    labels = instances[region]
    return Crop(
        counted(predicted, labels > 0, None if ignore is None else ignore[region]),
        labels == lesion_id,
    )


def mask_region(mask: RunLengthMask) -> Region:
    """Return where a mask's array lies in its scan."""
    offset = np.array(mask.offset_zyx)
    return _region(offset, offset + np.array(mask.shape_zyx))


def counted(
    predicted: Bool[np.ndarray, "z y x"],
    in_lesion: Bool[np.ndarray, "z y x"],
    ignore: Bool[np.ndarray, "z y x"] | None,
) -> Bool[np.ndarray, "z y x"]:
    """Return the predicted voxels less those in an ignore region and in no lesion."""
    return predicted if ignore is None else predicted & (in_lesion | ~ignore)


def _clusters(
    boxes: Int[np.ndarray, "n 6"],
) -> tuple[Int[np.ndarray, "k 6"], Int[np.ndarray, " n"]]:
    """Join boxes that overlap until no two do; return the hulls, and the hull of each box."""
    owner = np.arange(len(boxes), dtype=np.int64)
    hulls = boxes
    while len(hulls):
        meets = (hulls[:, None, :3] < hulls[None, :, 3:]).all(axis=2)
        graph = coo_array(np.asarray(meets & meets.T, dtype=np.int8))
        count, found = connected_components(graph, directed=False)
        labels = np.asarray(found, dtype=np.int64)
        if count == len(hulls):
            break
        owner = labels[owner]
        low = np.full((count, 3), np.iinfo(np.int64).max)
        high = np.full((count, 3), np.iinfo(np.int64).min)
        np.minimum.at(low, labels, hulls[:, :3])
        np.maximum.at(high, labels, hulls[:, 3:])
        hulls = np.concatenate([low, high], axis=1)
    return hulls, owner


def _region(low: Int[np.ndarray, "3"], high: Int[np.ndarray, "3"]) -> Region:
    z, y, x = (slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))
    return z, y, x
