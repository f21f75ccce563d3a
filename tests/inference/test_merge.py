"""One lesion is reported once, whole, whatever the tiles cut."""

import dataclasses

import numpy as np
import pytest
import torch

from osteomet.config import InferenceConfig
from osteomet.inference.bone import BoneRegion
from osteomet.inference.merge import (
    CONTAINED_SHARE,
    _distinct,
    _meets,
    _pairs_of_same_lesion,
    _same_lesion,
    _Stack,
    merge_detections,
)
from osteomet.inference.tiles import plan_tiles
from osteomet.ops.boxes import box_iou, scale_boxes
from osteomet.structures import Detections

SHAPE, LARGE = (64, 64, 200), (170, 190, 210)
CONFIG = InferenceConfig()
# Two tiles along x that overlap by 32 voxels: x 0-96 and 64-160, and a third to the end.
BOUNDS = torch.tensor([[0, 0, 0, 64, 64, 96], [0, 0, 64, 64, 64, 160], [0, 0, 104, 64, 64, 200.0]])


def detections(*rows: tuple[float, ...], score: float = 0.8, embedding: float = 0.0) -> Detections:
    boxes = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    n = len(boxes)
    return Detections(
        boxes,
        scores=torch.full((n,), score),
        p_lung=torch.full((n,), 0.3),
        embeddings=torch.full((n, 2), embedding),
        attributes=torch.full((n, 4), score),
        mask_boxes=scale_boxes(boxes, 1.2),
        masks=torch.ones(n, 8, 8, 8),
    )


NONE = detections()


def merge(*parts: Detections, config: InferenceConfig = CONFIG) -> Detections:
    return merge_detections(parts, BOUNDS[: len(parts)], SHAPE, config)


def test_no_tile_and_no_detection_give_nothing() -> None:
    assert len(merge()) == 0
    merged = merge(NONE, NONE, NONE)
    assert merged.masks.shape == (0, 8, 8, 8)
    assert merged.embeddings.shape == (0, 2)


@pytest.mark.parametrize("method", ["wbc", "nms"])
def test_a_lesion_seen_by_two_tiles_is_reported_once(method: str) -> None:
    config = CONFIG.model_copy(update={"merge": method})
    merged = merge(
        detections((20, 20, 70, 30, 30, 80)), detections((21, 20, 70, 31, 30, 80)), NONE,
        config=config,
    )  # fmt: skip
    assert len(merged) == 1
    assert merged.scores[0] == pytest.approx(0.8)


def test_embedding_and_mask_come_from_the_most_central_view() -> None:
    box = (20, 20, 70, 30, 30, 80)  # the second tile starts at 64, the first ends at 96
    merged = merge(detections(box, embedding=1.0), detections(box, embedding=2.0), NONE)
    assert merged.embeddings[0, 0] == 1.0


def test_a_view_that_misses_the_lesion_lowers_its_score() -> None:
    seen_by_two = merge(detections((20, 20, 75, 30, 30, 85)), NONE, NONE)
    seen_by_one = merge(detections((20, 20, 10, 30, 30, 20)), NONE, NONE)
    assert seen_by_one.scores[0] == pytest.approx(0.8)
    assert seen_by_two.scores[0] == pytest.approx(0.4)


@pytest.mark.parametrize("piece_score", [0.3, 0.99])
def test_a_piece_cut_by_a_border_goes_where_another_tile_has_the_lesion_whole(
    piece_score: float,
) -> None:
    whole = detections((20, 20, 74, 50, 50, 110), score=0.7)
    piece = detections((20, 20, 74, 50, 50, 96), score=piece_score)
    merged = merge(piece, whole, NONE)
    assert merged.boxes.tolist() == [[20, 20, 74, 50, 50, 110]]


def test_a_small_piece_goes_too() -> None:
    whole = detections((20, 20, 88, 50, 50, 118), score=0.5)
    piece = detections((24, 24, 88, 46, 46, 96), score=0.9)
    merged = merge(piece, whole, NONE)
    assert merged.boxes.tolist() == [[20, 20, 88, 50, 50, 118]]


