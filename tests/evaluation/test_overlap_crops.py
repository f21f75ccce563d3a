"""Crops against whole volumes, with overlapping masks, ignore regions and nothing at all."""

import numpy as np
import pytest

from osteomet.box_arrays import instance_boxes
from osteomet.evaluation.overlap_crops import pair_crop, scan_crops
from osteomet.evaluation.segmentation import dice
from osteomet.evaluation.surface import SurfaceCounts, compare_surfaces
from osteomet.findings import RunLengthMask

SHAPE = (30, 34, 38)
SPACING = (2.0, 1.0, 1.0)


def random_scan(seed: int, count: int = 9) -> tuple[list[RunLengthMask], np.ndarray, np.ndarray]:
    """Return masks, label map and ignore region of a scan, blobs that touch and overlap."""
    generator = np.random.default_rng(seed)

    def blob() -> tuple[np.ndarray, tuple[int, int, int]]:
        size = generator.integers(2, 8, 3)
        start = [int(generator.integers(0, side - n + 1)) for side, n in zip(SHAPE, size)]  # noqa: B905
        return generator.random(tuple(size)) < 0.7, (start[0], start[1], start[2])

    masks = [RunLengthMask.encode(*blob()) for _ in range(count)]
    instances = np.zeros(SHAPE, np.int16)
    for label in range(1, count + 1):
        voxels, start = blob()
        region = tuple(slice(a, a + n) for a, n in zip(start, voxels.shape, strict=True))
        instances[region][voxels] = label
    return masks, instances, generator.random(SHAPE) < 0.2


def whole(masks: list[RunLengthMask]) -> np.ndarray:
    union = np.zeros(SHAPE, bool)
    for mask in masks:
        region = tuple(
            slice(a, a + n) for a, n in zip(mask.offset_zyx, mask.shape_zyx, strict=True)
        )
        union[region] |= mask.decode()
    return union


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_crops_give_what_the_whole_scan_gives(seed: int, ignored: bool) -> None:
    masks, instances, ignore = random_scan(seed)
    boxes = instance_boxes(instances)[1]
    predicted = whole(masks)
    if ignored:
        predicted &= ~ignore | (instances > 0)
    crops = list(scan_crops(masks, instances, boxes, (1, 2, 2), ignore if ignored else None))
    assert sum(int(crop.predicted.sum()) for crop in crops) == predicted.sum()
    assert sum(int(crop.true.sum()) for crop in crops) == (instances > 0).sum()
    shared = sum(int((crop.predicted & crop.true).sum()) for crop in crops)
    assert shared == (predicted & (instances > 0)).sum()
    surfaces = sum(
        (compare_surfaces(crop.predicted, crop.true, SPACING, 2.0) for crop in crops),
        SurfaceCounts(),
    )
    assert surfaces == compare_surfaces(predicted, instances > 0, SPACING, 2.0)


def test_far_blobs_are_cut_apart_and_near_ones_are_not() -> None:
    instances = np.zeros(SHAPE, np.int16)
    instances[2:4, 2:4, 2:4] = 1
    instances[25:28, 30:32, 33:36] = 2
    boxes = instance_boxes(instances)[1]
    near = RunLengthMask.encode(np.ones((2, 2, 2), bool), (5, 2, 2))
    crops = list(scan_crops([near, None], instances, boxes, (1, 1, 1)))
    assert sorted(crop.true.size for crop in crops) == [5 * 4 * 5, 7 * 4 * 4]


def test_nothing_has_no_crop() -> None:
    assert list(scan_crops([None], np.zeros(SHAPE, np.int16), np.zeros((0, 6)), (1, 1, 1))) == []


def test_a_pair_is_read_where_it_lies() -> None:
    instances = np.zeros((6, 7, 8), np.int16)
    instances[1:4, 2:5, 2:5] = 1  # 27 voxels
    instances[4:6, 5:7, 5:8] = 2
    box = np.array([1.0, 2, 2, 4, 5, 5])
    predicted = RunLengthMask.encode(np.ones((3, 3, 6), bool), (1, 2, 2))  # 54, 27 of them right
    crop = pair_crop(predicted, instances, 1, box)
    assert dice(crop.predicted, crop.true) == pytest.approx(2 * 27 / (54 + 27))
    ignore = np.zeros((6, 7, 8), bool)
    ignore[:, :, 4:] = True  # also covers a third of the lesion, which still counts
    crop = pair_crop(predicted, instances, 1, box, ignore)
    assert dice(crop.predicted, crop.true) == 1.0
