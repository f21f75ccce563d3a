"""Sew the detections of overlapping tiles into one set for the scan.

Two tiles report the same lesion if their boxes agree where both tiles look. Three steps:
a detection that a tile's border has cut is dropped where another tile has the lesion whole, or
joined with the other pieces where none has; what remains is clustered by overlap, the more
central a view the more it counts; a box inside a better one is the same lesion again.
Masks stay crops throughout: nothing here is as large as lesions times voxels. All of a long scan's
crops together are as large as a scan, so they are not copied: each step hands on which they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from osteomet.config import InferenceConfig
from osteomet.ops.boxes import box_volume, clip_boxes
from osteomet.ops.masks import paste_mask
from osteomet.ops.nms import nms, weighted_box_clustering
from osteomet.structures import Detections
from osteomet.volume import ShapeZYX

CUT_VOX = 2.0
"""A box that comes this close to a tile's inner border is cut by it."""

CUT_SHARE = 0.1
"""The same as a share of the box's side: a large box is regressed less exactly."""

SAME_LESION_IOU = 0.3
"""Boxes that agree this much in the region which both tiles see are one lesion."""

CONTAINED_SHARE = 0.8
"""A box of which this share lies inside a better one is the same lesion again."""

CLEARANCE_VOX = 4.0
"""A tile is expected to find a lesion that lies this far inside its inner borders."""

LEAST_WEIGHT = 0.05
"""Weight of a view in which the lesion touches the border."""


def merge_detections(
    parts: Sequence[Detections],
    bounds: Float[Tensor, "tiles 6"],
    shape_zyx: ShapeZYX,
    config: InferenceConfig,
) -> Detections:
    """Return one detection for each lesion of a scan, best first.

    Args:
        parts: what each tile found, in voxels of the scan's model grid, on the CPU; may be
            empty, and so may each part.
        bounds: box of each tile, cut to the scan.
        shape_zyx: voxels of the scan; its own border cuts no lesion.
        config: how to merge, and which candidates to keep.

    Returns:
        At most ``max_candidates`` detections with a score of at least ``candidate_score``.
        Embedding and mask are those of the most central view; box, score, p_lung and attributes
        are weighted means.
    """
    if not parts:
        return _nothing()
    crops = [crop for part in parts for crop in part.masks]
    seen = _clipped(_seen(parts, bounds), shape_zyx)
    seen = _fold_pieces(seen, crops, shape_zyx)
    merged = _clustered(seen, bounds, shape_zyx, config)
    merged = merged[merged.found.scores >= config.candidate_score]
    merged = merged[_distinct(merged.found.boxes, config.max_candidates)]
    chosen = [crops[index].float() for index in merged.crops.tolist()]
    masks = torch.stack(chosen) if chosen else parts[0].masks[:0].float()
    return replace(merged.found, masks=masks)


@dataclass(frozen=True, eq=False)
class _Seen:
    """Detections with where they were seen from and what their masks are.

    Attributes:
        found: boxes and all else but the masks, which are left empty.
        views: box of the tile, or of the tiles, that saw each.
        crops: place of each mask in a list of crops.
    """

    found: Detections
    views: Float[Tensor, "n 6"]
    crops: Int[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, keep: Tensor) -> "_Seen":
        return _Seen(self.found[keep], self.views[keep], self.crops[keep])


def _nothing() -> Detections:
    none, boxes = torch.zeros(0), torch.zeros(0, 6)
    wide, masks = torch.zeros(0, 0), torch.zeros(0, 0, 0, 0)
    return Detections(boxes, none, none, wide, wide, boxes, masks)


def _seen(parts: Sequence[Detections], bounds: Float[Tensor, "tiles 6"]) -> _Seen:
    found = Detections.concatenate(
        [replace(part, masks=part.masks.new_zeros(len(part), 0, 0, 0)) for part in parts]
    )
    views = bounds.repeat_interleave(torch.tensor([len(part) for part in parts]), dim=0)
    return _Seen(found, views, torch.arange(len(found)))


def _clipped(seen: _Seen, shape_zyx: ShapeZYX) -> _Seen:
    """Cut boxes to the scan; drop those in the padding, and what damaged weights may give."""
    boxes = clip_boxes(seen.found.boxes, shape_zyx)
    real = (box_volume(boxes) > 0) & (seen.found.scores > 0)  # false for NaN too
    return replace(seen, found=replace(seen.found, boxes=boxes))[real]


def _inner_gaps(boxes: Tensor, views: Tensor, shape_zyx: ShapeZYX) -> Float[Tensor, "n 6"]:
    """Return how far each side of a box is from its tile's border; infinite at the scan's."""
    gaps = torch.cat([boxes[:, :3] - views[:, :3], views[:, 3:] - boxes[:, 3:]], dim=1)
    scan = torch.tensor([0, 0, 0, *shape_zyx], dtype=views.dtype)
    return gaps.masked_fill(views == scan, torch.inf)


