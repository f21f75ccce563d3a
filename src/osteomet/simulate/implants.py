"""Metal and cement in bone, and lime in soft tissue: bright, and none of it a metastasis."""

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from osteomet.simulate.bones import Part
from osteomet.simulate.lesions import grow_blob
from osteomet.simulate.noise import smooth
from osteomet.simulate.phantom import Phantom

TITANIUM_HU, STEEL_HU = (7000.0, 10_000.0), (14_000.0, 18_000.0)
"""Before the scanner clips them."""

CEMENT_HU = (1750.0, 2700.0)
BODIES = {**dict.fromkeys(Part, 0.0), Part.BODY: 1.0}
REPLACED_HIP_AGE = 55

Position = Float[np.ndarray, " 3"]


def add_implant(rng: np.random.Generator, phantom: Phantom, age: int) -> str:
    """Add screws in the spine, or a hip or a nail, whichever the field of view has room for.

    Returns:
        What was added; empty if nothing.
    """
    if (phantom.part == Part.FEMUR).sum() * np.prod(phantom.spacing) > 20_000:
        return _hip(rng, phantom) if age >= REPLACED_HIP_AGE else _neck_screws(rng, phantom)
    return _pedicle_screws(rng, phantom)


def add_cement(rng: np.random.Generator, phantom: Phantom) -> str:
    """Fill a vertebral body with cement, some of which has leaked.

    Returns:
        What was added; empty if there is no body.
    """
    hu = float(rng.uniform(*CEMENT_HU))
    blob = grow_blob(
        rng, phantom, rng.uniform(12, 22), stiffness=6.0, depth_mm=(3.0, 99.0), places=BODIES
    )
    if blob is None:
        return ""
    # Cement runs between trabeculae: its edge is ragged.
    ragged = 1.6 * smooth(rng, blob.inward.shape, tuple(2.2 / phantom.spacing))
    share = np.clip(0.5 + (blob.inward + ragged) / 1.2, 0, 1)
    values = phantom.hu[blob.window]
    uneven = 1 + 0.12 * smooth(rng, values.shape, tuple(3.0 / phantom.spacing))
    values += share * np.maximum(hu * uneven - values, 0)
    if rng.random() < 0.35:
        start = blob.centre * phantom.spacing
        leak = start + np.array(
            [rng.uniform(-14, 14), rng.choice([-1, 1]) * rng.uniform(14, 24), rng.uniform(-8, 8)]
        )
        bend = (start + leak) / 2 + rng.normal(0, 3, 3)
        for one, other in ((start, bend), (bend, leak)):
            _rod(phantom, one, other, rng.uniform(0.9, 1.8), hu)
    return "cement"


def add_calcification(rng: np.random.Generator, phantom: Phantom) -> str:
    """Add a phlebolith, a calcified node or a scar of an injection, away from bone.

    Returns:
        What was added; empty where there is only bone or air.
    """
    shape = phantom.hu.shape
    tries = rng.integers(0, shape, (4000, 3))
    place = tuple(tries.T)
    soft = (phantom.bone[place] > 6.0) & (np.abs(phantom.hu[place]) < 130)
    if not soft.any():
        return ""
    middle = tries[int(np.flatnonzero(soft)[0])] * phantom.spacing
    radius, hu = rng.uniform(1.2, 4.0), rng.uniform(250, 1100)
    for _ in range(rng.integers(1, 4)):
        _rod(phantom, middle, middle + rng.normal(0, 1.5, 3), radius * rng.uniform(0.5, 1), hu)
    if rng.random() < 0.4:
        # Phleboliths are rings: lime around what is left of the vein.
        _rod(phantom, middle, middle, 0.45 * radius, hu * 0.45, over=True)
    return "calcification"


