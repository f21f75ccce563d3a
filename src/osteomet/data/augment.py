"""Random changes of a training patch, in HU, before normalisation.

Where a patch is taken from is one affine map from its voxels to the scan's: a turn, a scale,
flips and a shift. Image and instances are sampled through it once. Intensities are changed
after that, in place.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int16

from osteomet.config import AugmentConfig
from osteomet.ops.acceleration import NUMBA_ENABLED, compile_kernel

Matrix = Float[np.ndarray, "3 3"]
Boxes = Float[np.ndarray, "n 6"]
Image = Float32[np.ndarray, "z y x"]

BLUR_REACH = 2.5
"""Standard deviations after which a blur's kernel is cut."""


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a patch lies in its scan: ``source = matrix @ (patch - middle) + center``, in edges.

    Attributes:
        matrix: turn and scale, or flips alone.
        center: middle of the patch, in edges of the scan.
        shape: voxels of the patch.
        aligned: whether patch voxels are scan voxels, flipped at most.
    """

    matrix: Matrix
    center: Float[np.ndarray, " 3"]
    shape: tuple[int, int, int]
    aligned: bool

    @property
    def zoom(self) -> float:
        """Length in the patch over length in the scan."""
        return float(np.abs(np.linalg.det(self.matrix)) ** (-1 / 3))

    def source_box(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Return corner and shape of the block of the scan that sampling reads."""
        if self.aligned:
            z, y, x = np.rint(self.center - np.array(self.shape) / 2).astype(int).tolist()
            return (z, y, x), self.shape
        half = np.abs(self.matrix) @ (np.array(self.shape) / 2)
        low = np.floor(self.center - half - 0.5).astype(int)
        size = np.ceil(self.center + half + 0.5).astype(int) + 1 - low
        z, y, x = low.tolist()
        dz, dy, dx = size.tolist()
        return (z, y, x), (dz, dy, dx)

    def move_boxes(self, boxes: Boxes, *, hull: bool) -> Boxes:
        """Return boxes of the scan in patch edges, not clipped.

        Args:
            boxes: ``(n, 6)``; ``n`` may be 0.
            hull: a turned box becomes the hull of its corners, so nothing of it is lost. Else it
                becomes the hull of the ellipsoid in it, which is what a lesion looks like; the
                hull of the corners would be up to 1.7 times too wide.
        """
        inverse = np.linalg.inv(self.matrix)
        center, half = (boxes[:, :3] + boxes[:, 3:]) / 2, (boxes[:, 3:] - boxes[:, :3]) / 2
        center = (center - self.center) @ inverse.T + np.array(self.shape) / 2
        half = half @ np.abs(inverse).T if hull else np.sqrt(half**2 @ (inverse**2).T)
        return np.hstack([center - half, center + half])


def draw_matrix(config: AugmentConfig, rng: np.random.Generator) -> tuple[Matrix, bool]:
    """Draw flips, turn and scale of a patch.

    Returns:
        The map from patch to scan directions, and whether it keeps voxels aligned.
    """
    flips = np.where(rng.random(3) < 0.5, -1.0, 1.0) if config.flip else np.ones(3)
    if rng.random() >= config.spatial_probability:
        return np.diag(flips), True
    angles = np.deg2rad(rng.uniform(-config.rotate_degrees, config.rotate_degrees, 3))
    low, high = (math.log(scale) for scale in sorted(config.scale))
    zoom = math.exp(rng.uniform(low, high))
    return _rotation(angles) @ np.diag(flips) / zoom, False


def sample_image(
    block: Int16[np.ndarray, "z y x"], placement: Placement
) -> Float32[np.ndarray, "Z Y X"]:
    """Return the HU of a patch as new float32 memory, from its ``source_box``."""
    if placement.aligned:
        return _flip(block, placement).astype(np.float32, order="C")
    corner, _ = placement.source_box()
    rows, origin = _index_map(placement, corner)
    out = np.empty(placement.shape, dtype=np.float32)
    if NUMBA_ENABLED:
        _linear_kernel(np.ascontiguousarray(block), rows, origin, out)
        return out
    grid = _torch_grid(rows, origin, block.shape, placement.shape)
    source = torch.from_numpy(block.astype(np.float32, order="C"))[None, None]
    moved = F.grid_sample(source, grid, padding_mode="border", align_corners=True)
    return np.asarray(moved[0, 0].numpy())


