"""RoIAlign in 3D: pool features inside boxes to a fixed grid by trilinear sampling.

A box is cut into ``output_size`` equal bins an axis, each bin is sampled at
``sampling_ratio`` points an axis, evenly spread, and averaged. Coordinates are edges: the
feature at index ``i`` lies at ``i + 0.5``. A sample beyond the outermost centres reads the
border.

Source: He et al., "Mask R-CNN", arXiv:1703.06870, Sec. 3, without the half-voxel shift that
its first implementations had.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from osteomet.ops.acceleration import aligned_array, channels_last_array, run_blocks, uses_numba
from osteomet.ops.lanes import WIDTH
from osteomet.ops.roi_align_kernels import Sampling, gather, gather_few, scatter, scatter_few

Features = Float[Tensor, "batch channels depth height width"]
Pooled = Float[Tensor, "n channels o o o"]

FEW = WIDTH - 1
"""Channels, up to which each sample is computed by itself."""
SLABS = 16
"""Parts along z into which a gradient is cut to be summed in parallel."""


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
        Features of each box, in the dtype of ``features``; on a CPU in the memory format
        ``channels_last_3d``.

    Raises:
        ValueError: A box belongs to no image of the batch.
    """
    level_index = torch.zeros_like(batch_index)
    return roi_align_levels(
        [features], [1], boxes, batch_index, level_index, output_size, sampling_ratio
    )


def roi_align_levels(
    features: list[Tensor],
    strides: list[int],
    boxes: Float[Tensor, "n 6"],
    batch_index: Int[Tensor, " n"],
    level_index: Int[Tensor, " n"],
    output_size: int,
    sampling_ratio: int = 1,
) -> Pooled:
    """Pool each box, given in voxels of the image, from its own level of a pyramid.

    Args:
        features: ``(batch, channels, z, y, x)`` of each level, all with as many channels.
        strides: voxels of the image a cell of each level.
        boxes: ``n`` boxes in the coordinates of the image; ``n`` may be 0.
        batch_index: image of each box.
        level_index: position in ``features`` of each box's level.
        output_size: bins an axis.
        sampling_ratio: samples an axis in each bin.

    Raises:
        ValueError: A box belongs to no image of the batch or to no level.
    """
    _check_indices(batch_index, len(features[0]), "image")
    _check_indices(level_index, len(features), "level")
    stride_of_box = boxes.new_tensor(strides)[level_index]
    boxes = boxes.detach().float() / stride_of_box[:, None]
    boxes = torch.cat([boxes[:, :3], boxes[:, 3:].maximum(boxes[:, :3])], dim=1)
    rois = [(level_index == level).nonzero()[:, 0] for level in range(len(features))]
    if uses_numba(*features):
        apply: Callable[..., Tensor] = _RoIAlign.apply
        index, wide = batch_index.long().contiguous(), [level.float() for level in features]
        pooled = apply(boxes, index, rois, output_size, sampling_ratio, *wide)
        return pooled.to(features[0].dtype)
    parts = [
        _sample_with_grid(level, boxes[chosen], batch_index[chosen], output_size, sampling_ratio)
        for level, chosen in zip(features, rois, strict=True)
    ]
    return torch.cat(parts)[torch.cat(rois).argsort()]


def _check_indices(index: Tensor, count: int, what: str) -> None:
    """Refuse what would read beyond the memory of a list of ``count``."""
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < count:
        raise ValueError(
            f"boxes of {what} {int(index.min())} to {int(index.max())}; "
            f"expected 0 to {count - 1}, as there are {count}"
        )


class _RoIAlign(torch.autograd.Function):
    """Compiled pooling on the CPU, from all levels into one tensor without a copy."""

    @staticmethod
    def forward(
        ctx: Any,
        boxes: Tensor,
        batch_index: Tensor,
        rois: list[Tensor],
        output_size: int,
        sampling_ratio: int,
        *features: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(boxes, batch_index, *rois)
        ctx.shapes = [level.shape for level in features]
        ctx.sampling_ratio = sampling_ratio
        shape = (len(boxes), *(output_size,) * 3, features[0].shape[1])
        pooled = aligned_array(shape)
        arrays = boxes.numpy(), batch_index.numpy(), _sampling(sampling_ratio, shape[-1])
        pool = gather_few if shape[-1] <= FEW else gather
        for level, chosen in zip(features, rois, strict=True):
            if len(chosen):
                array = channels_last_array(level)
                run_blocks(pool, len(chosen), chosen.numpy(), array, *arrays, pooled)
        return torch.from_numpy(pooled).movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        boxes, batch_index, *rois = ctx.saved_tensors
        sampling = _sampling(ctx.sampling_ratio, grad.shape[1])
        arrays = boxes.numpy(), batch_index.numpy(), sampling
        grad_array = channels_last_array(grad)
        grads: list[Tensor | None] = []
        for level, (shape, chosen) in enumerate(zip(ctx.shapes, rois, strict=True)):
            if not ctx.needs_input_grad[5 + level]:
                grads.append(None)
                continue
            batch, channels, depth, height, width = shape
            summed = aligned_array((batch, depth, height, width, channels))
            summed[:] = 0
            parts = 1 if torch.get_num_threads() == 1 else SLABS
            slabs = min(parts, depth) if len(chosen) else 0
            spread = scatter_few if channels <= FEW else scatter
            run_blocks(spread, slabs, slabs, chosen.numpy(), grad_array, *arrays, summed)
            grads.append(torch.from_numpy(summed).movedim(-1, 1))
        return None, None, None, None, None, *grads


def _sampling(ratio: int, channels: int) -> Sampling:
    return ratio, tuple(range(channels // WIDTH))


def _sample_with_grid(
    features: Tensor, boxes: Tensor, batch_index: Tensor, output_size: int, sampling_ratio: int
) -> Tensor:
    """Pool with ``grid_sample``, one image at a time: right on every device."""
    channels, samples = features.shape[1], output_size * sampling_ratio
    wide = features if features.dtype == torch.float64 else features.float()
    # No box yet, but part of the graph: without one the gradient is zeros, not missing.
    pooled = [wide[:0, :, :1, :1, :1].expand(0, channels, *(output_size,) * 3)]
    images = [(batch_index == image).nonzero()[:, 0] for image in range(len(features))]
    for image, chosen in enumerate(images):
        if len(chosen) == 0:
            continue
        values = F.grid_sample(
            wide[image : image + 1],
            _sampling_grid(boxes[chosen], wide, samples).flatten(0, 1)[None].to(wide.dtype),
            padding_mode="border",
            align_corners=False,
        )  # (1, channels, n * samples, samples, samples)
        values = values[0].reshape(channels, len(chosen), *(samples,) * 3).transpose(0, 1)
        values = F.avg_pool3d(values, sampling_ratio) if sampling_ratio > 1 else values
        pooled.append(values)
    return torch.cat(pooled)[torch.cat(images).argsort()].to(features.dtype)


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
