"""RoIAlign in 3D: pool features inside boxes to a fixed grid by trilinear sampling.

A box is cut into ``output_size`` equal bins an axis, each bin is sampled at
``sampling_ratio`` points an axis, evenly spread, and averaged. Coordinates are edges: the
feature at index ``i`` lies at ``i + 0.5``. A sample beyond the outermost centres reads the
border.

Source: He et al., "Mask R-CNN", arXiv:1703.06870, Sec. 3, without the half-voxel shift that
its first implementations had.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

Features = Float[Tensor, "batch channels depth height width"]
Pooled = Float[Tensor, "n channels o o o"]


def roi_align(
    features: Features,
    boxes: Float[Tensor, "n 6"],
    batch_index: Int[Tensor, " n"],
    output_size: int,
    sampling_ratio: int = 1,
) -> Pooled:
    """Pool each box from its image to ``output_size`` cubed cells.

    Args:
        features: maps of a batch; the gradient goes to them alone, not to the boxes.
        boxes: ``n`` boxes in the coordinates of the feature map; ``n`` may be 0.
        batch_index: image of each box.
        output_size: bins an axis.
        sampling_ratio: samples an axis in each bin.

    Returns:
        Features of each box, in the dtype of ``features``.
    """
    boxes = boxes.detach().float()
    return _sample_with_grid(features, boxes, batch_index, output_size, sampling_ratio)


def roi_align_levels(
    features: list[Float[Tensor, "batch channels _ _ _"]],
    strides: list[int],
    boxes: Float[Tensor, "n 6"],
    batch_index: Int[Tensor, " n"],
    level_index: Int[Tensor, " n"],
    output_size: int,
    sampling_ratio: int = 1,
) -> Pooled:
    """Pool each box, given in voxels of the image, from its own level of a pyramid.

    Args:
        features: one map a level, all with as many channels.
        strides: voxels of the image a cell of each level.
        boxes: ``n`` boxes in the coordinates of the image; ``n`` may be 0.
        batch_index: image of each box.
        level_index: position in ``features`` of each box's level.
        output_size: bins an axis.
        sampling_ratio: samples an axis in each bin.
    """
    parts, positions = [], []
    for level, (level_features, stride) in enumerate(zip(features, strides, strict=True)):
        chosen = (level_index == level).nonzero()[:, 0]
        positions.append(chosen)
        parts.append(
            roi_align(
                level_features,
                boxes[chosen] / stride,
                batch_index[chosen],
                output_size,
                sampling_ratio,
            )
        )
    return torch.cat(parts)[torch.cat(positions).argsort()]


def _sample_with_grid(
    features: Tensor, boxes: Tensor, batch_index: Tensor, output_size: int, sampling_ratio: int
) -> Tensor:
    """Pool with ``grid_sample``, one image at a time: right on every device."""
    channels, shape = features.shape[1], (output_size,) * 3
    pooled, positions = [features.new_empty(0, channels, *shape)], []
    for image in range(len(features)):
        chosen = (batch_index == image).nonzero()[:, 0]
        positions.append(chosen)
        if len(chosen) == 0:
            continue
        grid = _sampling_grid(boxes[chosen], features, output_size * sampling_ratio)
        values = F.grid_sample(
            features[image : image + 1],
            grid.flatten(0, 1)[None].to(features.dtype),
            padding_mode="border",
            align_corners=False,
        )  # (1, channels, n * samples, samples, samples)
        values = values[0].reshape(channels, len(chosen), *grid.shape[1:4]).transpose(0, 1)
        pooled.append(F.avg_pool3d(values, sampling_ratio) if sampling_ratio > 1 else values)
    return torch.cat(pooled)[torch.cat(positions).argsort()]


def _sampling_grid(boxes: Tensor, features: Tensor, samples: int) -> Tensor:
    """Return ``(n, samples, samples, samples, 3)`` positions (x, y, z), normalised to [-1, 1]."""
    steps = (torch.arange(samples, device=boxes.device) + 0.5) / samples
    low, high = boxes[:, :3, None], boxes[:, 3:, None]
    shape = boxes.new_tensor(features.shape[2:])[:, None]
    z, y, x = (2 * (low + (high - low) * steps) / shape - 1).unbind(dim=1)  # each (n, samples)
    full = (len(boxes), samples, samples, samples)
    return torch.stack(
        [
            x[:, None, None, :].expand(full),
            y[:, None, :, None].expand(full),
            z[:, :, None, None].expand(full),
        ],
        dim=-1,
    )
