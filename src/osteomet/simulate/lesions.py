"""Shapes of metastases and of the benign findings that resemble them, grown in bone."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from scipy import ndimage

from osteomet.simulate.bones import Part
from osteomet.simulate.noise import Field, smooth
from osteomet.simulate.phantom import Phantom
from osteomet.simulate.primaries import Appearance
from osteomet.simulate.settings import SimulationConfig
from osteomet.volume import Window

PLACES = {
    Part.NONE: 0.0,
    Part.BODY: 1.0,
    Part.POSTERIOR: 0.45,
    Part.RIB: 1.1,
    Part.SACRUM: 0.7,
    Part.ILIUM: 0.7,
    Part.FEMUR: 0.4,
    Part.STERNUM: 0.6,
    Part.CLAVICLE: 0.2,
    Part.SCAPULA: 0.5,
    Part.HUMERUS: 0.3,
}
"""How often a metastasis settles in a voxel of each kind of bone."""

METAL_HU = 1700.0
"""Metal and cement: denser than any bone, and nothing grows into them."""


@dataclass(eq=False)
class Blob:
    """The shape of a finding, in a crop of the phantom.

    Attributes:
        window: the crop.
        inward: mm from its surface, positive inside, on the crop.
        centre: voxel it grew from.
        diameter_mm: of the sphere of the volume asked for.
        part: kind of bone it grew from.
    """

    window: Window
    inward: Field
    centre: Int[np.ndarray, " 3"]
    diameter_mm: float
    part: Part

    def fade(self, margin_mm: float) -> Field:
        """Return 1 inside and 0 outside, passing through 0.5 on the surface."""
        return np.clip(0.5 + self.inward / margin_mm, 0, 1).astype(np.float32)


def draw_diameter(
    rng: np.random.Generator, config: SimulationConfig, appearance: Appearance
) -> float:
    """Draw the diameter in mm of the sphere with a lesion's volume, before clipping to bone."""
    # Expansile lesions are larger; the others give way, to keep the overall median.
    factor = 1.25 if appearance.expansile else 0.98
    spread = config.diameter_spread * rng.standard_normal()
    return float(np.clip(factor * config.median_diameter_mm * np.exp(spread), 4.0, 60.0))


def grow_blob(
    rng: np.random.Generator,
    phantom: Phantom,
    diameter_mm: float,
    *,
    stiffness: float,
    depth_mm: tuple[float, float],
    places: dict[Part, float] = PLACES,
    others: list[Blob] | None = None,
) -> Blob | None:
    """Grow an irregular shape of a given volume from a random place in bone.

    Args:
        rng: source of randomness.
        phantom: the patient.
        diameter_mm: of the sphere with the volume wanted; less where bone is too small.
        stiffness: how much bone's surface holds the shape back; 0.5 leaks, 10 does not.
        depth_mm: range of the depth under the surface from which it may grow.
        places: weight of each kind of bone.
        others: shapes to keep away from.

    Returns:
        The shape; None where the field of view has no such place left.
    """
    centre = _draw_centre(rng, phantom, diameter_mm, depth_mm, places, others or [])
    if centre is None:
        return None
    radius = diameter_mm / 2
    reach = np.ceil((1.75 * radius + 2.5) / phantom.spacing).astype(int)
    low = np.maximum(centre - reach, 0)
    high = np.minimum(centre + reach + 1, phantom.hu.shape)
    window = (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
    field = _roundness(rng, phantom, centre, low, high, radius)
    field += stiffness * np.maximum(phantom.bone[window], 0) / radius
    wanted = math.pi / 6 * diameter_mm**3 / float(np.prod(phantom.spacing))
    order = min(round(wanted), field.size - 1)
    level = min(float(np.partition(field, order, axis=None)[order]), 1.5)
    # The shape must be in one piece: the one it grew from.
    pieces, _ = ndimage.label(field < level)
    own = pieces[tuple(centre - low)]
    if own == 0:
        own = _largest(pieces)
    if own == 0:
        return None
    near = ndimage.binary_dilation(pieces == own, iterations=3)
    inward = np.where(near, (level - field) * radius, -radius).astype(np.float32)
    inward[((pieces != own) & (inward > 0)) | (phantom.hu[window] > METAL_HU)] = -radius
    return Blob(window, inward, centre, diameter_mm, Part(int(phantom.part[tuple(centre)])))


def _largest(pieces: Int[np.ndarray, "z y x"]) -> int:
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return int(np.argmax(sizes)) if sizes.any() else 0


def _draw_centre(
    rng: np.random.Generator,
    phantom: Phantom,
    diameter_mm: float,
    depth_mm: tuple[float, float],
    places: dict[Part, float],
    others: list[Blob],
) -> Int[np.ndarray, " 3"] | None:
    shape = np.array(phantom.hu.shape)
    margin = np.minimum(np.ceil(4.0 / phantom.spacing).astype(int), shape // 4)
    tries = np.stack([rng.integers(m, n - m, 40_000) for m, n in zip(margin, shape, strict=True)])
    depth = -phantom.bone[tuple(tries)]
    weights = np.array([places[p] for p in Part])[phantom.part[tuple(tries)]]
    weights = weights * ((depth >= depth_mm[0]) & (depth <= depth_mm[1]))
    # A large lesion needs a large bone around it.
    weights *= np.exp(np.minimum(depth, 0.35 * diameter_mm) / (0.12 * diameter_mm + 1.5))
    for blob in others:
        apart = (tries - blob.centre[:, None]) * phantom.spacing[:, None]
        near = np.linalg.norm(apart, axis=0) < 0.62 * (diameter_mm + blob.diameter_mm)
        weights[near] = 0
    if weights.sum() <= 0:
        return None
    chosen = rng.choice(weights.size, p=weights / weights.sum())
    return tries[:, chosen]


def _roundness(
    rng: np.random.Generator,
    phantom: Phantom,
    centre: Int[np.ndarray, " 3"],
    low: Int[np.ndarray, " 3"],
    high: Int[np.ndarray, " 3"],
    radius: float,
) -> Field:
    # Distance from the centre over the radius of a turned ellipsoid, made uneven.
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    axes = np.exp(np.clip(rng.normal(0, 0.2, 3), -0.4, 0.4))
    axes /= np.prod(axes) ** (1 / 3)
    matrix = turn * axes[:, None] / radius
    grids = np.meshgrid(
        *[
            (np.arange(a, b) - c) * s
            for a, b, c, s in zip(low, high, centre, phantom.spacing, strict=True)
        ],
        indexing="ij",
        sparse=True,
    )
    squares = sum(
        (row[0] * grids[0] + row[1] * grids[1] + row[2] * grids[2]) ** 2 for row in matrix
    )
    field: Field = np.sqrt(squares).astype(np.float32)
    shape = field.shape
    lobes = smooth(rng, shape, tuple(np.maximum(0.55 * radius, 2.0) / phantom.spacing))
    fine = smooth(rng, shape, tuple(np.maximum(0.22 * radius, 1.2) / phantom.spacing))
    field += rng.uniform(0.08, 0.2) * lobes + rng.uniform(0.02, 0.07) * fine
    return field
