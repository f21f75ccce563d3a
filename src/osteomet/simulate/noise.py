"""Random fields on a voxel grid, made of one generator and therefore reproducible."""

import numpy as np
from jaxtyping import Float
from scipy import ndimage

Field = Float[np.ndarray, "z y x"]


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