def _is_cut(boxes: Tensor, views: Tensor, shape_zyx: ShapeZYX) -> Bool[Tensor, " n"]:
    sides = (boxes[:, 3:] - boxes[:, :3]).repeat(1, 2)
    near = (sides * CUT_SHARE).clamp(min=CUT_VOX)
    return (_inner_gaps(boxes, views, shape_zyx) < near).any(dim=1)


def _same_lesion(
    boxes: Tensor, views: Tensor, other: Tensor, other_views: Tensor
) -> Bool[Tensor, "n m"]:
    """Tell which boxes of different tiles agree where both tiles look."""
    a_low = torch.maximum(boxes[:, None, :3], other_views[None, :, :3])
    a_high = torch.minimum(boxes[:, None, 3:], other_views[None, :, 3:])
    b_low = torch.maximum(other[None, :, :3], views[:, None, :3])
    b_high = torch.minimum(other[None, :, 3:], views[:, None, 3:])
    both = (torch.minimum(a_high, b_high) - torch.maximum(a_low, b_low)).clamp(min=0).prod(-1)
    a = (a_high - a_low).clamp(min=0).prod(-1)
    b = (b_high - b_low).clamp(min=0).prod(-1)
    agree = (both > 0) & (both >= SAME_LESION_IOU * (a + b - both))
    return agree & (views[:, None] != other_views[None]).any(dim=-1)


def _pairs_of_same_lesion(
    boxes: Tensor, views: Tensor, first: Int[Tensor, " n"], second: Int[Tensor, " m"]
) -> Int[Tensor, "pairs 2"]:
    """Return which boxes of ``first`` agree with which of ``second``.

    Tile by tile, as only tiles that overlap can see the same: a tile has few such neighbours,
    however long the scan, and all boxes against all would grow with its square.
    """
    pairs = [torch.zeros(0, 2, dtype=torch.int64)]
    tiles, tile_of = views[first].unique(dim=0, return_inverse=True)
    stacked = _Stack.of(views[second])
    for tile, members in zip(tiles, _grouped(tile_of, len(tiles)), strict=True):
        rows, near = first[members], second[stacked.near(tile)]
        agree = _same_lesion(boxes[rows], views[rows], boxes[near], views[near]).nonzero()
        pairs.append(torch.stack([rows[agree[:, 0]], near[agree[:, 1]]], dim=1))
    return torch.cat(pairs)


def _grouped(group: Int[Tensor, " n"], count: int) -> tuple[Tensor, ...]:
    """Return the ascending indices of each group's members."""
    sizes = group.bincount(minlength=count).tolist()
    return torch.split(group.argsort(stable=True), sizes)


@dataclass(frozen=True, eq=False)
class _Stack:
    """Boxes in the order of their lower ends, to find those at some height.

    Attributes:
        boxes: as they were given.
        order: which of them, by rising lower end along z.
        low: their lower ends, ascending.
        tallest: of their sides along z, rounded up.
    """

    boxes: Float[Tensor, "n 6"]
    order: Int[Tensor, " n"]
    low: Float[Tensor, " n"]
    tallest: float

    @classmethod
    def of(cls, boxes: Float[Tensor, "n 6"]) -> "_Stack":
        low, order = boxes[:, 0].sort(stable=True)
        sides = boxes[:, 3] - boxes[:, 0]
        return cls(boxes, order, low, float(sides.max()) + 1 if len(boxes) else 0.0)

    def near(self, tile: Float[Tensor, "6"]) -> Int[Tensor, " m"]:
        """Return the ascending indices of the boxes that share a part of space with a tile.

        Only boxes of the tile's height are compared, or the comparisons of all tiles would grow
        with the square of a scan's length.
        """
        ends = torch.stack([tile[0] - self.tallest, tile[3]])
        start, stop = torch.searchsorted(self.low, ends).tolist()
        level = self.order[start:stop]
        return level[_meets(self.boxes[level], tile)].sort().values


def _meets(boxes: Tensor, tile: Float[Tensor, "6"]) -> Bool[Tensor, " n"]:
    return (boxes[:, :3] < tile[3:]).all(dim=1) & (tile[:3] < boxes[:, 3:]).all(dim=1)


def _fold_pieces(seen: _Seen, crops: list[Tensor], shape_zyx: ShapeZYX) -> _Seen:
    """Drop pieces of lesions that are whole elsewhere; join the pieces of the others.

    Masks of what is joined are added to ``crops``.
    """
    boxes, views = seen.found.boxes, seen.views
    cut = _is_cut(boxes, views, shape_zyx)
    pieces, whole = cut.nonzero()[:, 0], (~cut).nonzero()[:, 0]
    seen_whole = _pairs_of_same_lesion(boxes, views, pieces, whole)[:, 0]
    pieces = pieces[~torch.isin(pieces, seen_whole)]
    if len(pieces) == 0:
        return seen[whole]
    same = torch.searchsorted(pieces, _pairs_of_same_lesion(boxes, views, pieces, pieces))
    rows, columns = same.numpy().T
    graph = coo_array((np.ones(len(same), bool), (rows, columns)), shape=(len(pieces),) * 2)
    count, group = connected_components(graph, directed=False)
    members = _grouped(torch.from_numpy(group).long(), count)
    joined = [seen[whole], *(_joined(seen[pieces[one]], crops) for one in members)]
    return _Seen(
        Detections.concatenate([one.found for one in joined]),
        torch.cat([one.views for one in joined]),
        torch.cat([one.crops for one in joined]),
    )


