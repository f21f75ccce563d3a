"""Patches in a batch, through torch, on the device that the model runs on.

The same steps as in ``render_compiled``, with the numbers that were drawn on the processor:
instances agree to the voxel, images to rounding. Blur and thick slices are linear along each
axis, so they are three small matrices a patch here. A change that was not drawn has a neutral
value, and the whole batch takes the same path.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int16, Int64, Shaped
from torch import Tensor

from osteomet.config import PreprocessConfig
from osteomet.data.augment import IntensityChange, Placement, blur_taps

Images = Float32[Tensor, "b z y x"]


def sample_image(block: Int16[Tensor, "z y x"], placement: Placement) -> Float32[Tensor, "Z Y X"]:
    """Return the HU of a patch from its ``source_box``."""
    if placement.aligned:
        axes = np.flatnonzero(placement.matrix.diagonal() < 0).tolist()
        return block.flip(axes).float()
    rows, origin = placement.index_map()
    points = torch.stack(
        torch.broadcast_tensors(*_source_index(rows, origin, placement.shape, block.device)), -1
    )
    sides = torch.tensor([max(n - 1, 1) for n in block.shape], device=block.device)
    grid = (2 * points / sides - 1).flip(-1)[None]
    moved = F.grid_sample(
        block.float()[None, None], grid, padding_mode="border", align_corners=True
    )
    return moved[0, 0]


def sample_instances(
    block: Int16[Tensor, "z y x"] | None, placement: Placement, device: torch.device
) -> Int16[Tensor, "Z Y X"]:
    """Return the instance map of a patch, each voxel from the nearest one; None is empty."""
    if block is None:
        return torch.zeros(placement.shape, dtype=torch.int16, device=device)
    rows, origin = placement.index_map()
    starts = origin + np.float32(0.5)
    z, y, x = (
        place.long().clamp(0, n - 1)
        for place, n in zip(
            _source_index(rows, starts, placement.shape, device), block.shape, strict=True
        )
    )
    _, ny, nx = block.shape
    return block.reshape(-1)[(z * ny + y) * nx + x]


def lesion_extents(
    instances: Int16[Tensor, "b z y x"], ids: Sequence[Int64[np.ndarray, " _"]]
) -> tuple[list[Int64[np.ndarray, " _"]], list[Float[np.ndarray, "_ 6"]]]:
    """Return how many voxels each patch holds of its lesions, and their tight boxes.

    The batch is asked once, so that a GPU is waited for once; zeros where there is no voxel.
    """
    many = 1 + max((int(one.max(initial=0)) for one in ids), default=0)
    patch = torch.arange(len(instances), device=instances.device)[:, None, None, None]
    key = patch * many + instances.long()
    rows = len(instances) * many
    answers = [torch.bincount(key.reshape(-1), minlength=rows)[:, None]]
    for axis in (1, 2, 3):
        n = instances.shape[axis]
        place = torch.arange(n, device=key.device).reshape(
            [n if a == axis else 1 for a in range(4)]
        )
        there = torch.zeros(rows * n, dtype=torch.int64, device=key.device)
        there[(key * n + place).reshape(-1)] = 1
        answers.append(there.reshape(rows, n))
    table = torch.cat(answers, dim=1).cpu().numpy()
    table = table.reshape(len(instances), many, -1)
    counts = [table[b, one, 0] for b, one in enumerate(ids)]
    ends = np.cumsum([1, *instances.shape[1:]]).tolist()
    axes = [table[:, :, a:b] for a, b in itertools.pairwise(ends)]
    low = np.stack([axis.argmax(axis=2) for axis in axes], axis=-1)
    high = np.stack([axis.shape[2] - axis[:, :, ::-1].argmax(axis=2) for axis in axes], axis=-1)
    boxes = np.concatenate([low, high], axis=-1).astype(float)
    return counts, [
        np.where(count[:, None] > 0, boxes[b, one], 0.0)
        for b, (count, one) in enumerate(zip(counts, ids, strict=True))
    ]


def change_intensities(
    hu: Images,
    changes: Sequence[IntensityChange],
    window_hu: tuple[float, float],
    noise: Float32[Tensor, " n"],
) -> Images:
    """Return the changed patches."""
    if any(change.smears for change in changes):
        hu = _smear(hu, changes)
    hu = hu * _column(hu, [change.contrast for change in changes])
    gamma = _column(hu, [change.gamma for change in changes])
    low, high = window_hu
    place = ((hu - low) / (high - low)).clamp(0, 1)
    hu = hu + (high - low) * (place**gamma - place)
    hu = hu + _column(hu, [change.shift_hu for change in changes])
    voxels = hu[0].numel()
    starts = [change.noise_start for change in changes]
    own = torch.stack([noise[start : start + voxels] for start in starts]).reshape(hu.shape)
    return hu + _column(hu, [change.noise_hu for change in changes]) * own


def normalise(hu: Shaped[Tensor, "*any"], config: PreprocessConfig) -> Float[Tensor, "*any"]:
    """Return clipped HU with the mean and deviation of the training data taken out."""
    return (hu.float().clamp(*config.window_hu) - config.mean_hu) * (1 / config.std_hu)


def blur_matrix(sigma_vox: float, n: int) -> Float[np.ndarray, "n n"]:
    """Return the Gaussian blur of ``n`` voxels in a row; beyond the border its value repeats."""
    taps = blur_taps(sigma_vox).tolist()
    matrix: Float[np.ndarray, "n n"] = taps[0] * np.eye(n)
    index = np.arange(n)
    for step, tap in enumerate(taps[1:], start=1):
        for neighbour in ((index - step).clip(0), (index + step).clip(max=n - 1)):
            matrix[index, neighbour] += tap
    return matrix


def slice_matrix(factor: int, phase: int, n: int) -> Float[np.ndarray, "n n"]:
    """Return ``render_compiled.thick_slices`` of ``n`` slices as a matrix."""
    if factor <= 1:
        return np.eye(n)
    factor = min(factor, n)
    first = -(phase % factor)
    run = (np.arange(n) - first) // factor
    means = (run[None] == np.arange(run[-1] + 1)[:, None]).astype(float)
    means /= means.sum(axis=1, keepdims=True)
    position = ((np.arange(n) - (first + (factor - 1) / 2)) / factor).clip(0, len(means) - 1)
    below = position.astype(np.int64)
    above = np.minimum(below + 1, len(means) - 1)
    share = (position - below)[:, None]
    return np.asarray(means[below] * (1 - share) + means[above] * share)


def _smear(hu: Images, changes: Sequence[IntensityChange]) -> Images:
    b, nz, ny, nx = hu.shape
    blurs = [[blur_matrix(change.blur_vox, n) for n in (nz, ny, nx)] for change in changes]
    slices = [slice_matrix(change.slice_vox, change.slice_phase, nz) for change in changes]
    along_z = _stack(hu, [blur[0] @ one for blur, one in zip(blurs, slices, strict=True)])
    along_y, along_x = (_stack(hu, [blur[axis] for blur in blurs]) for axis in (1, 2))
    hu = (along_z @ hu.reshape(b, nz, ny * nx)).reshape(b, nz, ny, nx)
    hu = along_y[:, None] @ hu
    return hu @ along_x[:, None].mT


def _stack(like: Tensor, matrices: Sequence[Float[np.ndarray, "n n"]]) -> Float32[Tensor, "b n n"]:
    return torch.from_numpy(np.stack(matrices)).float().to(like.device)


def _column(hu: Images, values: Sequence[float]) -> Float32[Tensor, "b 1 1 1"]:
    """Return one number a patch, to be spread over its voxels."""
    return torch.tensor(values, dtype=torch.float32).to(hu.device).reshape(-1, 1, 1, 1)


def _source_index(
    rows: Float32[np.ndarray, "3 3"],
    origin: Float32[np.ndarray, " 3"],
    shape: tuple[int, int, int],
    device: torch.device,
) -> list[Float32[Tensor, "z y x"]]:
    """Return where each patch voxel lies, as fractional indices along z, y and x of its block.

    Products and sums are apart and in a fixed order: no device may round them otherwise.
    """
    z, y, x = (
        torch.arange(n, dtype=torch.float32, device=device).reshape(
            [-1 if a == axis else 1 for a in range(3)]
        )
        for axis, n in enumerate(shape)
    )
    return [
        ((z * float(row[0]) + y * float(row[1])) + float(start)) + x * float(row[2])
        for row, start in zip(rows, origin, strict=True)
    ]