def sample_instances(
    block: Int16[np.ndarray, "z y x"], placement: Placement
) -> Int16[np.ndarray, "Z Y X"]:
    """Return the instance map of a patch each voxel from the nearest one."""
    if placement.aligned:
        return np.ascontiguousarray(_flip(block, placement))
    corner, _ = placement.source_box()
    rows, origin = _index_map(placement, corner)
    out = np.empty(placement.shape, dtype=np.int16)
    if NUMBA_ENABLED:
        _nearest_kernel(np.ascontiguousarray(block), rows, origin, out)
        return out
    axes = [np.arange(n, dtype=np.float32) for n in placement.shape]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    index = tuple(
        np.floor(row[0] * z + row[1] * y + row[2] * x + (start + np.float32(0.5)))
        .astype(np.int64)
        .clip(0, n - 1)
        for row, start, n in zip(rows, origin, block.shape, strict=True)
    )
    return np.ascontiguousarray(block[index])


class IntensityAugmentation:
    """Thick slices, blur, contrast, gamma, brightness and noise, each with its own chance.

    They come in the order of a scanner's: first what smears, then the HU scale, then noise.
    Noise is cut from a fixed supply at a random place and sign: drawing a million normal numbers
    for each patch would cost more than everything else.
    """

    def __init__(
        self,
        config: AugmentConfig,
        spacing_mm: float,
        patch_shape: tuple[int, int, int],
        window_hu: tuple[float, float],
    ) -> None:
        self.config = config
        self.spacing_mm = spacing_mm
        self.window_hu = window_hu
        supply = 2 * math.prod(patch_shape)
        self._noise = np.random.default_rng(0).standard_normal(supply, dtype=np.float32)

    def __call__(self, hu: Image, rng: np.random.Generator) -> Image:
        """Return the changed patch; ``hu`` is overwritten."""
        config, chance = self.config, self.config.intensity_probability
        contrast, shift, sigma_mm, noise, gamma = (
            rng.uniform(*config.contrast),
            rng.uniform(-config.shift_hu, config.shift_hu),
            rng.uniform(0, config.blur_mm),
            rng.uniform(0, config.noise_hu),
            math.exp(rng.uniform(math.log(config.gamma[0]), math.log(config.gamma[1]))),
        )
        start = int(rng.integers(len(self._noise) - hu.size + 1))
        sign = 1 if rng.random() < 0.5 else -1
        contrasted, shifted, blurred, noised, bent = (rng.random(5) < chance).tolist()
        if rng.random() < config.thick_slices_probability:
            thickness_mm = rng.uniform(self.spacing_mm, config.thick_slices_mm)
            hu = thick_slices(hu, round(thickness_mm / self.spacing_mm), int(rng.integers(1000)))
        if blurred:
            hu = blur(hu, sigma_mm / self.spacing_mm)
        if contrasted:
            hu *= np.float32(contrast)
        if bent:
            bend(hu, gamma, self.window_hu)
        if shifted:
            hu += np.float32(shift)
        if noised:
            hu += np.float32(sign * noise) * self._noise[start : start + hu.size].reshape(hu.shape)
        return hu


def thick_slices(hu: Image, factor: int, phase: int = 0) -> Image:
    """Return what a scan with slices ``factor`` times as thick gives on this grid.

    Runs of ``factor`` slices along z are averaged, and their means interpolated linearly, as
    the model's grid does with a real scan. Beyond the outermost means their values repeat.

    Args:
        hu: the patch.
        factor: 1 or less changes nothing; more than there are slices gives their mean.
        phase: of the runs; counts modulo ``factor``.
    """
    if factor <= 1:
        return hu
    n = len(hu)
    factor = min(factor, n)
    first = -(phase % factor)
    starts = np.arange(first, n, factor)
    edges = np.concatenate([starts.clip(0), [n]])
    means = np.add.reduceat(hu, edges[:-1], axis=0)
    means /= np.diff(edges).astype(np.float32)[:, None, None]
    position = (np.arange(n) - (starts[0] + (factor - 1) / 2)) / factor
    position = position.clip(0, len(means) - 1)
    below = position.astype(np.int64)
    above = np.minimum(below + 1, len(means) - 1)
    share = (position - below).astype(np.float32)[:, None, None]
    result: Image = means[below] * (1 - share) + means[above] * share
    return result


