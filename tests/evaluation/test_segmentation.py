"""Dice against counting voxels one by one, with misses, ignore regions and nothing at all."""

import numpy as np
import pytest

from osteomet.evaluation.segmentation import (
    Overlap,
    dice,
    lesion_dice,
    pooled_dice,
    scan_overlap,
    union_of_masks,
)
from osteomet.findings import RunLengthMask

SHAPE = (6, 7, 8)


def random_mask(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE) < 0.4


def counted(a: np.ndarray, b: np.ndarray) -> float:
    pairs = list(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
    return 2 * sum(x and y for x, y in pairs) / sum(x + y for x, y in pairs)


@pytest.mark.parametrize("seed", range(5))
def test_dice_equals_counting(seed: int) -> None:
    a, b = random_mask(seed), random_mask(seed + 100)
    assert dice(a, b) == pytest.approx(counted(a, b))


def test_dice_of_nothing() -> None:
    empty, full = np.zeros(SHAPE, bool), np.ones(SHAPE, bool)
    assert np.isnan(dice(empty, empty))
    assert dice(empty, full) == 0.0
    assert dice(full, full) == 1.0


def test_lesion_dice_reads_the_mask_where_it_lies() -> None:
    instances = np.zeros(SHAPE, np.int16)
    instances[1:4, 2:5, 2:5] = 1  # 27 voxels
    instances[4:6, 5:7, 5:8] = 2
    box = np.array([1.0, 2, 2, 4, 5, 5])
    predicted = RunLengthMask.encode(np.ones((3, 3, 6), bool), (1, 2, 2))  # 54, 27 of them right
    assert lesion_dice(predicted, instances, 1, box) == pytest.approx(2 * 27 / (54 + 27))
    assert lesion_dice(None, instances, 1, box) == 0.0
    ignore = np.zeros(SHAPE, bool)
    ignore[:, :, 4:] = True  # also covers a third of the lesion, which still counts
    assert lesion_dice(predicted, instances, 1, box, ignore) == 1.0


def test_union_counts_shared_voxels_once() -> None:
    one = RunLengthMask.encode(np.ones((2, 2, 2), bool), (0, 0, 0))
    other = RunLengthMask.encode(np.ones((2, 2, 2), bool), (1, 1, 1))
    assert union_of_masks([one, None, other], SHAPE).sum() == 15
    assert not union_of_masks([], SHAPE).any()


def test_scan_overlap_is_in_ml_and_leaves_ignored_voxels_out() -> None:
    instances = np.zeros(SHAPE, np.int16)
    instances[0, 0, :4] = 3
    predicted = np.zeros(SHAPE, bool)
    predicted[0, 0, 2:8] = True
    assert scan_overlap(predicted, instances, 0.5) == Overlap(1.0, 3.0, 2.0)
    ignore = np.zeros(SHAPE, bool)
    ignore[0, 0, 3:7] = True
    assert scan_overlap(predicted, instances, 0.5, ignore) == Overlap(1.0, 1.5, 2.0)


def test_a_patient_without_any_lesion_has_no_dice() -> None:
    assert np.isnan(Overlap().dice)
    assert Overlap(0.0, 2.0, 0.0).dice == 0.0
    assert (Overlap(1.0, 2.0, 3.0) + Overlap(1.0, 1.0, 1.0)) == Overlap(2.0, 3.0, 4.0)


def test_pooled_dice_by_hand() -> None:
    patients = [Overlap(1.0, 2.0, 2.0), Overlap(0.0, 1.0, 0.0), Overlap(5.0, 6.0, 8.0)]
    assert pooled_dice(patients, np.ones(3)) == pytest.approx(2 * 6 / (4 + 1 + 14))
    assert pooled_dice(patients, np.array([2.0, 0, 0])) == pytest.approx(0.5)
    assert np.isnan(pooled_dice(patients, np.zeros(3)))
