"""Fractures: vertebrae that collapse, bones that break, and callus that heals them.

A collapse moves everything: values, bone and lesions are taken from where they were, so the
mask of a lesion stays true.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from osteomet.simulate.bones import Part
from osteomet.simulate.lesions import METAL_HU, Blob
from osteomet.simulate.noise import Field, smooth, textured
from osteomet.simulate.phantom import Phantom
from osteomet.volume import Window

FORMS = ("wedge", "biconcave", "crush")
"""Genant's: Genant, Wu, van Kuijk and Nevitt, J Bone Miner Res 1993; 8: 1137-1148."""

BODY_MM = (11.0, 45.0)
"""Heights that a vertebral body can have."""

REACH_MM, RIM_MM = 34.0, 6.0
LEAST_DISC_MM = 3.0


@dataclass(frozen=True, eq=False)
class Collapse:
    """Where the voxels of a window come from.

    Attributes:
        window: what moves.
        source: slice, in voxels of the phantom, that each of its voxels shows.
        squeeze: how many times the bone is compressed there; 1 where it is not.
        plate: depth in mm under the plate that has sunk; NaN outside the body.
    """

    window: Window
    source: Field
    squeeze: Field
    plate: Field

    @property
    def sunk_slices(self) -> float:
        """Return how far the voxel that moved most has come down."""
        here = np.arange(self.window[0].start, self.window[0].stop)[:, None, None]
        return float((self.source - here).max(initial=0.0))


def collapse_body(
    rng: np.random.Generator,
    phantom: Phantom,
    centre: Int[np.ndarray, " 3"],
    loss: float,
    blobs: list[Blob],
    *,
    fresh: bool,
) -> bool:
    """Let the upper plate of the vertebral body at ``centre`` sink.

    Args:
        rng: source of randomness.
        phantom: the patient, changed in place.
        centre: a voxel in the body.
        loss: share of the height.
        blobs: lesions, which move along.
        fresh: with a band of impacted bone and a broken cortex, as before healing.

    Returns:
        Whether there was such a body, whole in the field of view.
    """
    collapse = _plan(rng, phantom, centre, loss)
    if collapse is None:
        return False
    window = collapse.window
    columns = (slice(None), *window[1:])
    part = phantom.part[columns]
    nearest = np.clip(np.rint(collapse.source), 0, len(part) - 1).astype(np.int64)
    phantom.part[window] = np.take_along_axis(part, nearest, axis=0)
    for name in ("hu", "bone", "cortex"):
        field = getattr(phantom, name)
        field[window] = _along_z(field[columns], collapse.source)
    for blob in blobs:
        _move(blob, collapse)
    _impact(rng, phantom, collapse, fresh=fresh)
    return True