def bend(hu: Image, gamma: float, window_hu: tuple[float, float]) -> None:
    """Change HU in place by a power of their place in the window, whose ends stay.

    Values outside the window, which the network does not see apart, stay too.
    """
    low, high = window_hu
    place = np.clip((hu - np.float32(low)) / np.float32(high - low), 0, 1)
    hu += np.float32(high - low) * (place ** np.float32(gamma) - place)


def blur(hu: Image, sigma_vox: float) -> Image:
    """Return a Gaussian blur; beyond the border its value repeats."""
    reach = math.ceil(BLUR_REACH * sigma_vox)
    if reach == 0 or sigma_vox < 0.1:
        return hu
    taps = np.exp(-0.5 * (np.arange(reach + 1) / sigma_vox) ** 2)
    taps = (taps / (2 * taps.sum() - taps[0])).astype(np.float32)
    for axis in range(3):
        out = np.empty_like(hu)
        if NUMBA_ENABLED:
            # As (before, axis, after), one kernel serves the three axes.
            before, after = math.prod(hu.shape[:axis]), math.prod(hu.shape[axis + 1 :])
            shape = (before, hu.shape[axis], after)
            kernel = _blur_last_kernel if axis == 2 else _blur_kernel
            kernel(hu.reshape(shape), taps, out.reshape(shape))
        else:
            _blur_axis(hu, taps, axis, out)
        hu = out
    return hu


def _blur_axis(hu: Image, taps: Float32[np.ndarray, " taps"], axis: int, out: Image) -> None:
    padding = [(0, 0)] * 3
    reach, n = len(taps) - 1, hu.shape[axis]
    padding[axis] = (reach, reach)
    padded = np.moveaxis(np.pad(hu, padding, mode="edge"), axis, 0)
    result = np.moveaxis(out, axis, 0)
    np.multiply(padded[reach : reach + n], taps[0], out=result)
    for step, tap in enumerate(taps[1:], start=1):
        result += tap * padded[reach - step : reach - step + n]
        result += tap * padded[reach + step : reach + step + n]


def _rotation(angles: Float[np.ndarray, " 3"]) -> Matrix:
    turn = np.eye(3)
    for (a, b), angle in zip(itertools.combinations(range(3), 2), angles, strict=True):
        plane = np.eye(3)
        plane[[a, a, b, b], [a, b, a, b]] = (
            math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle),
        )  # fmt: skip
        turn = turn @ plane
    return turn


def _flip(block: Int16[np.ndarray, "z y x"], placement: Placement) -> Int16[np.ndarray, "z y x"]:
    z, y, x = (slice(None, None, int(sign)) for sign in placement.matrix.diagonal())
    return block[z, y, x]


def _index_map(
    placement: Placement, corner: tuple[int, int, int]
) -> tuple[Float32[np.ndarray, "3 3"], Float32[np.ndarray, " 3"]]:
    """Return the map from patch indices to fractional indices of a block at ``corner``."""
    middle = np.array(placement.shape) / 2
    # Centre k of the patch is edge k + 0.5; edge e of the block is index e - 0.5.
    origin = placement.matrix @ (0.5 - middle) + placement.center - np.array(corner) - 0.5
    return placement.matrix.astype(np.float32), origin.astype(np.float32)


def _torch_grid(
    rows: Float32[np.ndarray, "3 3"],
    origin: Float32[np.ndarray, " 3"],
    source: tuple[int, ...],
    target: tuple[int, int, int],
) -> torch.Tensor:
    z, y, x = torch.meshgrid(*(torch.arange(n).float() for n in target), indexing="ij")
    points = torch.stack([z, y, x], dim=-1) @ torch.from_numpy(rows).T + torch.from_numpy(origin)
    sides = torch.tensor([max(n - 1, 1) for n in source])
    return (2 * points / sides - 1).flip(-1)[None]


