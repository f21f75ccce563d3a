"""Masks of instances: from a label map into the grid of a box, and from a box back out.

A crop of ``m`` cells an axis spans its box: cell ``i`` covers
``low + [i, i + 1) * size / m``. Sampling an axis-aligned grid is separable, so both ways are
three small matrix products instead of a lookup for every voxel. On a CPU loops mix planes, rows and
cells in turn, which computes the same without the products with zero.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from osteomet.ops.acceleration import compile_kernel, uses_numba

Crop = Float[Tensor, "m m m"]
Coordinates = Float[Tensor, " points"]

TINY = float(torch.finfo(torch.float32).tiny)
"""A positive size of a box that has none."""


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
    if uses_numba(instances, boxes):
        ids, corners = instance_ids.long().numpy(), boxes.detach().double().numpy()
        _crop_all(instances.contiguous().numpy(), ids, corners, crops.numpy())
        return crops
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
    if uses_numba(crop, box, centers_z) and crop.dtype == torch.float32 and not crop.requires_grad:
        return _paste_by_loops(crop, box, (centers_z, centers_y, centers_x))
    matrices = (
        _interpolation(centers, box[axis], box[axis + 3], crop.shape[axis]).to(crop.dtype)
        for axis, centers in enumerate((centers_z, centers_y, centers_x))
    )
    return _along_axes(crop, *matrices)


def _along_axes(values: Tensor, z: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Multiply each axis of ``values (a, b, c)`` by its ``(out, in)`` matrix."""
    values = y @ (values @ x.T)
    return (z @ values.flatten(1)).view(len(z), *values.shape[1:])


