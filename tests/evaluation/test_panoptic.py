"""Panoptic quality against torchmetrics, and by hand."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.detection import panoptic_quality as torchmetrics_quality

from osteomet.box_arrays import instance_boxes
from osteomet.evaluation.panoptic import (
    PanopticCounts,
    mask_ious,
    match_masks,
    panoptic_quality,
    panoptic_table,
)
from osteomet.findings import RunLengthMask

SHAPE = (8, 20, 24)


def label_maps(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a true and a predicted label map: lesions kept, shifted, dropped and invented."""
    generator = np.random.default_rng(seed)
    true, predicted = np.zeros(SHAPE, np.int16), np.zeros(SHAPE, np.int16)
    for label, corner in enumerate(np.ndindex(2, 4, 4), start=1):
        z, y, x = 4 * corner[0], 5 * corner[1], 6 * corner[2]
        if generator.random() < 0.7:
            true[z : z + 3, y : y + 4, x : x + 4] = label
        if generator.random() < 0.7:
            shift, size = generator.integers(0, 3), generator.integers(2, 5)
            predicted[z : z + 3, y : y + size, x + shift : x + shift + 4] = label
    return true, predicted


def masks_of(labels: np.ndarray) -> list[RunLengthMask]:
    ids, boxes = instance_boxes(labels)
    masks = []
    for value, box in zip(ids.tolist(), boxes.astype(int).tolist(), strict=True):
        z1, y1, x1, z2, y2, x2 = box
        masks.append(RunLengthMask.encode(labels[z1:z2, y1:y2, x1:x2] == value, (z1, y1, x1)))
    return masks


def counts_of(true: np.ndarray, masks: list[RunLengthMask | None]) -> PanopticCounts:
    ids, _ = instance_boxes(true)
    volumes = np.array([(true == value).sum() for value in ids], np.int64)
    return match_masks(mask_ious(masks, true, ids, volumes))


@pytest.mark.parametrize("seed", range(10))
def test_equals_torchmetrics(seed: int) -> None:
    true, predicted = label_maps(seed)
    # torchmetrics takes pairs of category and instance; category 0 is background.
    pairs = [
        torch.from_numpy(np.stack([labels > 0, labels], axis=-1).astype(np.int64))[None]
        for labels in (predicted, true)
    ]
    expected = torchmetrics_quality(
        *pairs, things={1}, stuffs={0}, return_per_class=True, return_sq_and_rq=True
    ).reshape(-1, 3)[0]
    ours = panoptic_quality(
        panoptic_table([counts_of(true, list(masks_of(predicted)))]), np.ones(1)
    )
    assert ours == pytest.approx(expected.tolist(), abs=1e-6)


def test_by_hand() -> None:
    true = np.zeros(SHAPE, np.int16)
    true[:2, :4, :4] = 3  # 32 voxels
    true[4:6, 10:14, 10:14] = 7
    three_quarters = RunLengthMask.encode(np.ones((2, 3, 4), bool), (0, 0, 0))
    half = RunLengthMask.encode(np.ones((2, 4, 2), bool), (4, 10, 10))  # IoU of exactly one half
    counts = counts_of(true, [three_quarters, half, None])
    assert counts == PanopticCounts(0.75, 1, 2, 1)
    quality = panoptic_quality(panoptic_table([counts, PanopticCounts()]), np.array([1.0, 5.0]))
    assert quality == pytest.approx((0.75 / 2.5, 0.75, 1 / 2.5))


def test_two_masks_on_one_lesion_match_once() -> None:
    true = np.zeros(SHAPE, np.int16)
    true[:2, :4, :4] = 1
    whole = RunLengthMask.encode(np.ones((2, 4, 4), bool), (0, 0, 0))
    most = RunLengthMask.encode(np.ones((2, 3, 4), bool), (0, 0, 0))
    assert counts_of(true, [most, whole]) == PanopticCounts(1.0, 1, 1, 0)


def test_nothing() -> None:
    counts = counts_of(np.zeros(SHAPE, np.int16), [])
    assert counts == PanopticCounts()
    assert np.isnan(panoptic_quality(panoptic_table([counts]), np.ones(1))).all()
