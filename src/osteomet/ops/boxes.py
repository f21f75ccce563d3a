"""Axis-aligned 3D boxes as ``(n, 6)`` float tensors ``(z1, y1, x1, z2, y2, x2)``.

Coordinates are voxel edges, half open: voxel ``i`` covers ``[i, i + 1)``, so a box around
voxels 2..4 is ``(2, 5)`` and its length is ``5 - 2 = 3`` voxels. Columns 0-2 are the low
corner and 3-5 the high corner, in the order of ``image.shape[-3:]``; no function here names
an axis, and none converts to millimetres. Half precision is computed in float32: the volume
of a 96-voxel cube (884 736) exceeds the largest float16 (65 504).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

Boxes = Float[Tensor, "boxes 6"]

DELTA_SCALE = (0.1, 0.2)
"""Typical size of a shift and of a log size change: deltas divided by it have unit variance."""

MAX_LOG_SIZE = math.log(1000 / 16)
"""Largest growth that ``decode_boxes`` applies: an untrained network must not overflow exp."""

TINY = torch.finfo(torch.float32).tiny
"""A positive divisor for unions and hulls of volume 0, whose numerator is 0 too."""

MIN_SIZE_VOX = 1e-3
"""Size that ``encode_boxes`` gives to a degenerate box, so that no delta is infinite."""


def box_volume(boxes: Boxes) -> Float[Tensor, " boxes"]:
    """Return the volume of each box in voxels; a degenerate box has volume 0."""
    low, high = _corners(boxes)
    return (high - low).clamp(min=0).prod(dim=1)


def box_centers(boxes: Boxes) -> Float[Tensor, "boxes 3"]:
    """Return the middle of each box, in voxel edges."""
    low, high = _corners(boxes)
    return (low + high) / 2


def box_iou(a: Float[Tensor, "n 6"], b: Float[Tensor, "m 6"]) -> Float[Tensor, "n m"]:
    """Return the intersection over union of every box in ``a`` with every box in ``b``.

    Args:
        a: ``n`` boxes; ``n`` may be 0.
        b: ``m`` boxes on the same device; ``m`` may be 0.

    Returns:
        IoU in [0, 1]. Two degenerate boxes have IoU 0, never NaN.
    """
    intersection, union, _ = _overlap(a[:, None], b[None, :])
    return intersection / union.clamp(min=TINY)


def paired_iou(a: Float[Tensor, "n 6"], b: Float[Tensor, "n 6"]) -> Float[Tensor, " n"]:
    """Return the IoU of ``a[i]`` with ``b[i]``: the diagonal of ``box_iou``."""
    intersection, union, _ = _overlap(a, b)
    return intersection / union.clamp(min=TINY)


def box_giou(a: Float[Tensor, "n 6"], b: Float[Tensor, "m 6"]) -> Float[Tensor, "n m"]:
    """Return the generalised IoU of every box in ``a`` with every box in ``b``.

    Returns:
        IoU less the share of the common hull that neither box fills, in (-1, 1]. It has a
        gradient where boxes do not touch. Two equal degenerate boxes have 0.

    Source: Rezatofighi et al., "Generalized Intersection over Union", arXiv:1902.09630.
    """
    return _giou(*_overlap(a[:, None], b[None, :]))


def paired_giou(a: Float[Tensor, "n 6"], b: Float[Tensor, "n 6"]) -> Float[Tensor, " n"]:
    """Return the generalised IoU of ``a[i]`` with ``b[i]``: the diagonal of ``box_giou``."""
    return _giou(*_overlap(a, b))


def encode_boxes(
    boxes: Float[Tensor, "n 6"],
    reference: Float[Tensor, "n 6"],
    scale: tuple[float, float] = DELTA_SCALE,
) -> Float[Tensor, "n 6"]:
    """Return what ``decode_boxes`` must be given to turn ``reference`` into ``boxes``.

    Args:
        boxes: targets.
        reference: anchors or proposals, one for each target.
        scale: what shifts and log size changes are divided by.

    Returns:
        ``(dz, dy, dx, log sz, log sy, log sx)``: the centre's shift in sizes of the reference,
        and the log of the ratio of sizes.

    Source: Girshick et al., "Rich feature hierarchies", arXiv:1311.2524, appendix C.
    """
    size = _sizes(boxes).clamp(min=MIN_SIZE_VOX)
    reference_size = _sizes(reference).clamp(min=MIN_SIZE_VOX)
    shift = (box_centers(boxes) - box_centers(reference)) / reference_size
    return torch.cat([shift / scale[0], (size / reference_size).log() / scale[1]], dim=1)


def decode_boxes(
    deltas: Float[Tensor, "n 6"],
    reference: Float[Tensor, "n 6"],
    scale: tuple[float, float] = DELTA_SCALE,
) -> Float[Tensor, "n 6"]:
    """Move and stretch each reference box by its deltas; the inverse of ``encode_boxes``.

    A box grows at most by a factor of 1000 / 16, whatever the deltas say.
    """
    deltas = _at_least_float32(deltas)
    reference_size = _sizes(reference).clamp(min=MIN_SIZE_VOX)
    center = box_centers(reference) + deltas[:, :3] * scale[0] * reference_size
    half = reference_size * (deltas[:, 3:] * scale[1]).clamp(max=MAX_LOG_SIZE).exp() / 2
    return torch.cat([center - half, center + half], dim=1)


def scale_boxes(boxes: Boxes, factor: float) -> Boxes:
    """Return boxes whose sides are ``factor`` times as long about the same centre."""
    low, high = _corners(boxes)
    center, half = (low + high) / 2, (high - low) * (factor / 2)
    return torch.cat([center - half, center + half], dim=-1)


def clip_boxes(boxes: Boxes, shape_zyx: tuple[int, int, int]) -> Boxes:
    """Clip boxes to an image of ``shape_zyx`` voxels; a box outside becomes degenerate."""
    limit = boxes.new_tensor(shape_zyx * 2)
    return boxes.clamp(min=0).minimum(limit)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _corners(boxes: Tensor) -> tuple[Tensor, Tensor]:
    boxes = _at_least_float32(boxes)
    return boxes[..., :3], boxes[..., 3:]


def _sizes(boxes: Tensor) -> Tensor:
    low, high = _corners(boxes)
    return high - low


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the volumes of intersection, union and common hull of boxes that broadcast."""
    (a_low, a_high), (b_low, b_high) = _corners(a), _corners(b)
    sides = torch.minimum(a_high, b_high) - torch.maximum(a_low, b_low)
    intersection = sides.clamp(min=0).prod(dim=-1)
    volumes = (a_high - a_low).clamp(min=0).prod(-1) + (b_high - b_low).clamp(min=0).prod(-1)
    hull = (torch.maximum(a_high, b_high) - torch.minimum(a_low, b_low)).prod(dim=-1)
    return intersection, volumes - intersection, hull


def _giou(intersection: Tensor, union: Tensor, hull: Tensor) -> Tensor:
    iou = intersection / union.clamp(min=TINY)
    return iou - (hull - union).clamp(min=0) / hull.clamp(min=TINY)
