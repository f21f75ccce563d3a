"""What `operators.py` times of boxes and masks; see ``operator_cases.py``."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from operator_cases import FLOAT, OURS, Case, Run, Work, random_boxes, sampling_grid
from torch import Tensor
from torch.nn import functional as F

from osteomet.ops import acceleration, boxes, masks
from osteomet.ops.nms import batched_nms, nms, weighted_box_clustering

monai: Any = None
coder: Any = None
with suppress(ImportError):
    monai = importlib.import_module("monai.data.box_utils")
    coders = importlib.import_module("monai.apps.detection.utils.box_coder")
    coder = coders.BoxCoder((10.0, 10.0, 10.0, 5.0, 5.0, 5.0))

PAIR, HULL = 18.0, 16.0
"""Operations to compare two boxes: 6 extremes, 3 differences, 3 of them kept from falling below
0, 2 products, 3 for the union, 1 division; and for their hull as many again, nearly."""
NMS = ((100, "dense"), (1000, "dense"), (1000, "sparse"), (5000, "dense"))


def suppression() -> Iterator[Case]:
    """Suppress at IoU 0.5, and cluster at 0.2, by comparing boxes in pairs.

    At least all kept boxes must be compared with each other, and every box with one; each box is
    read. An index over space could compare fewer.
    """
    for count, scene in NMS:
        spread = {"dense": 4.3, "sparse": 15.0}[scene] * count ** (1 / 3)
        b, scores, groups = (
            random_boxes(count, spread, 3, 12),
            torch.rand(count),
            torch.arange(count) % 3,
        )
        kept, kept_of = len(nms(b, scores, 0.5)), len(batched_nms(b, scores, groups, 0.5))
        variants: dict[str, Run] = {"osteomet, torch alone": partial(_by_torch, b, scores)}
        grouped: dict[str, Run] = {}
        if monai is not None:
            theirs = partial(monai.non_max_suppression, b, scores, 0.5)
            if set(theirs().tolist()) != set(nms(b, scores, 0.5).tolist()):
                raise RuntimeError(f"MONAI keeps other boxes of {count} {scene} ones")
            variants = {"MONAI": theirs, **variants}
            grouped["MONAI"] = partial(monai.batched_nms, b, scores, groups, 0.5)
        variants[OURS] = partial(nms, b, scores, 0.5)
        grouped[OURS] = partial(batched_nms, b, scores, groups, 0.5)
        yield Case(f"nms, {count} {scene}", _pairs(count, kept), variants)
        yield Case(f"batched_nms, {count} {scene}", _pairs(count, kept_of / 3**0.5), grouped)
        if count <= 1000:
            ones = torch.ones(count)
            clustering = partial(weighted_box_clustering, b, scores, ones, ones, 0.2)
            heads = len(clustering()[1])
            clusters: dict[str, Run] = {"a loop": partial(_cluster_by_loop, b, scores, 0.2)}
            clusters[OURS] = clustering
            yield Case(f"clustering, {count} {scene}", _pairs(count, heads), clusters)


def _pairs(count: int, kept: float) -> Work:
    return Work(PAIR * (kept * kept / 2 + count), 7.0 * FLOAT * count)


def _by_torch(b: Tensor, scores: Tensor) -> Tensor:
    """Run NMS as it runs where numba is missing."""
    enabled, acceleration.NUMBA_ENABLED = acceleration.NUMBA_ENABLED, False
    try:
        return nms(b, scores, 0.5)
    finally:
        acceleration.NUMBA_ENABLED = enabled


def _cluster_by_loop(b: Tensor, scores: Tensor, threshold: float) -> list[Tensor]:
    """Fuse as one would write it: the best box left takes all that it overlaps."""
    left = scores.argsort(descending=True)
    fused = []
    while len(left):
        iou = boxes.box_iou(b[left[:1]], b[left])[0]
        joins = iou > threshold
        joins[0] = True
        members = left[joins]
        pull = (scores[members] * iou[joins])[:, None]
        fused.append((b[members] * pull).sum(dim=0) / pull.sum())
        left = left[~joins]
    return fused


def box_arithmetic() -> Iterator[Case]:
    """Compare, encode and change boxes.

    Some operations on each box or pair, of which each number is read and written once.
    """
    n = 9344  # the anchors of a patch
    a, b = random_boxes(1000, 90, 3, 20), random_boxes(1000, 90, 3, 20)
    moved, anchors = random_boxes(n, 64, 8, 40), random_boxes(n, 64, 8, 40)
    few, many, rows = (anchors, anchors[:5]), (a, b), (moved, anchors)
    deltas = boxes.encode_boxes(moved, anchors)
    image = (64, 64, 64)
    giou, pairs = PAIR + HULL, 1e6
    yield _arithmetic("box_iou, 9344 x 5", PAIR * 5 * n, 11 * n, "box_iou", boxes.box_iou, few)
    yield _arithmetic("box_iou, 1000^2", PAIR * pairs, pairs, "box_iou", boxes.box_iou, many)
    yield _arithmetic("box_giou, 1000^2", giou * pairs, pairs, "box_giou", boxes.box_giou, many)
    yield _arithmetic("paired_iou", PAIR * n, 13 * n, None, boxes.paired_iou, rows)
    yield _arithmetic("paired_giou", giou * n, 13 * n, "box_pair_giou", boxes.paired_giou, rows)
    yield _arithmetic("encode_boxes", 30 * n, 18 * n, "encode_single", boxes.encode_boxes, rows)
    yield _arithmetic(
        "decode_boxes", 30 * n, 18 * n, "decode_single", boxes.decode_boxes, (deltas, anchors)
    )
    yield _arithmetic(
        "clip_boxes", 12 * n, 12 * n, "clip_boxes_to_image", boxes.clip_boxes, (moved, image)
    )
    yield _arithmetic("box_volume", 8 * n, 7 * n, "box_area", boxes.box_volume, (moved,))
    yield _arithmetic("box_centers", 6 * n, 9 * n, "box_centers", boxes.box_centers, (moved,))
    yield _arithmetic("scale_boxes", 18 * n, 12 * n, None, boxes.scale_boxes, (moved, 1.2))


def _arithmetic(
    name: str,
    operations: float,
    numbers: float,
    theirs: str | None,
    ours: Callable[..., Tensor],
    arguments: tuple[object, ...],
) -> Case:
    """Return a case against the function of MONAI, or of its coder, that has this name."""
    variants: dict[str, Run] = {}
    if theirs is not None and monai is not None:
        function = getattr(monai, theirs, None) or getattr(coder, theirs)
        variants["MONAI"] = partial(function, *arguments)
    return Case(
        name, Work(operations, FLOAT * numbers), {**variants, OURS: partial(ours, *arguments)}
    )


PASTE = ((24, 12), (24, 40), (24, 120))
"""Cells of a mask and voxels of its box, a side."""


def mask_resampling() -> Iterator[Case]:
    """Crop masks of instances, and paste them.

    Each result is written and is the last of three interpolations; what is sampled is read.
    """
    for cells, side in PASTE:
        crop, centers = torch.rand(cells, cells, cells), torch.arange(side) + 0.5
        box = torch.tensor([0.0, 0, 0, side, side, side])
        by_torch = partial(_paste_by_torch, crop, box, centers)
        work = Work(3.0 * side**3, FLOAT * (side**3 + cells**3))
        ours = partial(masks.paste_mask, crop, box, centers, centers, centers)
        yield Case(
            f"paste_mask, {cells}^3 to {side}^3", work, {"grid_sample": by_torch, OURS: ours}
        )
    instances = torch.zeros(64, 64, 64, dtype=torch.int16)
    instances[20:40, 20:40, 20:40] = 1
    for count, size in ((4, 24), (16, 24)):
        b, ids = random_boxes(count, 64, 8, 30).clamp(0, 64), torch.ones(count, dtype=torch.long)
        inside = (b[:, 3:] - b[:, :3]).prod(dim=1).sum().item()
        grid = sampling_grid(b, size, 64)
        whole = partial(_crop_by_torch, instances, ids, grid)
        work = Work(3.0 * count * size**3, FLOAT * count * size**3 + 2 * inside)
        ours = partial(masks.crop_instances, instances, ids, b, size)
        yield Case(f"crop_instances, {count} to {size}^3", work, {"grid_sample": whole, OURS: ours})


def _paste_by_torch(crop: Tensor, box: Tensor, centers: Tensor) -> Tensor:
    """Make the grid, whose positions are the voxels', and sample."""
    z, y, x = (2 * (centers - box[axis]) / (box[axis + 3] - box[axis]) - 1 for axis in range(3))
    grid = torch.stack(torch.meshgrid(z, y, x, indexing="ij")[::-1], dim=-1)
    return _sample(crop[None, None], grid[None])


def _sample(values: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(values, grid, padding_mode="border", align_corners=False)[0, 0]


def _crop_by_torch(instances: Tensor, ids: Tensor, grid: Tensor) -> Tensor:
    """One sample a cell; osteomet takes more where a cell is larger than a voxel."""
    return torch.stack(
        [
            _sample((instances == number).float()[None, None], one[None])
            for number, one in zip(ids.tolist(), grid, strict=True)
        ]
    )