def _rod(
    phantom: Phantom,
    start: Position,
    end: Position,
    radius_mm: float,
    hu: float,
    *,
    over: bool = False,
) -> None:
    """Draw a straight rod with round ends; positions in mm from the first voxel.

    Args:
        phantom: the patient, changed in place.
        start: one end.
        end: the other.
        radius_mm: of the rod.
        hu: its value.
        over: replace denser values too.
    """
    low = np.floor((np.minimum(start, end) - radius_mm - 2) / phantom.spacing).astype(int)
    high = np.ceil((np.maximum(start, end) + radius_mm + 2) / phantom.spacing).astype(int) + 1
    low, high = np.clip(low, 0, phantom.hu.shape), np.clip(high, 0, phantom.hu.shape)
    if (high <= low).any():
        return
    window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    grids = np.meshgrid(
        *[np.arange(a, b) * s for a, b, s in zip(low, high, phantom.spacing, strict=True)],
        indexing="ij",
        sparse=True,
    )
    axis = end - start
    length = max(float(axis @ axis), 1e-9)
    apart = [grid - s for grid, s in zip(grids, start, strict=True)]
    along = np.clip(sum(a * d for a, d in zip(apart, axis, strict=True)) / length, 0, 1)
    distance = np.sqrt(sum((a - along * d) ** 2 for a, d in zip(apart, axis, strict=True)))
    share = np.clip(0.5 + (radius_mm - distance) / phantom.spacing[1], 0, 1).astype(np.float32)
    values = phantom.hu[window]
    change = hu - values if over else np.maximum(hu - values, 0)
    values += share * change


def _pedicle_screws(rng: np.random.Generator, phantom: Phantom) -> str:
    bodies = _bodies(rng, phantom)
    if not bodies:
        return ""
    hu, radius = float(rng.uniform(*TITANIUM_HU)), float(rng.uniform(2.3, 3.2))
    heads: dict[int, list[Position]] = {-1: [], 1: []}
    for middle, depth, width in bodies:
        for side, ends in heads.items():
            entry = middle + np.array([3.0, depth + 24.0, side * (0.78 * width + 2)])
            tip = middle + np.array([1.0, -0.45 * depth, side * 0.36 * width])
            _rod(phantom, entry, tip, radius, hu)
            _rod(phantom, entry, entry + np.array([0.0, 9.0, 0.0]), 1.6 * radius, hu)
            ends.append(entry + np.array([0.0, 8.0, 0.0]))
    for ends in heads.values():
        start, end = ends[0].copy(), ends[-1].copy()
        start[0] -= rng.uniform(6, 12)
        end[0] += rng.uniform(6, 12)
        _rod(phantom, start, end, 2.75, hu)
    return "screws"