def _hull(boxes: Float[Tensor, "n 6"]) -> Float[Tensor, "1 6"]:
    return torch.cat([boxes[:, :3].amin(dim=0), boxes[:, 3:].amax(dim=0)])[None]


def _joined(pieces: _Seen, crops: list[Tensor]) -> _Seen:
    """Return one detection in the place of the pieces of one lesion.

    The mask, added to ``crops``, is the voxelwise maximum of theirs on a new grid over all of
    them; what tells of its look is that of the piece that shows most.
    """
    if len(pieces) == 1:
        return pieces
    found, own = pieces.found, [crops[index] for index in pieces.crops.tolist()]
    most = int(box_volume(found.boxes).argmax())
    mask_box, m = _hull(found.mask_boxes), len(own[0])
    steps = (torch.arange(m) + 0.5) / m
    low, high = mask_box[0, :3], mask_box[0, 3:]
    centers = [low[axis] + (high - low)[axis] * steps for axis in range(3)]
    pasted = [
        paste_mask(mask.float(), box, *centers)
        for mask, box in zip(own, found.mask_boxes, strict=True)
    ]
    crops.append(torch.stack(pasted).amax(dim=0))
    whole = replace(
        found[torch.tensor([most])],
        boxes=_hull(found.boxes),
        scores=found.scores.amax(dim=0, keepdim=True),
        mask_boxes=mask_box,
    )
    return _Seen(whole, _hull(pieces.views), torch.tensor([len(crops) - 1]))


def _centrality(boxes: Tensor, views: Tensor, shape_zyx: ShapeZYX) -> Float[Tensor, " n"]:
    """Return how much tile lies around each box, from ``LEAST_WEIGHT`` at a border to 1."""
    half = ((views[:, 3:] - views[:, :3]) / 2).repeat(1, 2)
    room = (_inner_gaps(boxes, views, shape_zyx) / half).amin(dim=1)
    return room.clamp(LEAST_WEIGHT, 1.0)


def _expected_views(boxes: Tensor, bounds: Tensor, shape_zyx: ShapeZYX) -> Float[Tensor, " n"]:
    """Return how many tiles see each box whole, at least 1."""
    count, stacked = torch.zeros(len(boxes)), _Stack.of(boxes)
    for tile in bounds:
        near = stacked.near(tile)
        gaps = _inner_gaps(boxes[near], tile.expand(len(near), 6), shape_zyx)
        count[near] += (gaps >= CLEARANCE_VOX).all(dim=1)
    return count.clamp(min=1)


def _clustered(seen: _Seen, bounds: Tensor, shape_zyx: ShapeZYX, config: InferenceConfig) -> _Seen:
    found = seen.found
    if config.merge == "nms":
        return seen[nms(found.boxes, found.scores, config.merge_iou)]
    weights = _centrality(found.boxes, seen.views, shape_zyx)
    expected = _expected_views(found.boxes, bounds, shape_zyx)
    boxes, scores, members = weighted_box_clustering(
        found.boxes, found.scores, weights, expected, config.merge_iou
    )
    if not members:
        return seen
    trust = weights * found.scores
    shown = seen[torch.stack([cluster[trust[cluster].argmax()] for cluster in members])]
    shares = [trust[cluster] / trust[cluster].sum() for cluster in members]
    pairs = list(zip(members, shares, strict=True))
    fused = replace(
        shown.found,
        boxes=boxes,
        scores=scores,
        p_lung=torch.stack([share @ found.p_lung[cluster] for cluster, share in pairs]),
        attributes=torch.stack([share @ found.attributes[cluster] for cluster, share in pairs]),
    )
    return replace(shown, found=fused)


def _distinct(boxes: Float[Tensor, "n 6"], most: int) -> Int[Tensor, " kept"]:
    """Return the first ``most`` boxes, sorted best first, not mostly inside a better one kept."""
    kept: list[int] = []
    better = np.empty((most, 6))
    for index, (box, volume) in enumerate(
        zip(boxes.double().numpy(), box_volume(boxes).tolist(), strict=True)
    ):
        if len(kept) == most:
            break
        others = better[: len(kept)]
        sides = np.minimum(box[3:], others[:, 3:]) - np.maximum(box[:3], others[:, :3])
        if (sides.clip(0).prod(axis=1) < CONTAINED_SHARE * volume).all():
            better[len(kept)] = box
            kept.append(index)
    return torch.tensor(kept, dtype=torch.int64)