def test_pieces_of_a_lesion_that_no_tile_has_whole_are_joined() -> None:
    left = detections((10, 10, 40, 50, 50, 96), score=0.6, embedding=1.0)
    right = detections((10, 10, 64, 50, 50, 130), score=0.7, embedding=2.0)
    merged = merge(left, right, NONE)
    assert merged.boxes.tolist() == [[10, 10, 40, 50, 50, 130]]
    assert merged.scores[0] == pytest.approx(0.7)
    assert merged.embeddings[0, 0] == 2.0, "of the piece that shows most"
    assert merged.masks.shape == (1, 8, 8, 8)
    assert merged.masks.min() == 1.0


def test_two_lesions_cut_by_the_same_border_stay_two() -> None:
    merged = merge(
        detections((5, 5, 85, 15, 15, 96), (40, 40, 85, 50, 50, 96)),
        NONE,
        NONE,
    )
    assert len(merged) == 2


def test_the_border_of_the_scan_cuts_nothing() -> None:
    merged = merge(detections((0, 0, 0, 10, 10, 10)), NONE, NONE)
    assert merged.scores[0] == pytest.approx(0.8)


def test_a_box_inside_a_better_one_goes_but_a_better_one_inside_stays() -> None:
    large, small = (10, 10, 10, 40, 40, 40), (20, 20, 20, 28, 28, 28)
    both = Detections.concatenate([detections(large, score=0.9), detections(small, score=0.5)])
    assert merge(both, NONE, NONE).boxes.tolist() == [list(large)]
    both = Detections.concatenate([detections(large, score=0.5), detections(small, score=0.9)])
    assert len(merge(both, NONE, NONE)) == 2


def test_boxes_in_the_padding_are_dropped_and_others_cut_to_the_scan() -> None:
    merged = merge(detections((60, 10, 10, 70, 20, 20), (70, 10, 10, 80, 20, 20)), NONE, NONE)
    assert merged.boxes.tolist() == [[60, 10, 10, 64, 20, 20]]


def test_candidates_are_limited_in_score_and_number() -> None:
    rows = [(4, 4, 8.0 * i, 10, 10, 8.0 * i + 6) for i in range(6)]
    many = detections(*rows)
    many = dataclasses.replace(many, scores=torch.tensor([0.9, 0.01, 0.5, 0.7, 0.04, 0.3]))
    merged = merge(many, NONE, NONE, config=InferenceConfig(max_candidates=3))
    assert merged.scores.tolist() == pytest.approx([0.9, 0.7, 0.5])
    assert len(merge(many, NONE, NONE)) == 4


def test_what_damaged_weights_give_is_dropped() -> None:
    broken = detections((4, 4, 4, 10, 10, 10), (20, 4, 4, 30, 10, 10), (40, 4, 4, 50, 10, 10))
    broken.scores[0], broken.boxes[1, 0] = torch.nan, torch.nan
    assert merge(broken, NONE, NONE).boxes.tolist() == [[40, 4, 4, 50, 10, 10]]


def separate_boxes(rng: np.random.Generator, longest: float) -> torch.Tensor:
    boxes: list[np.ndarray] = []
    while len(boxes) < 10:
        size = rng.uniform(6, longest, 3)
        low = rng.uniform(0, 1, 3) * (np.array(LARGE) - size)
        box = np.concatenate([low, low + size])
        gaps = [np.maximum(box[:3] - o[3:], o[:3] - box[3:]).max() for o in boxes]
        if all(gap > 4 for gap in gaps):
            boxes.append(box)
    return torch.tensor(np.array(boxes), dtype=torch.float32)


def seen_in(tile: torch.Tensor, truth: torch.Tensor, noise: torch.Tensor) -> Detections:
    """Return the parts of boxes inside a tile, of those that show a tenth, a little off."""
    low, high = torch.maximum(truth[:, :3], tile[:3]), torch.minimum(truth[:, 3:], tile[3:])
    share = (high - low).clamp(min=0).prod(1) / (truth[:, 3:] - truth[:, :3]).prod(1)
    boxes = torch.cat([low, high], dim=1)
    boxes = boxes + noise * (high - low).repeat(1, 2)
    inside = torch.maximum(torch.minimum(boxes, tile[3:].repeat(2)), tile[:3].repeat(2))
    return detections(*inside[share > 0.1].tolist())