def _bodies(rng: np.random.Generator, phantom: Phantom) -> list[tuple[Position, float, float]]:
    """Return middle, half depth and half width in mm of neighbouring bodies, upwards."""
    spacing = phantom.spacing
    inside = (phantom.part == Part.BODY) & (phantom.bone < 0)
    if not inside.any():
        return []
    columns = inside.sum(axis=0)
    y, x = np.unravel_index(int(ndimage.uniform_filter(columns, 9).argmax()), columns.shape)
    labels, count = ndimage.label(inside[:, y, x])
    runs = [np.flatnonzero(labels == k + 1) for k in range(count)]
    heights = [len(run) * spacing[0] for run in runs]
    whole = [run for run, height in zip(runs, heights, strict=True) if 12 < height < 40]
    if not whole:
        return []
    first = int(rng.integers(max(len(whole) - 1, 1)))
    found = []
    for run in whole[first : first + int(rng.integers(2, 4))]:
        z = int(run[len(run) // 2])
        plane, _ = ndimage.label(inside[z])
        own = np.argwhere(plane == plane[y, x]) * spacing[1:]
        low, high = np.percentile(own, [2, 98], axis=0)
        middle = np.array([z * spacing[0], *((low + high) / 2)])
        depth, width = (high - low) / 2
        if 8 < depth < 30 and 8 < width < 40:
            found.append((middle, float(depth), float(width)))
    return found


def _femur(rng: np.random.Generator, phantom: Phantom) -> tuple[Position, Position] | None:
    """Return the middle of a femoral head and a place lower in the shaft."""
    inside = (phantom.part == Part.FEMUR) & (phantom.bone < 0)
    labels, count = ndimage.label(inside[::2, ::2, ::2])
    if count == 0:
        return None
    sizes = np.bincount(labels.ravel())[1:]
    large = np.flatnonzero(sizes > 0.3 * sizes.max()) + 1
    voxels = np.argwhere(labels == rng.choice(large)) * 2
    upper = voxels[voxels[:, 0] > voxels[:, 0].max() - 55 / phantom.spacing[0]]
    head = upper[int(phantom.bone[tuple(upper.T)].argmin())]
    lowest = voxels[voxels[:, 0] <= voxels[:, 0].min() + 6 / phantom.spacing[0]]
    shaft = lowest.mean(axis=0) * phantom.spacing
    middle = head * phantom.spacing
    if middle[0] - shaft[0] < 25 or phantom.bone[tuple(head)] > -12:
        return None
    return middle, shaft


def _hip(rng: np.random.Generator, phantom: Phantom) -> str:
    found = _femur(rng, phantom)
    if found is None:
        return ""
    head, shaft = found
    hu = float(rng.uniform(*STEEL_HU))
    stem_hu = float(rng.uniform(*TITANIUM_HU))
    # The head is sawn off; the cup of polyethylene looks like soft tissue.
    place = tuple(np.clip(np.rint(head / phantom.spacing), 0, None).astype(int))
    _empty(phantom, head, 1.5 - float(phantom.bone[place]), rng.uniform(40, 90))
    _rod(phantom, head, head, rng.uniform(11, 16), hu)
    outward = np.sign(shaft[2] - head[2]) or 1.0
    corner = np.array([head[0] - 28, (head[1] + shaft[1]) / 2, head[2] + outward * 30])
    _rod(phantom, head, corner, 6.5, stem_hu)
    length = min(110.0, float(np.linalg.norm(shaft - corner)) + 5)
    down = (shaft - corner) / max(float(np.linalg.norm(shaft - corner)), 1e-6)
    _rod(phantom, corner, corner + 0.5 * length * down, 7.5, stem_hu)
    _rod(phantom, corner + 0.5 * length * down, corner + length * down, 5.5, stem_hu)
    return "hip"


def _empty(phantom: Phantom, middle: Position, radius_mm: float, hu: float) -> None:
    """Take the bone out of a sphere."""
    _rod(phantom, middle, middle, radius_mm, hu, over=True)
    reach = np.ceil(radius_mm / phantom.spacing).astype(int)
    index = np.rint(middle / phantom.spacing).astype(int)
    low, high = np.maximum(index - reach, 0), np.minimum(index + reach + 1, phantom.hu.shape)
    window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    grids = np.meshgrid(
        *[np.arange(a, b) * s for a, b, s in zip(low, high, phantom.spacing, strict=True)],
        indexing="ij",
        sparse=True,
    )
    apart = np.sqrt(sum((grid - m) ** 2 for grid, m in zip(grids, middle, strict=True)))
    # Nothing may grow there: it is no bone any more.
    phantom.bone[window] = np.maximum(phantom.bone[window], radius_mm - apart)
    phantom.part[window][apart < radius_mm] = Part.NONE


def _neck_screws(rng: np.random.Generator, phantom: Phantom) -> str:
    found = _femur(rng, phantom)
    if found is None:
        return ""
    head, shaft = found
    outward = np.sign(shaft[2] - head[2]) or 1.0
    hu = float(rng.uniform(*TITANIUM_HU))
    for shift in rng.permutation([[0.0, 0.0], [-9.0, 5.0], [-9.0, -5.0]])[: rng.integers(2, 4)]:
        entry = head + np.array([-48 + shift[0], shift[1] + 3, outward * 66])
        _rod(phantom, entry, head + np.array([shift[0], shift[1], 0.0]), 3.3, hu)
    return "neck screws"