def _plan(
    rng: np.random.Generator, phantom: Phantom, centre: Int[np.ndarray, " 3"], loss: float
) -> Collapse | None:
    z, y, x = centre.tolist()
    step = float(phantom.spacing[0])
    column = _column(phantom, y, x)
    extent = _run(column, z)
    if extent is None:
        return None
    bottom, top = extent
    height = (top - bottom) * step
    ahead = np.flatnonzero(column[top:])
    disc = np.clip((ahead[0] if len(ahead) else 8 / step) * step, LEAST_DISC_MM, 14.0)
    highest = top + int(np.ceil(disc / step)) + 1
    if not BODY_MM[0] <= height <= BODY_MM[1] or bottom < 1 or highest >= len(phantom.hu) - 1:
        return None
    footprint, window_yx = _footprint(phantom, (bottom + top) // 2, y, x)
    if footprint is None:
        return None
    sunk = loss * height * _form(rng, footprint, phantom.spacing)
    window = (slice(bottom, highest + 1), *window_yx)
    up = (np.arange(bottom, highest + 1) - bottom)[:, None, None] * step
    limit = height - sunk
    squeeze = (height / limit)[None]
    stretched = height + (up - limit) * disc / (disc + sunk)
    above = np.where(up <= height + disc, stretched, up)
    source = bottom + np.where(up <= limit, up * squeeze, above) / step
    inside = (up <= limit) & (sunk > 0.3)
    return Collapse(
        window,
        source.astype(np.float32),
        np.where(inside, squeeze, 1).astype(np.float32),
        np.where(inside & footprint, limit - up, np.nan).astype(np.float32),
    )


def _column(phantom: Phantom, y: int, x: int) -> Bool[np.ndarray, " z"]:
    around = (slice(None), slice(max(y - 2, 0), y + 3), slice(max(x - 2, 0), x + 3))
    body = (phantom.bone[around] < 0) & (phantom.part[around] == Part.BODY)
    inside: Bool[np.ndarray, " z"] = body.mean(axis=(1, 2)) > 0.5
    return inside


def _run(column: Bool[np.ndarray, " z"], z: int) -> tuple[int, int] | None:
    """Return first and last-plus-one of the run of True at ``z``."""
    if not column[z]:
        return None
    below, above = np.flatnonzero(~column[:z]), np.flatnonzero(~column[z:])
    if len(below) == 0 or len(above) == 0:
        return None
    return int(below[-1]) + 1, z + int(above[0])


def _footprint(
    phantom: Phantom, z: int, y: int, x: int
) -> tuple[Bool[np.ndarray, "y x"] | None, tuple[slice, slice]]:
    reach_y, reach_x = np.ceil(REACH_MM / phantom.spacing[1:]).astype(int)
    window = (
        slice(max(y - reach_y, 0), y + reach_y + 1),
        slice(max(x - reach_x, 0), x + reach_x + 1),
    )
    plane = (phantom.bone[z][window] < 0) & (phantom.part[z][window] == Part.BODY)
    labels, _ = ndimage.label(plane)
    own = labels[y - window[0].start, x - window[1].start]
    return (labels == own, window) if own else (None, window)


def _form(
    rng: np.random.Generator,
    footprint: Bool[np.ndarray, "y x"],
    spacing: Float[np.ndarray, " 3"],
) -> Float[np.ndarray, "y x"]:
    """Return how far each column sinks, 1 where most, fading out beside the body."""
    form = rng.choice(FORMS, p=[0.45, 0.35, 0.2])
    rows = np.flatnonzero(footprint.any(axis=1))
    back = (np.arange(len(footprint)) - rows[0]) / max(rows[-1] - rows[0], 1)
    depth = ndimage.distance_transform_edt(footprint, sampling=spacing[1:])
    if form == "wedge":
        share = np.broadcast_to(1 - 0.8 * np.clip(back, 0, 1)[:, None], footprint.shape)
    elif form == "biconcave":
        share = 0.25 + 0.75 * np.sqrt(np.clip(depth / max(depth.max(), 1e-6), 0, 1))
    else:
        share = np.ones(footprint.shape)
    beside = ndimage.distance_transform_edt(~footprint, sampling=spacing[1:])
    uneven = 1 + 0.12 * smooth(rng, (1, *footprint.shape), (1.0, *(8.0 / spacing[1:])))[0]
    sunk: Float[np.ndarray, "y x"] = share * np.clip(1 - beside / RIM_MM, 0, 1) * uneven
    return sunk.astype(np.float32)


def _move(blob: Blob, collapse: Collapse) -> None:
    """Move a lesion along, in a window that reaches as far down as it may have sunk."""
    z, y, x = blob.window
    low = max(z.start - int(np.ceil(collapse.sunk_slices)), 0)
    far = -blob.diameter_mm / 2
    grown = np.full((z.stop - low, *blob.inward.shape[1:]), far, np.float32)
    grown[z.start - low :] = blob.inward
    blob.window = (slice(low, z.stop), y, x)
    shared = _shared(blob.window, collapse.window)
    if shared is not None:
        mine, its = shared
        source = collapse.source[its]
        moved = _along_z(grown[(slice(None), *mine[1:])], source - low)
        # Above the lesion's window there is none of it.
        moved[source > z.stop - 1] = far
        grown[mine] = moved
    blob.inward = grown


def _shared(one: Window, other: Window) -> tuple[Window, Window] | None:
    """Return the part two windows share, in voxels of each; None if they are apart."""
    inner, outer = [], []
    for a, b in zip(one, other, strict=True):
        start, stop = max(a.start, b.start), min(a.stop, b.stop)
        if stop <= start:
            return None
        inner.append(slice(start - a.start, stop - a.start))
        outer.append(slice(start - b.start, stop - b.start))
    return (inner[0], inner[1], inner[2]), (outer[0], outer[1], outer[2])


def _along_z(
    field: Float[np.ndarray, "z y x"], place: Float[np.ndarray, "rows y x"]
) -> Float[np.ndarray, "rows y x"]:
    """Return a field's values at fractional slices of the same columns."""
    inside = np.clip(place, 0, len(field) - 1)
    low = np.minimum(inside.astype(np.int64), max(len(field) - 2, 0))
    share = (inside - low).astype(np.float32)
    below = np.take_along_axis(field, low, axis=0)
    above = np.take_along_axis(field, np.minimum(low + 1, len(field) - 1), axis=0)
    values: Float[np.ndarray, "rows y x"] = (below + share * (above - below)).astype(np.float32)
    return values


def _impact(rng: np.random.Generator, phantom: Phantom, collapse: Collapse, *, fresh: bool) -> None:
    """Compress the marrow; a fresh fracture has a dense band and steps in its cortex."""
    window = collapse.window
    hu, inside = phantom.hu[window], phantom.bone[window] < 0
    hu += inside * np.clip(collapse.squeeze - 1, 0, 0.7) * np.clip(hu, 0, 350) * (hu < METAL_HU)
    depth = np.nan_to_num(collapse.plate, nan=99.0)
    if not fresh:
        return
    wave = 0.8 * smooth(rng, hu.shape, tuple(5.0 / phantom.spacing))
    band = np.exp(-(((depth - 3.0 + wave) / 1.6) ** 2))
    grain = np.clip(0.7 + 0.4 * textured(rng, hu.shape, tuple(0.9 / phantom.spacing)), 0, 1.5)
    hu += inside * band * grain * rng.uniform(120, 320) * (hu < METAL_HU)
    gap = np.abs(depth - rng.uniform(4, 7) + 2 * wave) < 0.7 * max(phantom.spacing[0], 1.0)
    torn = smooth(rng, hu.shape, tuple(7.0 / phantom.spacing)) > 0.2
    share = 0.75 * gap * torn * phantom.cortex[window] * inside
    hu += share * (60.0 - hu)


def break_bone(
    rng: np.random.Generator,
    phantom: Phantom,
    centre: Int[np.ndarray, " 3"],
    reach_mm: float,
    *,
    age: str,
) -> None:
    """Break a bone across its axis at ``centre``.

    Args:
        rng: source of randomness.
        phantom: the patient, changed in place.
        centre: a voxel in bone.
        reach_mm: of the line.
        age: ``fresh``, a dark line; ``healing``, with callus around it; ``healed``, callus alone.
    """
    window, offsets = _around(phantom, centre, reach_mm + 8)
    bone, hu = phantom.bone[window], phantom.hu[window]
    near = (bone < 0) & (sum(o**2 for o in offsets) < 12.0**2)
    points = np.argwhere(near) * phantom.spacing
    if len(points) < 20:
        return
    _, _, axes = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    tilt = axes[0] + 0.35 * rng.standard_normal(3)
    tilt /= np.linalg.norm(tilt)
    along = sum(o * t for o, t in zip(offsets, tilt, strict=True))
    along = along + 0.9 * smooth(rng, hu.shape, tuple(3.0 / phantom.spacing))
    here = sum(o**2 for o in offsets) < reach_mm**2
    if age != "healed":
        width = rng.uniform(0.5, 1.3)
        line = np.clip(1 + (width - np.abs(along)) / 0.8, 0, 1) * here * (bone < 0.5)
        hu += line * (rng.uniform(30, 80) - hu) * (hu < METAL_HU)
    if age != "fresh":
        bulge = rng.uniform(1.5, 3.5) * np.exp(-((along / rng.uniform(4, 7)) ** 2))
        callus = np.clip((bulge - bone) / 0.8, 0, 1) * (bone > -0.3) * here
        grain = 1 + 0.15 * smooth(rng, hu.shape, tuple(2.0 / phantom.spacing))
        hu += callus * np.maximum(rng.uniform(250, 650) * grain - hu, 0)


def _around(
    phantom: Phantom, centre: Int[np.ndarray, " 3"], reach_mm: float
) -> tuple[Window, list[Field]]:
    """Return a window around a voxel and the distances from it in mm along each axis."""
    reach = np.ceil(reach_mm / phantom.spacing).astype(int)
    low = np.maximum(centre - reach, 0)
    high = np.minimum(centre + reach + 1, phantom.hu.shape)
    offsets = [
        (np.arange(a, b) - c) * s
        for a, b, c, s in zip(low, high, centre, phantom.spacing, strict=True)
    ]
    grids = np.meshgrid(*[o.astype(np.float32) for o in offsets], indexing="ij", sparse=True)
    window = (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
    return window, list(grids)
