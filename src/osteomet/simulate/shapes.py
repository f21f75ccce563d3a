"""Signed distances to simple shapes, drawn onto a voxel grid.

Positions are millimetres ``(z, y, x)`` in the patient: z to superior, y to posterior, x to
left. A distance is negative inside. Distances to ellipses and ellipsoids are the usual
first-order ones, exact on the surface and good near it.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Integer
from numba import njit

UNION, SUBTRACT, PAINT = 0, 1, 2
"""What a shape does to the canvas: add bone, take bone away, or set soft tissue in HU."""

FAR_MM = 8.0
"""Distances from bone are only known up to here."""

REACH_MM = 4.0
"""A shape changes voxels up to this far outside itself, plus the largest displacement."""

Vector = tuple[float, float, float]


@dataclass(eq=False)
class Canvas:
    """The grid a patient is drawn on.

    Attributes:
        bone: signed distance in mm to the surface of the nearest bone.
        part: which kind of bone that is.
        soft: everything but bone, in HU.
        warp: displacement in mm ``(axis, z, y, x)`` that bends all shapes drawn.
        origin: position of the centre of voxel ``[0, 0, 0]``.
        spacing: mm between voxels.
    """

    bone: Float[np.ndarray, "z y x"]
    part: Integer[np.ndarray, "z y x"]
    soft: Float[np.ndarray, "z y x"]
    warp: Float[np.ndarray, "3 z y x"]
    origin: Float[np.ndarray, " 3"]
    spacing: Float[np.ndarray, " 3"]
    _margin: float = field(init=False)

    def __post_init__(self) -> None:
        self._margin = REACH_MM + float(np.abs(self.warp).max(initial=0.0))

    @classmethod
    def blank(
        cls,
        warp: Float[np.ndarray, "3 z y x"],
        origin: Float[np.ndarray, " 3"],
        spacing: Float[np.ndarray, " 3"],
        background_hu: float,
    ) -> "Canvas":
        """Return a canvas without bone."""
        shape = warp.shape[1:]
        return cls(
            np.full(shape, FAR_MM, np.float32),
            np.zeros(shape, np.uint8),
            np.full(shape, background_hu, np.float32),
            warp,
            origin,
            spacing,
        )

    def window(self, low: Any, high: Any) -> Int[np.ndarray, "2 3"]:
        """Return first and last-plus-one voxel that a shape between two corners can change."""
        first = np.floor((np.asarray(low) - self._margin - self.origin) / self.spacing)
        last = np.ceil((np.asarray(high) + self._margin - self.origin) / self.spacing) + 1
        shape = self.bone.shape
        return np.stack([np.clip(first, 0, shape), np.clip(last, 0, shape)]).astype(np.int64)

    def tube(
        self,
        points: Any,
        radii: Any,
        flat: Any = (0.0, 0.0, 0.0),
        *,
        mode: int = UNION,
        value: float | int = 0.0,
    ) -> None:
        """Draw a bent tube of elliptic cross-section, with round ends.

        Args:
            points: ``(n, 3)`` corners of its axis.
            radii: ``(n, 2)``, ``(n,)`` or a number: radius along ``flat`` and across it.
            flat: the direction of the first radius: one vector, or one per point.
            mode: UNION, SUBTRACT or PAINT.
            value: the part of bone, or the HU to paint.
        """
        corners = np.asarray(points, dtype=np.float64)
        count = len(corners)
        widths = np.asarray(radii, dtype=np.float64)
        if widths.ndim < 2:
            widths = np.repeat(np.broadcast_to(widths, (count,))[:, None], 2, axis=1)
        normals = np.broadcast_to(np.asarray(flat, dtype=np.float64), (count, 3))
        for k in range(count - 1):
            reach = widths[k : k + 2].max()
            ends = corners[k : k + 2]
            box = self.window(ends.min(axis=0) - reach, ends.max(axis=0) + reach)
            if (box[1] > box[0]).all():
                _draw_segment(
                    self.bone, self.part, self.soft, self.warp, self.origin, self.spacing,
                    box, ends.copy(), widths[k : k + 2].copy(), normals[k : k + 2].copy(),
                    mode, float(value),
                )  # fmt: skip

    def ellipsoid(
        self,
        centre: Any,
        radii: Any,
        axes: Any = None,
        *,
        boxy: bool = False,
        mode: int = UNION,
        value: float | int = 0.0,
    ) -> None:
        """Draw an ellipsoid.

        Args:
            centre: its middle.
            radii: its three half axes.
            axes: ``(3, 3)`` unit vectors of the half axes, one per row; upright if None.
            boxy: give it flatter sides and tighter corners.
            mode: UNION, SUBTRACT or PAINT.
            value: the part of bone, or the HU to paint.
        """
        middle = np.asarray(centre, dtype=np.float64)
        half = np.asarray(radii, dtype=np.float64)
        frame = np.eye(3) if axes is None else np.asarray(axes, dtype=np.float64)
        # The box of a superellipsoid is at most that of the box around it.
        extent = (np.abs(frame) * half[:, None]).sum(axis=0)
        box = self.window(middle - extent, middle + extent)
        if (box[1] > box[0]).all():
            _draw_ellipsoid(
                self.bone, self.part, self.soft, self.warp, self.origin, self.spacing,
                box, middle, half, frame, boxy, mode, float(value),
            )  # fmt: skip

    def sheet(self, points: Any, thickness: Any, *, value: float | int = 0.0) -> None:
        """Draw a curved plate of bone.

        Args:
            points: ``(rows, columns, 3)`` grid of points in its middle surface.
            thickness: ``(rows, columns)``, half of the plate's.
            value: the part of bone.
        """
        grid = np.asarray(points, dtype=np.float64)
        half = np.asarray(thickness, dtype=np.float64)
        for r in range(grid.shape[0] - 1):
            for c in range(grid.shape[1] - 1):
                for corners in (((r, c), (r + 1, c), (r, c + 1)),
                                ((r + 1, c + 1), (r + 1, c), (r, c + 1))):  # fmt: skip
                    at = tuple(np.array(corners).T)
                    ends, widths = grid[at], half[at]
                    reach = widths.max()
                    box = self.window(ends.min(axis=0) - reach, ends.max(axis=0) + reach)
                    if (box[1] > box[0]).all():
                        _draw_triangle(
                            self.bone, self.part, self.warp, self.origin, self.spacing,
                            box, ends, widths, float(value),
                        )  # fmt: skip

    def vertebral_body(
        self,
        centre: Any,
        half: Any,
        frame: Any,
        *,
        waist: float,
        concavity: float,
        mode: int = UNION,
        value: float | int = 0.0,
    ) -> None:
        """Draw an elliptic cylinder with a waist and hollowed end plates.

        Args:
            centre: its middle.
            half: half height, half depth and half width.
            frame: ``(3, 3)`` unit vectors up, back and left of the vertebra, one per row.
            waist: share by which it narrows in the middle.
            concavity: mm by which its end plates are hollow; negative for a disc.
            mode: UNION, SUBTRACT or PAINT.
            value: the part of bone, or the HU to paint.
        """
        middle = np.asarray(centre, dtype=np.float64)
        size = np.asarray(half, dtype=np.float64)
        axes = np.asarray(frame, dtype=np.float64)
        extent = (np.abs(axes) * size[:, None]).sum(axis=0) + abs(concavity)
        box = self.window(middle - extent, middle + extent)
        if (box[1] > box[0]).all():
            _draw_body(
                self.bone, self.part, self.soft, self.warp, self.origin, self.spacing,
                box, middle, size, axes, waist, concavity, mode, float(value),
            )  # fmt: skip


def _compiled(kernel: Any) -> Any:
    # The shape checks of the tests wrap every function; numba needs the bare one.
    return njit(cache=True, nogil=True)(getattr(kernel, "__wrapped__", kernel))


def _apply_kernel(bone, part, soft, k, j, i, d, mode, value, edge):  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917  numba takes flat arguments
    if mode == 0:
        if d < bone[k, j, i]:
            bone[k, j, i] = d
            part[k, j, i] = np.uint8(value)
    elif mode == 1:
        bone[k, j, i] = max(bone[k, j, i], -d)
    else:
        share = min(max(0.5 - d / edge, 0.0), 1.0)
        soft[k, j, i] += share * (value - soft[k, j, i])


_apply = _compiled(_apply_kernel)


def _segment_kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917  numba takes flat arguments
    bone, part, soft, warp, origin, spacing, box, ends, radii, normals, mode, value
):
    az, ay, ax = ends[0]
    bz, by, bx = ends[1] - ends[0]
    length2 = max(bz * bz + by * by + bx * bx, 1e-9)
    edge = 1.2 * spacing[1]
    for k in range(box[0, 0], box[1, 0]):
        for j in range(box[0, 1], box[1, 1]):
            for i in range(box[0, 2], box[1, 2]):
                z = origin[0] + k * spacing[0] + warp[0, k, j, i] - az
                y = origin[1] + j * spacing[1] + warp[1, k, j, i] - ay
                x = origin[2] + i * spacing[2] + warp[2, k, j, i] - ax
                t = min(max((z * bz + y * by + x * bx) / length2, 0.0), 1.0)
                z -= t * bz
                y -= t * by
                x -= t * bx
                ra = radii[0, 0] + t * (radii[1, 0] - radii[0, 0])
                rb = radii[0, 1] + t * (radii[1, 1] - radii[0, 1])
                nz = normals[0, 0] + t * (normals[1, 0] - normals[0, 0])
                ny = normals[0, 1] + t * (normals[1, 1] - normals[0, 1])
                nx = normals[0, 2] + t * (normals[1, 2] - normals[0, 2])
                along = z * nz + y * ny + x * nx
                across = max(z * z + y * y + x * x - along * along, 0.0)
                q = np.sqrt(along * along / (ra * ra) + across / (rb * rb))
                slope = np.sqrt(along * along / ra**4 + across / rb**4)
                d = -min(ra, rb)
                if q > 0.05:
                    d = max(q * (q - 1.0) / slope, d)
                _apply(bone, part, soft, k, j, i, d, mode, value, edge)


_draw_segment = _compiled(_segment_kernel)


def _ellipsoid_kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917  numba takes flat arguments
    bone, part, soft, warp, origin, spacing, box, centre, half, axes, boxy, mode, value
):
    edge = 1.2 * spacing[1]
    for k in range(box[0, 0], box[1, 0]):
        for j in range(box[0, 1], box[1, 1]):
            for i in range(box[0, 2], box[1, 2]):
                z = origin[0] + k * spacing[0] + warp[0, k, j, i] - centre[0]
                y = origin[1] + j * spacing[1] + warp[1, k, j, i] - centre[1]
                x = origin[2] + i * spacing[2] + warp[2, k, j, i] - centre[2]
                q, slope = 0.0, 0.0
                for a in range(3):
                    p = abs(z * axes[a, 0] + y * axes[a, 1] + x * axes[a, 2])
                    share = p / half[a]
                    if boxy:
                        # Exponent 2.5, from square roots because powers are slow.
                        steep = share * np.sqrt(share)
                        q += share * steep
                        slope += (1.25 * steep / half[a]) ** 2
                    else:
                        q += share * share
                        slope += (share / half[a]) ** 2
                d = -min(half[0], half[1], half[2])
                if q > 1e-3:
                    # The square root of q is what grows like a distance.
                    root = np.sqrt(q)
                    d = max(root * (root - 1.0) / np.sqrt(slope), d)
                _apply(bone, part, soft, k, j, i, d, mode, value, edge)


_draw_ellipsoid = _compiled(_ellipsoid_kernel)


def _nearest_kernel(pz, py, px, ab, ac):  # type: ignore[no-untyped-def]  # numba infers
    # Weights (v, w) of the corners b and c at the point of a triangle nearest to p - a.
    # Source: Ericson, Real-Time Collision Detection, section 5.1.5.
    d1 = pz * ab[0] + py * ab[1] + px * ab[2]
    d2 = pz * ac[0] + py * ac[1] + px * ac[2]
    if d1 <= 0.0 and d2 <= 0.0:
        return 0.0, 0.0
    bb = ab[0] ** 2 + ab[1] ** 2 + ab[2] ** 2
    cc = ac[0] ** 2 + ac[1] ** 2 + ac[2] ** 2
    bc = ab[0] * ac[0] + ab[1] * ac[1] + ab[2] * ac[2]
    d3, d4, d5, d6 = d1 - bb, d2 - bc, d1 - bc, d2 - cc
    vc, vb, va = d1 * d4 - d3 * d2, d5 * d2 - d1 * d6, d3 * d6 - d5 * d4
    v, w = vb, vc
    if d3 >= 0.0 and d4 <= d3:
        v, w = 1.0, 0.0
    elif d6 >= 0.0 and d5 <= d6:
        v, w = 0.0, 1.0
    elif vc <= 0.0 and d1 >= 0.0 and d3 <= 0.0:
        v, w = d1 / bb, 0.0
    elif vb <= 0.0 and d2 >= 0.0 and d6 <= 0.0:
        v, w = 0.0, d2 / cc
    elif va <= 0.0 and d4 - d3 >= 0.0 and d5 - d6 >= 0.0:
        w = (d4 - d3) / ((d4 - d3) + (d5 - d6))
        v = 1.0 - w
    else:
        total = va + vb + vc
        v, w = vb / total, vc / total
    return v, w


_nearest = _compiled(_nearest_kernel)


def _triangle_kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917  numba takes flat arguments
    bone, part, warp, origin, spacing, box, ends, widths, value
):
    ab, ac = ends[1] - ends[0], ends[2] - ends[0]
    for k in range(box[0, 0], box[1, 0]):
        for j in range(box[0, 1], box[1, 1]):
            for i in range(box[0, 2], box[1, 2]):
                z = origin[0] + k * spacing[0] + warp[0, k, j, i] - ends[0, 0]
                y = origin[1] + j * spacing[1] + warp[1, k, j, i] - ends[0, 1]
                x = origin[2] + i * spacing[2] + warp[2, k, j, i] - ends[0, 2]
                v, w = _nearest(z, y, x, ab, ac)
                z -= v * ab[0] + w * ac[0]
                y -= v * ab[1] + w * ac[1]
                x -= v * ab[2] + w * ac[2]
                d = np.sqrt(z * z + y * y + x * x)
                d -= widths[0] + v * (widths[1] - widths[0]) + w * (widths[2] - widths[0])
                if d < bone[k, j, i]:
                    bone[k, j, i] = d
                    part[k, j, i] = np.uint8(value)


_draw_triangle = _compiled(_triangle_kernel)


def _body_kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917  numba takes flat arguments
    bone, part, soft, warp, origin, spacing, box, centre, half, axes, waist, concavity, mode, value
):
    edge = 1.2 * spacing[1]
    for k in range(box[0, 0], box[1, 0]):
        for j in range(box[0, 1], box[1, 1]):
            for i in range(box[0, 2], box[1, 2]):
                z = origin[0] + k * spacing[0] + warp[0, k, j, i] - centre[0]
                y = origin[1] + j * spacing[1] + warp[1, k, j, i] - centre[1]
                x = origin[2] + i * spacing[2] + warp[2, k, j, i] - centre[2]
                up = z * axes[0, 0] + y * axes[0, 1] + x * axes[0, 2]
                back = z * axes[1, 0] + y * axes[1, 1] + x * axes[1, 2]
                left = z * axes[2, 0] + y * axes[2, 1] + x * axes[2, 2]
                height = min(abs(up) / half[0], 1.2)
                narrow = 1.0 - waist * (1.0 - height * height)
                v = back / (half[1] * narrow)
                u = left / (half[2] * narrow)
                # The back of a body is flatter than its front.
                v4 = v * v * (1.0 + 0.35 * v) if v > 0 else v * v
                q = np.sqrt(u * u + v4)
                side = (q - 1.0) * min(half[1], half[2]) * narrow
                hollow = concavity * max(1.0 - q * q, -0.3)
                end = abs(up) - half[0] + hollow
                # A rounded intersection: the rim has a radius of about 2 mm.
                h = max(2.0 - abs(side - end), 0.0)
                d = max(side, end) + h * h / 8.0
                _apply(bone, part, soft, k, j, i, d, mode, value, edge)


_draw_body = _compiled(_body_kernel)