def _cell_averages(
    low: float, high: float, length: int, cells: int
) -> tuple[slice, Float[Tensor, "cells window"]]:
    """Return the voxels that the cells of an axis touch, and the weight of each voxel in each.

    Samples lie at most one voxel apart, so that none is skipped.
    """
    samples = max(1, -int(-(high - low) // cells))
    # By numpy: a call of torch takes longer than these few numbers.
    steps = (np.arange(cells * samples) + 0.5) / (cells * samples)
    index = (low + (high - low) * steps - 0.5).clip(0, length - 1)
    start, stop = int(index[0]), min(int(index[-1]) + 2, length)
    whole = np.arange(stop - start)
    weights = (1 - np.abs(index[:, None] - start - whole)).clip(min=0)
    averages = weights.reshape(cells, samples, -1).mean(axis=1, dtype=np.float64)
    return slice(start, stop), torch.from_numpy(averages.astype(np.float32))


def _interpolation(centers: Coordinates, low: Tensor, high: Tensor, cells: int) -> Tensor:
    """Return the ``(points, cells)`` weights of linear interpolation inside ``[low, high)``."""
    size = (high - low).clamp(min=TINY)
    index = ((centers - low) / size * cells - 0.5).clamp(0, cells - 1)
    inside = (centers >= low) & (centers < high)
    return _hat(index, cells) * inside[:, None]


def _hat(index: Tensor, length: int) -> Tensor:
    """Return ``(points, length)``: the share of each whole position in linear interpolation."""
    whole = torch.arange(length, device=index.device, dtype=index.dtype)
    return (1 - (index[:, None] - whole).abs()).clamp(min=0)


@compile_kernel
def _crop_all(instances: np.ndarray, ids: np.ndarray, boxes: np.ndarray, crops: np.ndarray) -> None:
    """Fill the crop of each box, ``(n, m, m, m)``: average rows, then planes, then cells."""
    cells = crops.shape[1]
    for i in range(len(ids)):
        if ids[i] == 0:
            continue
        z_first, z_weights = _weigh_voxels(boxes[i, 0], boxes[i, 3], instances.shape[0], cells)
        y_first, y_weights = _weigh_voxels(boxes[i, 1], boxes[i, 4], instances.shape[1], cells)
        x_first, x_weights = _weigh_voxels(boxes[i, 2], boxes[i, 5], instances.shape[2], cells)
        x_stop = x_first[cells - 1] + x_weights.shape[1]
        inside, row = np.empty(x_stop, np.float32), np.empty(cells, np.float32)
        plane = np.empty((cells, cells), np.float32)
        for z in range(z_first[0], z_first[cells - 1] + z_weights.shape[1]):
            plane[:] = 0
            for y in range(y_first[0], y_first[cells - 1] + y_weights.shape[1]):
                line, found = instances[z, y], 0
                for x in range(x_first[0], x_stop):
                    is_here = line[x] == ids[i]
                    inside[x] = is_here
                    found += is_here
                if found == 0:
                    continue
                for k in range(cells):
                    share, begin = np.float32(0), x_first[k]
                    for t in range(x_weights.shape[1]):
                        share += x_weights[k, t] * inside[begin + t]
                    row[k] = share
                _spread(row, y, y_first, y_weights, plane)
            _spread(plane.reshape(-1), z, z_first, z_weights, crops[i].reshape(cells, -1))


@compile_kernel
def _spread(
    values: np.ndarray, voxel: int, first: np.ndarray, weights: np.ndarray, sums: np.ndarray
) -> None:
    """Add ``values``, of one voxel of an axis, to each cell that touches it."""
    for k in range(len(first)):
        tap = voxel - first[k]
        if 0 <= tap < weights.shape[1] and weights[k, tap] > 0:
            weight, total = weights[k, tap], sums[k]
            for i in range(len(values)):
                total[i] += weight * values[i]


@compile_kernel
def _weigh_voxels(
    low: float, high: float, length: int, cells: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return of each cell of an axis the first voxel that it touches, and the voxels' weights.

    As ``_cell_averages``; all cells have as many weights.
    """
    samples = max(1, math.ceil((high - low) / cells))
    taps = min(length, samples + 2)
    first, weights = np.zeros(cells, np.int64), np.zeros((cells, taps), np.float32)
    for cell in range(cells):
        for sample in range(samples):
            step = (cell * samples + sample + 0.5) / (cells * samples)
            place = low + (high - low) * step - 0.5
            if not place > 0:  # NaN too, which must not become an address
                place = 0.0
            place = min(place, length - 1.0)
            voxel = min(int(place), max(length - 2, 0))
            if sample == 0:
                first[cell] = min(voxel, length - taps)
            weights[cell, voxel - first[cell]] += (1 - (place - voxel)) / samples
            if voxel + 1 < length:
                weights[cell, voxel + 1 - first[cell]] += (place - voxel) / samples
    return first, weights


def _paste_by_loops(crop: Tensor, box: Tensor, centers: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    z, y, x = (axis.double().numpy() for axis in centers)
    pasted = torch.empty(len(z), len(y), len(x))
    _paste(crop.contiguous().numpy(), box.double().numpy(), z, y, x, pasted.numpy())
    return pasted


@compile_kernel
def _paste(
    crop: np.ndarray, box: np.ndarray, z: np.ndarray, y: np.ndarray, x: np.ndarray, out: np.ndarray
) -> None:
    """Mix two planes of cells for each plane of voxels, two rows for each row, then two cells."""
    cells = len(crop)
    z_index, z_share, z_inside = _find_cells(z, box[0], box[3], cells)
    y_index, y_share, y_inside = _find_cells(y, box[1], box[4], cells)
    x_index, x_share, x_inside = _find_cells(x, box[2], box[5], cells)
    next_cell = min(1, cells - 1)
    plane, row = np.empty((cells, cells), np.float32), np.empty(cells, np.float32)
    for k in range(len(z)):
        if not z_inside[k]:
            out[k] = 0
            continue
        near, far, share = crop[z_index[k]], crop[z_index[k] + next_cell], z_share[k]
        for j in range(cells):
            for i in range(cells):
                plane[j, i] = near[j, i] + share * (far[j, i] - near[j, i])
        for j in range(len(y)):
            if not y_inside[j]:
                out[k, j] = 0
                continue
            low, high, share = plane[y_index[j]], plane[y_index[j] + next_cell], y_share[j]
            for i in range(cells):
                row[i] = low[i] + share * (high[i] - low[i])
            line = out[k, j]
            for i in range(len(x)):
                first, second = row[x_index[i]], row[x_index[i] + next_cell]
                line[i] = x_inside[i] * (first + x_share[i] * (second - first))


@compile_kernel
def _find_cells(
    centers: np.ndarray, low: float, high: float, cells: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return of each position the lower cell, the upper's share, and 1 inside the box, else 0."""
    count = len(centers)
    index, share = np.empty(count, np.int64), np.empty(count, np.float32)
    inside = np.empty(count, np.float32)
    size = max(high - low, TINY)
    for i in range(count):
        position = (centers[i] - low) / size * cells - 0.5
        if not position > 0:  # NaN too, which must not become an address
            position = 0.0
        position = min(position, cells - 1.0)
        index[i] = min(int(position), max(cells - 2, 0))
        share[i] = position - index[i]
        inside[i] = low <= centers[i] < high
    return index, share, inside
