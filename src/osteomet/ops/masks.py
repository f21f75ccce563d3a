"""Masks of instances: from a label map into the grid of a box, and from a box back out.

A crop of ``m`` cells an axis spans its box: cell ``i`` covers
``low + [i, i + 1) * size / m``. Sampling an axis-aligned grid is separable, so both ways are
three small matrix products instead of a lookup for every voxel.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

Crop = Float[Tensor, "m m m"]
Coordinates = Float[Tensor, " points"]


def crop_instances(
    instances: Int[Tensor, "z y x"],
    instance_ids: Int[Tensor, " n"],
    boxes: Float[Tensor, "n 6"],
    output_size: int,
) -> Float[Tensor, "n m m m"]:
    """Return the mask of one instance inside each box: what the mask head should answer.

    Args:
        instances: label map.
        instance_ids: value of each box's instance; 0 has no mask and gives an empty crop.
        boxes: ``n`` boxes in voxel edges of the map; ``n`` may be 0.
        output_size: cells an axis.

    Returns:
        Soft masks in [0, 1]: the instance sampled trilinearly, as features are, and averaged
        over enough points that a cell larger than a voxel holds the fraction of it inside.
    """
    crops = boxes.new_zeros((len(boxes), *(output_size,) * 3), dtype=torch.float32)
    for crop, instance_id, box in zip(crops, instance_ids.tolist(), boxes.tolist(), strict=True):
        if instance_id == 0:
            continue
        windows, matrices = zip(
            *(
                _cell_averages(box[axis], box[axis + 3], instances.shape[axis], output_size)
                for axis in range(3)
            ),
            strict=True,
        )
        inside = (instances[windows] == instance_id).float()
        crop.copy_(_along_axes(inside, *(matrix.to(inside.device) for matrix in matrices)))
    return crops


def paste_mask(
    crop: Crop,
    box: Float[Tensor, "6"],
    centers_z: Float[Tensor, " nz"],
    centers_y: Float[Tensor, " ny"],
    centers_x: Float[Tensor, " nx"],
) -> Float[Tensor, "nz ny nx"]:
    """Sample a crop, trilinearly, at the voxel centres of any grid parallel to its box.

    Args:
        crop: values of the cells.
        box: the region that the crop spans, in voxel edges.
        centers_z: positions along z in the coordinates of ``box``, such as the centres of
            another grid's voxels; so are ``centers_y`` and ``centers_x``.
        centers_y: positions along y.
        centers_x: positions along x.

    Returns:
        Values in the dtype of ``crop``; 0 outside the box. Between the outermost cell centres
        and the faces of the box the outermost value holds.
    """
    matrices = (
        _interpolation(centers, box[axis], box[axis + 3], crop.shape[axis]).to(crop.dtype)
        for axis, centers in enumerate((centers_z, centers_y, centers_x))
    )
    return _along_axes(crop, *matrices)


def _along_axes(values: Tensor, z: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Multiply each axis of ``values (a, b, c)`` by its ``(out, in)`` matrix."""
    values = values @ x.T
    values = y @ values
    return torch.einsum("oz,zyx->oyx", z, values)


def _cell_averages(
    low: float, high: float, length: int, cells: int
) -> tuple[slice, Float[Tensor, "cells window"]]:
    """Return the voxels that the cells of an axis touch, and the weight of each voxel in each.

    Samples lie at most one voxel apart, so that none is skipped.
    """
    samples = max(1, -int(-(high - low) // cells))
    steps = (torch.arange(cells * samples, dtype=torch.float64) + 0.5) / (cells * samples)
    index = (low + (high - low) * steps - 0.5).clamp(0, length - 1)
    floor = index.long()
    start, stop = int(floor.min()), min(int(floor.max()) + 2, length)
    weights = _hat(index - start, stop - start)
    return slice(start, stop), weights.reshape(cells, samples, -1).mean(dim=1).float()


def _interpolation(centers: Coordinates, low: Tensor, high: Tensor, cells: int) -> Tensor:
    """Return the ``(points, cells)`` weights of linear interpolation inside ``[low, high)``."""
    size = (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    index = ((centers - low) / size * cells - 0.5).clamp(0, cells - 1)
    inside = (centers >= low) & (centers < high)
    return _hat(index, cells) * inside[:, None]


def _hat(index: Tensor, length: int) -> Tensor:
    """Return ``(points, length)``: the share of each whole position in linear interpolation."""
    whole = torch.arange(length, device=index.device, dtype=index.dtype)
    return (1 - (index[:, None] - whole).abs()).clamp(min=0)