@compile_kernel
def _linear_kernel(
    block: np.ndarray, rows: np.ndarray, origin: np.ndarray, out: np.ndarray
) -> None:
    # float32 throughout: one float64 would halve the lanes of the whole loop.
    f32, zero = np.float32, np.float32(0)
    nz, ny, nx = block.shape
    last_z, last_y, last_x = f32(nz - 1), f32(ny - 1), f32(nx - 1)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            z0 = rows[0, 0] * f32(i) + rows[0, 1] * f32(j) + origin[0]
            y0 = rows[1, 0] * f32(i) + rows[1, 1] * f32(j) + origin[1]
            x0 = rows[2, 0] * f32(i) + rows[2, 1] * f32(j) + origin[2]
            for k in range(out.shape[2]):
                z = min(max(z0 + rows[0, 2] * f32(k), zero), last_z)
                y = min(max(y0 + rows[1, 2] * f32(k), zero), last_y)
                x = min(max(x0 + rows[2, 2] * f32(k), zero), last_x)
                a, b, c = min(int(z), nz - 2), min(int(y), ny - 2), min(int(x), nx - 2)
                fz, fy, fx = z - f32(a), y - f32(b), x - f32(c)
                p000, p001 = f32(block[a, b, c]), f32(block[a, b, c + 1])
                p010, p011 = f32(block[a, b + 1, c]), f32(block[a, b + 1, c + 1])
                p100, p101 = f32(block[a + 1, b, c]), f32(block[a + 1, b, c + 1])
                p110, p111 = f32(block[a + 1, b + 1, c]), f32(block[a + 1, b + 1, c + 1])
                p00, p01 = p000 + fx * (p001 - p000), p010 + fx * (p011 - p010)
                p10, p11 = p100 + fx * (p101 - p100), p110 + fx * (p111 - p110)
                p0, p1 = p00 + fy * (p01 - p00), p10 + fy * (p11 - p10)
                out[i, j, k] = p0 + fz * (p1 - p0)


@compile_kernel
def _nearest_kernel(
    block: np.ndarray, rows: np.ndarray, origin: np.ndarray, out: np.ndarray
) -> None:
    nz, ny, nx = block.shape
    half = np.float32(0.5)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            z0 = rows[0, 0] * i + rows[0, 1] * j + origin[0] + half
            y0 = rows[1, 0] * i + rows[1, 1] * j + origin[1] + half
            x0 = rows[2, 0] * i + rows[2, 1] * j + origin[2] + half
            for k in range(out.shape[2]):
                z = min(max(int(z0 + rows[0, 2] * k), 0), nz - 1)
                y = min(max(int(y0 + rows[1, 2] * k), 0), ny - 1)
                x = min(max(int(x0 + rows[2, 2] * k), 0), nx - 1)
                out[i, j, k] = block[z, y, x]


@compile_kernel
def _blur_kernel(hu: np.ndarray, taps: np.ndarray, out: np.ndarray) -> None:
    count, n, width = hu.shape
    for i in range(count):
        for j in range(n):
            for k in range(width):
                out[i, j, k] = taps[0] * hu[i, j, k]
            for t in range(1, len(taps)):
                low, high = max(j - t, 0), min(j + t, n - 1)
                for k in range(width):
                    out[i, j, k] += taps[t] * (hu[i, low, k] + hu[i, high, k])


@compile_kernel
def _blur_last_kernel(hu: np.ndarray, taps: np.ndarray, out: np.ndarray) -> None:
    count, n, _ = hu.shape
    row = np.empty(n + 2 * len(taps), dtype=np.float32)
    reach = len(taps)
    for i in range(count):
        for j in range(-reach, n + reach):
            row[j + reach] = hu[i, min(max(j, 0), n - 1), 0]
        for j in range(n):
            out[i, j, 0] = taps[0] * row[j + reach]
        for t in range(1, len(taps)):
            for j in range(n):
                out[i, j, 0] += taps[t] * (row[j + reach - t] + row[j + reach + t])
