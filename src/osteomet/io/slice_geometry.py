"""Turn the positions of slices into one rectangular voxel grid, or say why there is none.

What can be read without inventing anatomy is read: small unevenness, a sideways shift from
slice to slice (gantry tilt), steps that differ by less than half. A gap is refused.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from osteomet.errors import GeometryError
from osteomet.volume import ORTHOGONALITY_TOLERANCE, Affine

Vectors = Float[np.ndarray, "n 3"]
Axes = Float[np.ndarray, "3 3"]
Distances = Float[np.ndarray, " n"]

SAME_POSITION_MM = 0.01
"""Slices nearer than this are at the same position."""

GAP = 1.5
"""A step longer than this many usual steps has room for another slice."""

EXACT, TOLERATED = 0.01, 0.1
"""Distance from an even grid, in steps: read without a word; read as it is, with a warning."""

SIDEWAYS_TOLERANCE_PIXELS = 0.1
"""How far a slice may lie beside a straight stack before it is moved."""

LARGEST_GRID = 3
"""A grid with more rows or columns than this many slices side by side is a damaged series."""

GAPS_NAMED = 3
"""Number of gaps that an error names one by one."""


@dataclass(frozen=True, eq=False)
class StackGeometry:
    """How slices, sorted along their normal, fill a rectangular grid.

    Attributes:
        affine: of the grid, see ``Volume``.
        shape_zyx: of the grid.
        source: ``(z,)`` fractional number of the slice at which each plane of the grid lies.
        shift: ``(n, 2)`` rows and columns by which each slice moves onto the grid; None where
            no slice moves.
        warnings: what had to be repaired.
    """

    affine: Affine
    shape_zyx: tuple[int, int, int]
    source: Float[np.ndarray, " z"]
    shift: Float[np.ndarray, "n 2"] | None
    warnings: tuple[str, ...]


def slice_axes(orientation: tuple[float, ...]) -> Axes | None:
    """Return unit vectors along the normal, along a column and along a row, as columns.

    None where the orientation is not two perpendicular unit vectors.
    """
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    if abs(float(row @ column)) > ORTHOGONALITY_TOLERANCE or (abs(lengths - 1) > 0.01).any():
        return None
    row, column = row / lengths[0], column / lengths[1]
    return np.stack([np.cross(row, column), column, row], axis=1)


def usual_step(sorted_mm: Distances) -> float:
    """Return the median distance of neighbours at different positions; 0 if there are none."""
    steps = np.diff(sorted_mm)
    steps = steps[steps > SAME_POSITION_MM]
    return float(np.median(steps)) if len(steps) else 0.0


def plan_stack(
    positions: Vectors, axes: Axes, pixel_spacing: tuple[float, float], shape: tuple[int, int]
) -> StackGeometry:
    """Fit a rectangular grid to slices.

    Args:
        positions: centre of each slice's first pixel in LPS mm, sorted along the normal; at
            least two, no two of them at the same place.
        axes: of a slice, see ``slice_axes``.
        pixel_spacing: mm between rows and between columns.
        shape: rows and columns of a slice.

    Raises:
        GeometryError: slices are missing, or lie beside each other rather than behind.
    """
    along = positions @ axes[:, 0]
    refuse_gaps(positions, axes, along)
    source, step, warnings = _even_planes(along)
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array([step, *pixel_spacing])
    affine[:3, 3] = positions[0]
    sideways = (positions - positions[0]) @ axes[:, 1:]
    relative = (along - along[0]) / (along[-1] - along[0])
    bend = np.abs(sideways - relative[:, None] * sideways[-1]).max(axis=0) / pixel_spacing
    lean = float(np.linalg.norm(sideways[-1]) / (along[-1] - along[0]))
    is_bent = bool((bend > SIDEWAYS_TOLERANCE_PIXELS).any())
    if lean <= ORTHOGONALITY_TOLERANCE and not is_bent:
        # So small a lean stays in the affine and costs no interpolation.
        affine[:3, 0] += axes[:, 1:] @ sideways[-1] / (along[-1] - along[0]) * step
        return StackGeometry(affine, (len(source), *shape), source, None, warnings)
    shift = sideways / np.array(pixel_spacing)
    corner = np.floor(shift.min(axis=0))
    rows, columns = (np.ceil((shift - corner).max(axis=0)) + shape).astype(int).tolist()
    if rows > LARGEST_GRID * shape[0] or columns > LARGEST_GRID * shape[1]:
        raise GeometryError(
            f"slices lie up to {np.abs(sideways).max():.0f} mm beside each other; expected them "
            "behind each other: the positions are damaged, export the series again"
        )
    affine[:3, 3] += affine[:3, 1:3] @ corner
    return StackGeometry(
        affine,
        (len(source), rows, columns),
        source,
        shift - corner,
        (*warnings, _moved(lean, is_bent, float(np.abs(sideways).max()))),
    )


def refuse_gaps(positions: Vectors, axes: Axes, along: Distances) -> None:
    """Do nothing if no slice is missing between two others.

    Raises:
        GeometryError: there is room for another slice; says where and for how many.
    """
    steps, step = np.diff(along), usual_step(along)
    gaps: Bool[np.ndarray, " n"] = steps > GAP * step
    if not gaps.any():
        return
    if gaps.mean() > 0.2:
        raise GeometryError(
            f"slices are {steps.min():.2f} to {steps.max():.2f} mm apart; expected even steps: "
            "choose a series that was reconstructed with one increment"
        )
    axis = int(np.argmax(np.abs(axes[:, 0])))
    where = np.flatnonzero(gaps)
    missing = np.maximum(np.rint(steps[where] / step).astype(int) - 1, 1)
    total = int(missing.sum())
    count = "1 slice is" if total == 1 else f"{total} slices are"
    named = [
        f"{room} between {'xyz'[axis]} = {positions[k, axis]:.1f} and "
        f"{positions[k + 1, axis]:.1f} mm (slices {k + 1} and {k + 2} of {len(positions)})"
        for k, room in zip(where[:GAPS_NAMED].tolist(), missing.tolist(), strict=False)
    ]
    if len(where) > GAPS_NAMED:
        named.append(f"and {len(where) - GAPS_NAMED} more gaps")
    raise GeometryError(
        f"{count} missing: {', '.join(named)}; expected one "
        f"every {step:.2f} mm: send the whole series again or choose another"
    )


def _even_planes(
    along: Distances,
) -> tuple[Float[np.ndarray, " z"], float, tuple[str, ...]]:
    """Return the slice number at which each plane lies, the step between planes, and warnings."""
    extent = float(along[-1] - along[0])
    numbers = np.arange(len(along), dtype=float)
    step = extent / (len(along) - 1)
    off = float(np.abs(along - along[0] - numbers * step).max()) / step
    if off <= EXACT:
        return numbers, step, ()
    if off <= TOLERATED:
        return numbers, step, (f"slices lie up to {off * step:.2f} mm off an even {step:.2f} mm",)
    count = round(extent / usual_step(along)) + 1
    step = extent / (count - 1)
    source = np.interp(np.arange(count) * step, along - along[0], numbers)
    steps = np.diff(along)
    return (
        source,
        step,
        (
            f"slices are {steps.min():.2f} to {steps.max():.2f} mm apart: interpolated between "
            f"neighbours to an even {step:.2f} mm",
        ),
    )


def _moved(lean: float, is_bent: bool, sideways_mm: float) -> str:
    if is_bent:
        return (
            f"slices lie up to {sideways_mm:.1f} mm sideways of each other: each was moved within "
            "its plane onto an upright grid"
        )
    return (
        f"gantry tilt of {np.degrees(np.arctan(lean)):.1f} degrees: each slice was moved within "
        "its plane onto an upright grid"
    )
