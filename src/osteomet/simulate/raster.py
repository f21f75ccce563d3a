"""Recorded shapes -> voxels of a slab: signed distance to bone, cortex, density, soft tissue.

A distance is negative inside. Distances to ellipses and ellipsoids are the usual first-order
ones, exact on the surface and good near it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Integer

from osteomet.simulate.noise import Tile, compiled, noise
from osteomet.simulate.shapes import HEAD, Drawing, Mode

FAR_MM = 8.0
"""Distances from bone are only known up to here."""

REACH_MM = 4.0
"""Bone is felt this far outside itself."""

AIR_HU = -1000.0

_G = HEAD


@dataclass(eq=False)
class Slab:
    """A run of slices while they are drawn.

    Attributes:
        bone: signed distance in mm to the surface of the nearest bone.
        part: which kind of bone that is.
        wall: thickness in mm of its cortex there.
        density: of its trabeculae, relative to a vertebral body's.
        soft: everything but bone, in HU.
        tissue: what that is.
        warp: displacement in mm ``(axis, z, y, x)`` that bends all shapes drawn.
        origin: position of the centre of voxel ``[0, 0, 0]``.
        spacing: mm between voxels.
    """

    bone: Float[np.ndarray, "z y x"]
    part: Integer[np.ndarray, "z y x"]
    wall: Float[np.ndarray, "z y x"]
    density: Float[np.ndarray, "z y x"]
    soft: Float[np.ndarray, "z y x"]
    tissue: Integer[np.ndarray, "z y x"]
    warp: Float[np.ndarray, "3 z y x"]
    origin: Float[np.ndarray, " 3"]
    spacing: Float[np.ndarray, " 3"]

    @classmethod
    def blank(
        cls,
        warp: Float[np.ndarray, "3 z y x"],
        origin: Float[np.ndarray, " 3"],
        spacing: Float[np.ndarray, " 3"],
    ) -> "Slab":
        """Return a slab of air."""
        shape = warp.shape[1:]
        return cls(
            np.full(shape, FAR_MM, np.float32), np.zeros(shape, np.uint8),
            np.zeros(shape, np.float32), np.zeros(shape, np.float32),
            np.full(shape, AIR_HU, np.float32), np.zeros(shape, np.uint8),
            warp, origin, spacing,
        )  # fmt: skip

    def draw(self, drawing: Drawing, tile: Tile) -> None:
        """Draw all shapes, in their order; ``tile`` makes borders uneven."""
        rows, boxes = drawing.table()
        reach = self._reach(rows)
        first, last = self._windows(boxes, reach)
        near = np.flatnonzero((last > first).all(axis=1))
        _draw_shapes(
            rows[near], reach[near], first[near], last[near],
            self.bone, self.part, self.wall, self.density, self.soft, self.tissue,
            self.warp, self.origin, self.spacing, tile,
        )  # fmt: skip

    def _reach(self, rows: Float[np.ndarray, "n columns"]) -> Float[np.ndarray, " n"]:
        # How far outside itself a shape is felt, in mm.
        modes = rows[:, 1]
        reach = np.where(modes == Mode.PAINT, 1.0 + 2 * rows[:, 6], REACH_MM)
        reach = np.where(modes == Mode.LOAD, 1.0 + rows[:, 3] / 2, reach)
        least: Float[np.ndarray, " n"] = np.maximum(reach, 0.7 * self.spacing[1])
        return least

    def _windows(
        self, boxes: Float[np.ndarray, "n 2 3"], reach: Float[np.ndarray, " n"]
    ) -> tuple[Int[np.ndarray, "n 3"], Int[np.ndarray, "n 3"]]:
        shape = np.array(self.bone.shape)
        # The warp at a shape's middle moves its window; what it varies by around there,
        # about 0.15 mm in each mm, widens it.
        middle = boxes.mean(axis=1)
        at = np.clip(np.rint((middle - self.origin) / self.spacing).astype(int), 0, shape - 1)
        shift = self.warp[:, at[:, 0], at[:, 1], at[:, 2]].T
        half = (boxes[:, 1] - boxes[:, 0]).max(axis=1) / 2
        outside = np.abs(middle - (self.origin + at * self.spacing)).max(axis=1)
        largest = float(np.abs(self.warp).max(initial=0.0))
        spread = np.minimum(0.6 + 0.15 * (half + outside), 2 * largest)
        margin = (reach + spread)[:, None]
        low = (boxes[:, 0] - shift - margin - self.origin) / self.spacing
        high = (boxes[:, 1] - shift + margin - self.origin) / self.spacing
        first = np.clip(np.floor(low), 0, shape).astype(np.int64)
        last = np.clip(np.ceil(high) + 1, 0, shape).astype(np.int64)
        return first, last


def _segment_kernel(row, z, y, x):  # type: ignore[no-untyped-def]  # numba infers
    # Ends, radii and normals from _G on. Returns the distance and the place along it.
    bz, by, bx = row[_G + 3] - row[_G], row[_G + 4] - row[_G + 1], row[_G + 5] - row[_G + 2]
    z -= row[_G]
    y -= row[_G + 1]
    x -= row[_G + 2]
    t = (z * bz + y * by + x * bx) / max(bz * bz + by * by + bx * bx, 1e-9)
    t = min(max(t, 0.0), 1.0)
    z -= t * bz
    y -= t * by
    x -= t * bx
    ra = row[_G + 6] + t * (row[_G + 8] - row[_G + 6])
    rb = row[_G + 7] + t * (row[_G + 9] - row[_G + 7])
    squared = z * z + y * y + x * x
    if ra == rb:
        return np.sqrt(squared) - ra, t
    nz = row[_G + 10] + t * (row[_G + 13] - row[_G + 10])
    ny = row[_G + 11] + t * (row[_G + 14] - row[_G + 11])
    nx = row[_G + 12] + t * (row[_G + 15] - row[_G + 12])
    along = z * nz + y * ny + x * nx
    along *= along
    across = max(squared - along, 0.0)
    q = np.sqrt(along / (ra * ra) + across / (rb * rb))
    d = -min(ra, rb)
    if q > 0.05:
        d = max(q * (q - 1.0) / np.sqrt(along / ra**4 + across / rb**4), d)
    return d, t


_segment = compiled(_segment_kernel)


def _ellipsoid_kernel(row, z, y, x):  # type: ignore[no-untyped-def]  # numba infers
    z -= row[_G]
    y -= row[_G + 1]
    x -= row[_G + 2]
    boxy = row[_G + 15] > 0
    q, slope = 0.0, 0.0
    for a in range(3):
        half = row[_G + 3 + a]
        p = abs(z * row[_G + 6 + 3 * a] + y * row[_G + 7 + 3 * a] + x * row[_G + 8 + 3 * a])
        share = p / half
        if boxy:
            # Exponent 2.5, from square roots because powers are slow.
            steep = share * np.sqrt(share)
            q += share * steep
            slope += (1.25 * steep / half) ** 2
        else:
            q += share * share
            slope += (share / half) ** 2
    d = -min(row[_G + 3], row[_G + 4], row[_G + 5])
    if q > 1e-3:
        # The square root of q is what grows like a distance.
        root = np.sqrt(q)
        d = max(root * (root - 1.0) / np.sqrt(slope), d)
    return d, 0.0


_ellipsoid = compiled(_ellipsoid_kernel)


def _body_kernel(row, z, y, x):  # type: ignore[no-untyped-def]  # numba infers
    # Centre, half sizes, axes, waist and concavity. Returns the distance, and whether the
    # nearest surface is an end plate.
    z -= row[_G]
    y -= row[_G + 1]
    x -= row[_G + 2]
    tall, deep, wide = row[_G + 3], row[_G + 4], row[_G + 5]
    up = z * row[_G + 6] + y * row[_G + 7] + x * row[_G + 8]
    back = z * row[_G + 9] + y * row[_G + 10] + x * row[_G + 11]
    left = z * row[_G + 12] + y * row[_G + 13] + x * row[_G + 14]
    waist, concavity = row[_G + 15], row[_G + 16]
    height = min(abs(up) / tall, 1.2)
    narrow = 1.0 - waist * (1.0 - height * height)
    v = back / (deep * narrow)
    u = left / (wide * narrow)
    # The back of a body is flatter than its front, and a little hollow before the canal.
    if v > 0:
        v += 0.14 * max(1.0 - 3.0 * u * u, 0.0) * v
        square = v * v * (1.0 + 0.35 * v)
    else:
        square = v * v
    q = np.sqrt(u * u + square)
    side = (q - 1.0) * min(deep, wide) * narrow
    hollow = concavity * max(1.0 - q * q, -0.3)
    end = abs(up) - tall + hollow
    # A rounded intersection: the rim has a radius of about 2 mm.
    h = max(2.0 - abs(side - end), 0.0)
    plate = 1.0 if end > side else 0.0
    return max(side, end) + h * h / 8.0, plate


_body = compiled(_body_kernel)


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


_nearest = compiled(_nearest_kernel)


def _triangle_kernel(row, z, y, x):  # type: ignore[no-untyped-def]  # numba infers
    a = (row[_G], row[_G + 1], row[_G + 2])
    ab = (row[_G + 3] - a[0], row[_G + 4] - a[1], row[_G + 5] - a[2])
    ac = (row[_G + 6] - a[0], row[_G + 7] - a[1], row[_G + 8] - a[2])
    z -= a[0]
    y -= a[1]
    x -= a[2]
    v, w = _nearest(z, y, x, ab, ac)
    z -= v * ab[0] + w * ac[0]
    y -= v * ab[1] + w * ac[1]
    x -= v * ab[2] + w * ac[2]
    first = row[_G + 9]
    half = first + v * (row[_G + 10] - first) + w * (row[_G + 11] - first)
    return np.sqrt(z * z + y * y + x * x) - half, 0.0


_triangle = compiled(_triangle_kernel)


def _distance_kernel(row, z, y, x):  # type: ignore[no-untyped-def]  # numba infers
    if row[0] == 0:
        return _segment(row, z, y, x)
    if row[0] == 1:
        return _ellipsoid(row, z, y, x)
    if row[0] == 2:
        return _body(row, z, y, x)
    return _triangle(row, z, y, x)


_distance = compiled(_distance_kernel)

BLOCK = 4
"""Side in voxels of the blocks that are skipped together where a shape is far."""


def _slack_kernel(row, spacing):  # type: ignore[no-untyped-def]  # numba infers
    # How far a block reaches from its middle. Distances to ellipses and ellipsoids are of
    # first order, and the warp differs within a block.
    half = 0.5 * BLOCK * np.sqrt(spacing[0] ** 2 + spacing[1] ** 2 + spacing[2] ** 2)
    if row[0] == 3 or (row[0] == 0 and row[_G + 6] == row[_G + 7] and row[_G + 8] == row[_G + 9]):
        return 1.25 * half
    return 1.7 * half


_slack = compiled(_slack_kernel)


def _draw_shapes_kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917  numba takes flat arguments
    rows, reach, first, last, bone, part, wall, density, soft, tissue, warp, origin, spacing, tile
):
    edge = 1.2 * spacing[1]
    block = np.empty((3, 2), np.int64)
    for n in range(rows.shape[0]):
        row = rows[n]
        near = reach[n] + _slack(row, spacing)
        for k in range(first[n, 0], last[n, 0], BLOCK):
            block[0] = k, min(k + BLOCK, last[n, 0])
            for j in range(first[n, 1], last[n, 1], BLOCK):
                block[1] = j, min(j + BLOCK, last[n, 1])
                for i in range(first[n, 2], last[n, 2], BLOCK):
                    block[2] = i, min(i + BLOCK, last[n, 2])
                    a, b, c = block[0].sum() // 2, block[1].sum() // 2, block[2].sum() // 2
                    z = origin[0] + a * spacing[0] + warp[0, a, b, c]
                    y = origin[1] + b * spacing[1] + warp[1, a, b, c]
                    x = origin[2] + c * spacing[2] + warp[2, a, b, c]
                    d, _ = _distance(row, z, y, x)
                    if d > near:
                        continue
                    if d < -near and row[1] == 2:
                        _flood(row, soft, tissue, block)
                        continue
                    _draw_block(
                        row, block, bone, part, wall, density, soft, tissue, warp, origin,
                        spacing, tile, edge,
                    )  # fmt: skip


def _flood_kernel(row, soft, tissue, block):  # type: ignore[no-untyped-def]  # numba infers
    # Deep inside a shape nothing need be measured.
    for k in range(block[0, 0], block[0, 1]):
        for j in range(block[1, 0], block[1, 1]):
            for i in range(block[2, 0], block[2, 1]):
                if (int(row[7]) >> tissue[k, j, i]) & 1:
                    soft[k, j, i] = row[2]
                    tissue[k, j, i] = np.uint8(row[3])


_flood = compiled(_flood_kernel)


def _draw_block_kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917  numba takes flat arguments
    row, block, bone, part, wall, density, soft, tissue, warp, origin, spacing, tile, edge
):
    for k in range(block[0, 0], block[0, 1]):
        for j in range(block[1, 0], block[1, 1]):
            for i in range(block[2, 0], block[2, 1]):
                z = origin[0] + k * spacing[0] + warp[0, k, j, i]
                y = origin[1] + j * spacing[1] + warp[1, k, j, i]
                x = origin[2] + i * spacing[2] + warp[2, k, j, i]
                if row[1] == 2 and not (int(row[7]) >> tissue[k, j, i]) & 1:
                    continue
                d, t = _distance(row, z, y, x)
                if row[1] == 2:
                    _paint(row, d, soft, tissue, k, j, i, z, y, x, edge, tile)
                elif row[1] == 0:
                    if d < min(bone[k, j, i], REACH_MM):
                        bone[k, j, i] = d
                        part[k, j, i] = np.uint8(row[2])
                        wall[k, j, i] = row[4] + t * (row[5] - row[4])
                        density[k, j, i] = row[6]
                elif row[1] == 1:
                    if d < REACH_MM:
                        bone[k, j, i] = max(bone[k, j, i], -d)
                else:
                    share = min(max(0.5 - d / row[3], 0.0), 1.0)
                    density[k, j, i] *= 1.0 + share * (row[2] - 1.0)


def _paint_kernel(row, d, soft, tissue, k, j, i, z, y, x, edge, tile):  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917  numba takes flat arguments
    rough = row[6]
    if rough > 0.0 and abs(d) < 4.0 * rough + edge:
        d += rough * noise(tile, z / 8.0, y / 6.0, x / 6.0)
    share = min(max(0.5 - d / edge, 0.0), 1.0)
    soft[k, j, i] += share * (row[2] - soft[k, j, i])
    if share > 0.5:
        tissue[k, j, i] = np.uint8(row[3])


_paint = compiled(_paint_kernel)
_draw_block = compiled(_draw_block_kernel)
_draw_shapes = compiled(_draw_shapes_kernel)
