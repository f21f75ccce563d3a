"""Patches on a CPU, one at a time, by compiled loops: what loader threads run.

The loops hold no lock of Python's and start no threads of their own, so that as many patches are
made at once as there are loader threads. ``render_batch`` does the same through torch.
"""

import math

import numpy as np
from jaxtyping import Float32, Int16, Int64

from osteomet.config import PreprocessConfig
from osteomet.data.augment import Boxes, IntensityChange, Placement, blur_taps
from osteomet.ops.acceleration import compile_kernel

Image = Float32[np.ndarray, "z y x"]


def sample_image(
    block: Int16[np.ndarray, "z y x"], placement: Placement
) -> Float32[np.ndarray, "Z Y X"]:
    """Return the HU of a patch as new float32 memory, from its ``source_box``."""
    if placement.aligned:
        z, y, x = (slice(None, None, int(sign)) for sign in placement.matrix.diagonal())
        return block[z, y, x].astype(np.float32, order="C")
    out = np.empty(placement.shape, dtype=np.float32)
    _linear_kernel(np.ascontiguousarray(block), *placement.index_map(), out)
    return out


def sample_lesions(
    block: Int16[np.ndarray, "z y x"],
    placement: Placement,
    ids: Int64[np.ndarray, " n"],
    scan_boxes: Boxes,
) -> tuple[Int16[np.ndarray, "Z Y X"], Int64[np.ndarray, " n"], Boxes]:
    """Sample the instance map, each voxel from the nearest one, where lesions can be.

    Args:
        block: instance map of the ``source_box``.
        placement: of the patch.
        ids: lesions in the block; may be empty.
        scan_boxes: their tight boxes in the scan.

    Returns:
        The patch's instance map, how many voxels of each lesion it holds, and their tight
        boxes; zeros where there are none.
    """
    out = np.zeros(placement.shape, dtype=np.int16)
    counts, boxes = np.zeros(len(ids), dtype=np.int64), np.zeros((len(ids), 6))
    rows, origin = placement.index_map()
    block = np.ascontiguousarray(block)
    hulls = placement.move_boxes(scan_boxes, hull=True)
    limit = np.array(placement.shape)
    for k, hull in enumerate(hulls):
        # one voxel more than the hull, for rounding
        low = (np.floor(hull[:3]) - 1).clip(0, limit).astype(np.int64)
        high = (np.ceil(hull[3:]) + 1).clip(0, limit).astype(np.int64)
        counts[k] = _lesion_kernel(block, rows, origin, int(ids[k]), low, high, out, boxes[k])
    return out, counts, boxes


def change_intensities(
    hu: Image,
    change: IntensityChange,
    window_hu: tuple[float, float],
    noise: Float32[np.ndarray, " n"],
) -> Image:
    """Return the changed patch; ``hu`` is overwritten."""
    hu = blur(thick_slices(hu, change.slice_vox, change.slice_phase), change.blur_vox)
    if change.contrast != 1:
        hu *= np.float32(change.contrast)
    if change.gamma != 1:
        bend(hu, change.gamma, window_hu)
    if change.shift_hu:
        hu += np.float32(change.shift_hu)
    if change.noise_hu:
        own = noise[change.noise_start : change.noise_start + hu.size].reshape(hu.shape)
        hu += np.float32(change.noise_hu) * own
    return hu


def normalise_in_place(hu: Image, config: PreprocessConfig) -> Image:
    """Return ``hu`` as ``render_batch.normalise`` does, in its own memory."""
    np.clip(hu, *config.window_hu, out=hu)
    hu -= np.float32(config.mean_hu)
    hu *= np.float32(1 / config.std_hu)
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
    low, high = (np.float32(end) for end in window_hu)
    place = np.clip((hu - low) / (high - low), 0, 1)
    # exp(gamma * log(place)) runs on vectors where place ** gamma does not: twice as fast.
    with np.errstate(divide="ignore"):
        bent = np.log(place)
    bent *= np.float32(gamma)
    np.exp(bent, out=bent)
    bent -= place
    bent *= high - low
    hu += bent


def blur(hu: Image, sigma_vox: float) -> Image:
    """Return a Gaussian blur; beyond the border its value repeats."""
    taps = blur_taps(sigma_vox)
    if len(taps) == 1:
        return hu
    for axis in range(3):
        out = np.empty_like(hu)
        # As (before, axis, after), one kernel serves two axes; the last needs its own.
        before, after = math.prod(hu.shape[:axis]), math.prod(hu.shape[axis + 1 :])
        shape = (before, hu.shape[axis], after)
        kernel = _blur_last_kernel if axis == 2 else _blur_kernel
        kernel(hu.reshape(shape), taps, out.reshape(shape))
        hu = out
    return hu


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


def _lesion_loop(
    block: np.ndarray,
    rows: np.ndarray,
    origin: np.ndarray,
    lesion: int,
    low: np.ndarray,
    high: np.ndarray,
    out: np.ndarray,
    box: np.ndarray,
) -> int:
    # float32, in the order of render_batch.sample_instances: both give the same voxels everywhere.
    f32 = np.float32
    nz, ny, nx = block.shape
    start_z, start_y, start_x = origin[0] + f32(0.5), origin[1] + f32(0.5), origin[2] + f32(0.5)
    count = 0
    for i in range(low[0], high[0]):
        for j in range(low[1], high[1]):
            z0 = rows[0, 0] * f32(i) + rows[0, 1] * f32(j) + start_z
            y0 = rows[1, 0] * f32(i) + rows[1, 1] * f32(j) + start_y
            x0 = rows[2, 0] * f32(i) + rows[2, 1] * f32(j) + start_x
            for k in range(low[2], high[2]):
                z = min(max(int(z0 + rows[0, 2] * f32(k)), 0), nz - 1)
                y = min(max(int(y0 + rows[1, 2] * f32(k)), 0), ny - 1)
                x = min(max(int(x0 + rows[2, 2] * f32(k)), 0), nx - 1)
                if block[z, y, x] != lesion:
                    continue
                out[i, j, k] = lesion
                if count == 0:
                    box[0], box[1], box[2], box[3], box[4], box[5] = i, j, k, i, j, k
                box[0], box[3] = min(box[0], i), max(box[3], i)
                box[1], box[4] = min(box[1], j), max(box[4], j)
                box[2], box[5] = min(box[2], k), max(box[5], k)
                count += 1
    if count > 0:
        box[3:] += 1  # half open
    return count


_lesion_kernel = compile_kernel(_lesion_loop, fastmath=False)


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