@pytest.mark.parametrize("longest", [30.0, 80.0])
@pytest.mark.parametrize("seed", range(4))
def test_any_lesions_under_any_tiling_are_reported_once(seed: int, longest: float) -> None:
    rng = np.random.default_rng(seed)
    truth = separate_boxes(rng, longest)
    region = BoneRegion(np.ones([-(-n // 4) for n in LARGE], dtype=bool), 4, LARGE)
    plan = plan_tiles(region, CONFIG)
    assert len(plan) >= 8
    bounds = torch.from_numpy(plan.bounds)
    for off, least_iou in ((0.0, 0.99), (0.03, 0.7)):
        noise = torch.tensor(rng.uniform(-off, off, (len(truth), 6)), dtype=torch.float32)
        parts = [seen_in(tile, truth, noise) for tile in bounds]
        merged = merge_detections(parts, bounds, LARGE, CONFIG)
        assert len(merged) == len(truth)
        assert (box_iou(truth, merged.boxes).amax(dim=1) > least_iou).all()


def test_pairs_found_tile_by_tile_are_those_of_all_against_all() -> None:
    rng = np.random.default_rng(0)
    tiles = torch.tensor([[z, y, 0, z + 40, y + 40, 40] for z in (0, 30, 60) for y in (0, 25)])
    views = tiles.float()[torch.from_numpy(rng.integers(0, len(tiles), 400))]
    lesions = rng.uniform(0, [90, 55, 30], (20, 3))
    low = torch.from_numpy(lesions[rng.integers(0, 20, 400)] + rng.normal(0, 1, (400, 3))).float()
    boxes = torch.cat([low, low + 12], dim=1)
    first, second = torch.arange(0, 400, 2), torch.arange(1, 400, 2)
    agree = _same_lesion(boxes[first], views[first], boxes[second], views[second]).nonzero()
    expected = torch.stack([first[agree[:, 0]], second[agree[:, 1]]], dim=1)
    pairs = _pairs_of_same_lesion(boxes, views, first, second)
    assert len(pairs) > 5
    assert sorted(pairs.tolist()) == sorted(expected.tolist())


def test_boxes_near_a_tile_are_those_of_comparing_all() -> None:
    rng = np.random.default_rng(2)
    low = rng.uniform(0, 100, (300, 3))
    # Whole numbers too, so that some boxes end just where a tile begins.
    low[::2] = low[::2].round()
    boxes = torch.from_numpy(np.concatenate([low, low + rng.integers(1, 20, (300, 3))], 1)).float()
    stacked = _Stack.of(boxes)
    for z in range(0, 100, 10):
        tile = torch.tensor([z, 10, 20, z + 20, 90, 80]).float()
        expected = _meets(boxes, tile).nonzero()[:, 0].tolist()
        assert len(expected) > 5
        assert stacked.near(tile).tolist() == expected
    assert _Stack.of(boxes[:0]).near(boxes[0]).tolist() == []


@pytest.mark.parametrize("most", [1, 7, 200])
def test_distinct_boxes_are_those_of_a_loop(most: int) -> None:
    rng = np.random.default_rng(1)
    low = rng.uniform(0, 40, (150, 3))
    boxes = torch.from_numpy(np.concatenate([low, low + rng.uniform(2, 30, (150, 3))], axis=1))
    kept: list[int] = []
    for index, box in enumerate(boxes):
        shares = [
            (box[3:].minimum(boxes[k, 3:]) - box[:3].maximum(boxes[k, :3])).clamp(min=0).prod()
            / (box[3:] - box[:3]).prod()
            for k in kept
        ]
        if all(share < CONTAINED_SHARE for share in shares):
            kept.append(index)
    assert len(kept) < 140
    assert _distinct(boxes.float(), most).tolist() == kept[:most]
