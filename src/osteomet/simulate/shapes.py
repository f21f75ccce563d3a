"""A drawing: simple shapes in a patient's millimetres, recorded once and rendered anywhere.

Positions are ``(z, y, x)``: z to superior, y to posterior, x to left. A drawing is a list of
shapes in the order drawn, so a scan can be rendered slab by slab, and a region is a window of
the whole trunk. How shapes become voxels is in ``raster.py``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from jaxtyping import Float

from osteomet.simulate.bones import Part


class Tissue(IntEnum):
    """What fills a voxel outside bone; says which texture it has."""

    AIR = 0
    SKIN = 1
    FAT = 2
    MUSCLE = 3
    ORGAN = 4
    LUNG = 5
    STOOL = 6
    CAVITY = 7
    GAS = 8
    TABLE = 9
    BOWEL = 10


class Kind(IntEnum):
    """The geometry of a shape."""

    SEGMENT = 0
    ELLIPSOID = 1
    BODY = 2
    TRIANGLE = 3


class Mode(IntEnum):
    """What a shape does where it lies."""

    UNION = 0
    SUBTRACT = 1
    PAINT = 2
    LOAD = 3


@dataclass(frozen=True)
class Bone:
    """Ink that adds bone.

    Attributes:
        part: kind of bone.
        wall_mm: thickness of its cortex.
        density: of its trabeculae, relative to a vertebral body's; 0 is fatty marrow alone.
    """

    part: Part
    wall_mm: float
    density: float = 1.0


@dataclass(frozen=True)
class Soft:
    """Ink that sets soft tissue.

    Attributes:
        tissue: what it is.
        hu: its mean.
        over: the tissues it replaces; all if empty.
        rough_mm: how uneven its border is.
    """

    tissue: Tissue
    hu: float
    over: tuple[Tissue, ...] = ()
    rough_mm: float = 0.0


@dataclass(frozen=True)
class Hollow:
    """Ink that takes bone away."""


@dataclass(frozen=True)
class Load:
    """Ink that multiplies the density of trabeculae, as load does.

    Attributes:
        factor: in the middle of the shape.
        fade_mm: over which it passes to 1.
    """

    factor: float
    fade_mm: float = 6.0


Ink = Bone | Soft | Hollow | Load

HEAD, GEOMETRY = 8, 18
COLUMNS = HEAD + GEOMETRY
"""Of a recorded shape: kind, mode, value, tissue or fade, two walls, density or roughness,
tissues it may replace as bits; then its geometry."""


@dataclass(eq=False)
class Drawing:
    """The shapes of one patient, in the order drawn."""

    rows: list[Float[np.ndarray, "n columns"]] = field(default_factory=list)
    boxes: list[Float[np.ndarray, "n 2 3"]] = field(default_factory=list)

    def table(self) -> tuple[Float[np.ndarray, "n columns"], Float[np.ndarray, "n 2 3"]]:
        """Return all shapes, and the box in mm that holds each."""
        if not self.rows:
            return np.zeros((0, COLUMNS)), np.zeros((0, 2, 3))
        return np.concatenate(self.rows), np.concatenate(self.boxes)

    def tube(
        self,
        points: Any,
        radii: Any,
        ink: Ink,
        flat: Any = (0.0, 0.0, 0.0),
        walls_mm: Sequence[float] | None = None,
    ) -> None:
        """Draw a bent tube of elliptic cross-section, with round ends.

        Args:
            points: ``(n, 3)`` corners of its axis.
            radii: ``(n, 2)``, ``(n,)`` or a number: radius along ``flat`` and across it.
            ink: what it is made of.
            flat: the direction of the first radius: one vector, or one per point.
            walls_mm: thickness of the cortex at each corner; the ink's if None.
        """
        corners = np.asarray(points, dtype=np.float64)
        count = len(corners)
        widths = np.asarray(radii, dtype=np.float64)
        if widths.ndim < 2:
            widths = np.repeat(np.broadcast_to(widths, (count,))[:, None], 2, axis=1)
        normals = np.broadcast_to(np.asarray(flat, dtype=np.float64), (count, 3))
        ends = np.stack([corners[:-1], corners[1:]], axis=1)
        wide = np.stack([widths[:-1], widths[1:]], axis=1)
        along = np.stack([normals[:-1], normals[1:]], axis=1)
        walls = None if walls_mm is None else np.stack([walls_mm[:-1], walls_mm[1:]], axis=1)
        reach = wide.max(axis=(1, 2))[:, None]
        self._record(
            Kind.SEGMENT, ink, (ends, wide, along),
            ends.min(axis=1) - reach, ends.max(axis=1) + reach, walls,
        )  # fmt: skip

    def strands(self, ends: Any, radii: Any, ink: Ink) -> None:
        """Draw many straight round tubes at once.

        Args:
            ends: ``(n, 2, 3)`` both ends of each axis.
            radii: ``(n, 2)`` at these ends.
            ink: what they are made of.
        """
        line, wide = np.asarray(ends, dtype=np.float64), np.asarray(radii, dtype=np.float64)
        reach = wide.max(axis=1)[:, None]
        self._record(
            Kind.SEGMENT, ink, (line, np.repeat(wide[:, :, None], 2, axis=2)),
            line.min(axis=1) - reach, line.max(axis=1) + reach,
        )  # fmt: skip

    def ellipsoid(
        self, centre: Any, radii: Any, ink: Ink, axes: Any = None, *, boxy: bool = False
    ) -> None:
        """Draw an ellipsoid.

        Args:
            centre: its middle.
            radii: its three half axes.
            ink: what it is made of.
            axes: ``(3, 3)`` unit vectors of the half axes, one per row; upright if None.
            boxy: give it flatter sides and tighter corners.
        """
        middle = np.asarray(centre, dtype=np.float64)
        half = np.broadcast_to(np.asarray(radii, dtype=np.float64), (3,))
        frame = np.eye(3) if axes is None else np.asarray(axes, dtype=np.float64)
        # The box of a superellipsoid is at most that of the box around it.
        extent = (np.abs(frame) * half[:, None]).sum(axis=0)
        self._record(
            Kind.ELLIPSOID, ink, (middle[None], half[None], frame[None], np.array([[boxy]])),
            (middle - extent)[None], (middle + extent)[None],
        )  # fmt: skip

    def vertebral_body(
        self, centre: Any, half: Any, frame: Any, ink: Ink, *, waist: float, concavity: float,
        end_wall_mm: float = 1.0,
    ) -> None:  # fmt: skip
        """Draw an elliptic cylinder with a waist and hollowed end plates.

        Args:
            centre: its middle.
            half: half height, half depth and half width.
            frame: ``(3, 3)`` unit vectors up, back and left of the vertebra, one per row.
            ink: what it is made of.
            waist: share by which it narrows in the middle.
            concavity: mm by which its end plates are hollow; negative for a disc.
            end_wall_mm: thickness of the end plates; the ink's wall is that of its sides.
        """
        middle = np.asarray(centre, dtype=np.float64)
        size = np.asarray(half, dtype=np.float64)
        axes = np.asarray(frame, dtype=np.float64)
        extent = (np.abs(axes) * size[:, None]).sum(axis=0) + abs(concavity)
        walls = np.array([[ink.wall_mm, end_wall_mm]]) if isinstance(ink, Bone) else None
        self._record(
            Kind.BODY, ink, (middle[None], size[None], axes[None], np.array([[waist, concavity]])),
            (middle - extent)[None], (middle + extent)[None], walls,
        )  # fmt: skip

    def sheet(self, points: Any, thickness: Any, ink: Ink) -> None:
        """Draw a curved plate.

        Args:
            points: ``(rows, columns, 3)`` grid of points in its middle surface.
            thickness: ``(rows, columns)``, half of the plate's.
            ink: what it is made of.
        """
        grid = np.asarray(points, dtype=np.float64)
        half = np.asarray(thickness, dtype=np.float64)
        flat, wide = grid.reshape(-1, 3), half.ravel()
        number = np.arange(len(wide)).reshape(half.shape)
        first, right = number[:-1, :-1].ravel(), number[:-1, 1:].ravel()
        below, across = number[1:, :-1].ravel(), number[1:, 1:].ravel()
        corners = np.concatenate(
            [np.stack([first, below, right], axis=1), np.stack([across, below, right], axis=1)]
        )
        ends, reach = flat[corners], wide[corners].max(axis=1)[:, None]
        self._record(
            Kind.TRIANGLE, ink, (ends, wide[corners]),
            ends.min(axis=1) - reach, ends.max(axis=1) + reach,
        )  # fmt: skip

    def _record(
        self, kind: Kind, ink: Ink, geometry: tuple[Any, ...], low: Any, high: Any,
        walls: Float[np.ndarray, "n 2"] | None = None,
    ) -> None:  # fmt: skip
        count = len(low)
        flat = np.concatenate([part.reshape(count, -1) for part in geometry], axis=1)
        rows = np.zeros((count, COLUMNS))
        rows[:, :HEAD] = _columns(kind, ink)
        rows[:, HEAD : HEAD + flat.shape[1]] = flat
        if walls is not None:
            rows[:, 4:6] = walls
        self.rows.append(rows)
        self.boxes.append(np.stack([low, high], axis=1))


def _columns(kind: Kind, ink: Ink) -> tuple[float | int, ...]:
    if isinstance(ink, Bone):
        return (kind, Mode.UNION, ink.part, 0, ink.wall_mm, ink.wall_mm, ink.density, 0)
    if isinstance(ink, Soft):
        over = sum(1 << tissue for tissue in ink.over) or (1 << len(Tissue)) - 1
        return (kind, Mode.PAINT, ink.hu, ink.tissue, 0, 0, ink.rough_mm, over)
    if isinstance(ink, Load):
        return (kind, Mode.LOAD, ink.factor, ink.fade_mm, 0, 0, 0, 0)
    return (kind, Mode.SUBTRACT, 0, 0, 0, 0, 0, 0)
