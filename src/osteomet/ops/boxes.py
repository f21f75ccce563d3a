"""Axis-aligned 3D boxes as ``(n, 6)`` float tensors ``(z1, y1, x1, z2, y2, x2)``.

Coordinates are voxel edges, half open: voxel ``i`` covers ``[i, i + 1)``, so a box around
voxels 2..4 is ``(2, 5)`` and its length is ``5 - 2 = 3`` voxels. Columns 0-2 are the low
corner and 3-5 the high corner, in the order of ``image.shape[-3:]``; no function here names
an axis, and none converts to millimetres. Half precision is computed in float32: the volume
of a 96-voxel cube (884 736) exceeds the largest float16 (65 504).
"""

import math
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from osteomet.ops.acceleration import compile_kernel, run_ranges, uses_numba

Boxes = Float[Tensor, "boxes 6"]

DELTA_SCALE = (0.1, 0.2)
"""Typical size of a shift and of a log size change: deltas divided by it have unit variance."""

MAX_LOG_SIZE = math.log(1000 / 16)
"""Largest growth that ``decode_boxes`` applies: an untrained network must not overflow exp."""

TINY = torch.finfo(torch.float32).tiny
"""A positive divisor for unions and hulls of volume 0, whose numerator is 0 too."""

SMALL = 200_000
"""Pairs below which to wake a second thread takes longer than the work."""

MIN_SIZE_VOX = 1e-3
"""Size that ``encode_boxes`` gives to a degenerate box, so that no delta is infinite."""


def box_volume(boxes: Boxes) -> Float[Tensor, " boxes"]:
    """Return the volume of each box in voxels; a degenerate box has volume 0."""
    return _product(_sizes(boxes).clamp(min=0))


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
    needs_gradient = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
    if uses_numba(a, b) and not needs_gradient:
        return _iou_by_loops(a.detach(), b.detach())
    intersection, union = _overlap(a[:, None], b[None, :])
    return intersection / union.clamp(min=TINY)


def paired_iou(a: Float[Tensor, "n 6"], b: Float[Tensor, "n 6"]) -> Float[Tensor, " n"]:
    """Return the IoU of ``a[i]`` with ``b[i]``: the diagonal of ``box_iou``."""
    intersection, union = _overlap(a, b)
    return intersection / union.clamp(min=TINY)


def box_giou(a: Float[Tensor, "n 6"], b: Float[Tensor, "m 6"]) -> Float[Tensor, "n m"]:
    """Return the generalised IoU of every box in ``a`` with every box in ``b``.

    Returns:
        IoU less the share of the common hull that neither box fills, in (-1, 1]. It has a
        gradient where boxes do not touch. Two equal degenerate boxes have 0.

    Source: Rezatofighi et al., "Generalized Intersection over Union", arXiv:1902.09630.
    """
    return _giou(a[:, None], b[None, :])


def paired_giou(a: Float[Tensor, "n 6"], b: Float[Tensor, "n 6"]) -> Float[Tensor, " n"]:
    """Return the generalised IoU of ``a[i]`` with ``b[i]``: the diagonal of ``box_giou``."""
    return _giou(a, b)


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


def _product(sides: Tensor) -> Tensor:
    """Return the product over the last axis, of 3: torch's own takes one box at a time."""
    z, y, x = sides.unbind(dim=-1)
    return z * y * x


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the volumes of intersection and union of boxes that broadcast."""
    (a_low, a_high), (b_low, b_high) = _corners(a), _corners(b)
    z, y, x = (
        torch.minimum(a_high[..., axis], b_high[..., axis])
        .sub(torch.maximum(a_low[..., axis], b_low[..., axis]))
        .clamp(min=0)
        for axis in range(3)
    )
    intersection = z * y * x
    volumes = _product((a_high - a_low).clamp(min=0)) + _product((b_high - b_low).clamp(min=0))
    return intersection, volumes - intersection


def _giou(a: Tensor, b: Tensor) -> Tensor:
    intersection, union = _overlap(a, b)
    (a_low, a_high), (b_low, b_high) = _corners(a), _corners(b)
    z, y, x = (
        torch.maximum(a_high[..., axis], b_high[..., axis])
        - torch.minimum(a_low[..., axis], b_low[..., axis])
        for axis in range(3)
    )
    hull = z * y * x
    iou = intersection / union.clamp(min=TINY)
    return iou - (hull - union).clamp(min=0) / hull.clamp(min=TINY)


def _iou_by_loops(a: Tensor, b: Tensor) -> Tensor:
    iou = torch.empty(len(a), len(b))
    rows, columns = a.float().contiguous(), b.float().T.contiguous()
    volumes = _product((columns[3:] - columns[:3]).T.clamp(min=0))
    arrays = rows.numpy(), columns.numpy(), volumes.numpy(), np.float32(TINY), iou.numpy()
    threads = 1 if iou.numel() < SMALL else None
    run_ranges(_fill_iou, len(a), *arrays, max_threads=threads)
    return iou


@partial(compile_kernel, fastmath=False)
def _fill_iou(
    first: int,
    last: int,
    rows: np.ndarray,
    columns: np.ndarray,
    volumes: np.ndarray,
    tiny: float,
    iou: np.ndarray,
) -> None:
    """Compare some boxes with all others, of which each coordinate is an array."""
    zero = np.float32(0)
    low_z, low_y, low_x = columns[0], columns[1], columns[2]
    high_z, high_y, high_x = columns[3], columns[4], columns[5]
    for i in range(first, last):
        z1, y1, x1 = rows[i, 0], rows[i, 1], rows[i, 2]
        z2, y2, x2 = rows[i, 3], rows[i, 4], rows[i, 5]
        volume = max(z2 - z1, zero) * max(y2 - y1, zero) * max(x2 - x1, zero)
        out = iou[i]
        for j in range(len(out)):
            dz = max(min(z2, high_z[j]) - max(z1, low_z[j]), zero)
            dy = max(min(y2, high_y[j]) - max(y1, low_y[j]), zero)
            dx = max(min(x2, high_x[j]) - max(x1, low_x[j]), zero)
            overlap = dz * dy * dx
            out[j] = overlap / max(volume + volumes[j] - overlap, tiny)
