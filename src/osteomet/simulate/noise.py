"""Random fields: on a voxel grid, or a tile of noise that any place can be looked up in."""

from typing import Any

import numpy as np
from jaxtyping import Float
from numba import njit
from scipy import ndimage

Field = Float[np.ndarray, "z y x"]
TILE = 64
"""Side of the tile, which repeats; a power of two."""

Tile = Float[np.ndarray, "64 64 64"]


def white(rng: np.random.Generator, shape: tuple[int, ...]) -> Field:
    """Return independent standard normal values."""
    return rng.standard_normal(shape, dtype=np.float32)


def smooth(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    scale_vox: tuple[float, float, float],
) -> Field:
    """Return noise of mean 0 and variance about 1 that varies over ``scale_vox`` voxels.

    The noise is made on a coarse grid and interpolated, so that large scales are cheap.

    Args:
        rng: source of randomness.
        shape: of the field.
        scale_vox: distance over which it changes, per axis.
    """
    steps = [max(float(scale), 1.0) for scale in scale_vox]
    field = white(rng, tuple(int(n // step) + 4 for n, step in zip(shape, steps, strict=True)))
    # The slowest axis last: there whole slices are added, and the array is largest.
    for axis in (2, 1, 0):
        field = _interpolated(field, axis, shape[axis], steps[axis], float(rng.random()))
    # Cubic B-spline weights shrink the variance by about 0.48 per axis.
    field *= np.float32(0.48**-1.5)
    return field


def _interpolated(
    field: Float[np.ndarray, "z y x"], axis: int, count: int, step: float, offset: float
) -> Float[np.ndarray, "z2 y2 x2"]:
    position = np.arange(count) / step + offset
    cell = position.astype(np.int64)
    t = (position - cell).astype(np.float32)
    taps = (
        (1 - t) ** 3 / 6,
        (3 * t**3 - 6 * t**2 + 4) / 6,
        (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
        t**3 / 6,
    )
    last = field.shape[axis] - 1
    along = [1, 1, 1]
    along[axis] = count
    total = np.zeros((), np.float32)
    for k, weight in enumerate(taps):
        total = total + field.take(np.minimum(cell + k, last), axis) * weight.reshape(along)
    return total


def textured(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    sigma_vox: tuple[float, float, float],
) -> Field:
    """Return noise of mean 0 and variance about 1, white noise blurred by a Gaussian."""
    field = ndimage.gaussian_filter(white(rng, shape), sigma_vox, mode="wrap", truncate=3.0)
    return field / max(float(field.std()), 1e-6)


def draw_tile(rng: np.random.Generator) -> Tile:
    """Draw the noise that all textures of a patient are made of."""
    noise = rng.standard_normal((TILE, TILE, TILE), dtype=np.float32)
    tile: Tile = ndimage.gaussian_filter(noise, 1.0, mode="wrap", truncate=3.0)
    tile /= np.float32(tile.std())
    return tile


def compiled(kernel: Any) -> Any:
    """Return a function compiled by numba."""
    # The shape checks of the tests wrap every function; numba needs the bare one.
    return njit(cache=True, nogil=True)(getattr(kernel, "__wrapped__", kernel))


def _noise_kernel(tile, z, y, x):  # type: ignore[no-untyped-def]  # numba infers
    fz, fy, fx = np.floor(z), np.floor(y), np.floor(x)
    tz, ty, tx = z - fz, y - fy, x - fx
    z0, y0, x0 = int(fz) & 63, int(fy) & 63, int(fx) & 63
    z1, y1, x1 = (z0 + 1) & 63, (y0 + 1) & 63, (x0 + 1) & 63
    a = tile[z0, y0, x0] + tx * (tile[z0, y0, x1] - tile[z0, y0, x0])
    b = tile[z0, y1, x0] + tx * (tile[z0, y1, x1] - tile[z0, y1, x0])
    c = tile[z1, y0, x0] + tx * (tile[z1, y0, x1] - tile[z1, y0, x0])
    d = tile[z1, y1, x0] + tx * (tile[z1, y1, x1] - tile[z1, y1, x0])
    a += ty * (b - a)
    c += ty * (d - c)
    return a + tz * (c - a)


noise = compiled(_noise_kernel)
"""Noise at a place of the tile: of variance about 1, smooth over about two units."""
