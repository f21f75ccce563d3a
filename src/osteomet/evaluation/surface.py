"""How much of two surfaces lies within a tolerance of the other: normalised surface distance.

A Dice punishes a small lesion for a shift that a large one hardly feels. This figure asks instead
which share of both outlines is right to within a stated number of mm, such as readers differ by.

The surface of a mask are its voxels that have a face in common with something outside it, as
in the Metrics Reloaded framework; each counts once. 1 is a perfect outline.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage
from scipy.spatial import KDTree

from osteomet.evaluation.statistics import ratio

TOLERANCE_MM = 2.0
"""Default tolerance: about what the in-plane edge of a bone lesion is drawn to."""

ROUNDING_MM = 1e-5
"""Distances on a grid often equal the tolerance, and must not fall either side by rounding."""


@dataclass(frozen=True)
class SurfaceCounts:
    """Surface voxels of both masks together.

    Attributes:
        within: those that lie within the tolerance of the other surface.
        total: all.
    """

    within: int = 0
    total: int = 0

    def __add__(self, other: "SurfaceCounts") -> "SurfaceCounts":
        return SurfaceCounts(self.within + other.within, self.total + other.total)

    @property
    def agreement(self) -> float:
        """Share within the tolerance; NaN where both masks are empty."""
        return ratio(float(self.within), float(self.total))


def compare_surfaces(
    predicted: Bool[np.ndarray, "z y x"],
    true: Bool[np.ndarray, "z y x"],
    spacing_zyx_mm: tuple[float, float, float],
    tolerance_mm: float = TOLERANCE_MM,
) -> SurfaceCounts:
    """Count the surface voxels of two masks on one grid; beyond the grid nothing is inside.

    Source: Nikolov et al., J Med Internet Res 2021; 23: e26151; Maier-Hein et al., Nat Methods
    2024; 21: 195-212.
    """
    first, second = (
        np.argwhere(surface(mask)) * np.array(spacing_zyx_mm) for mask in (predicted, true)
    )
    total = len(first) + len(second)
    if not len(first) or not len(second):
        return SurfaceCounts(0, total)
    limit = tolerance_mm + ROUNDING_MM
    return SurfaceCounts(_near(first, second, limit) + _near(second, first, limit), total)


def surface(mask: Bool[np.ndarray, "z y x"]) -> Bool[np.ndarray, "z y x"]:
    """Return the voxels of a mask with a face on its outside."""
    return mask & ~ndimage.binary_erosion(mask)


def _near(points: Float[np.ndarray, "n 3"], others: Float[np.ndarray, "m 3"], limit: float) -> int:
    """Count the points with another within the limit; surfaces are few voxels of their crop."""
    distances, _ = KDTree(others).query(points, distance_upper_bound=limit)
    return int(np.isfinite(distances).sum())
