"""The outlines of the trunk: skin, muscle, and the cavity within, with lungs and diaphragm."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from osteomet.simulate.noise import Tile, compiled, noise
from osteomet.simulate.raster import Slab

Profile = Float[np.ndarray, "n 4"]
"""Rows of z, half width, front and back, in mm, from below to above."""

MUSCLE: Profile = np.array([
    (-230, 150, -96, 46), (-190, 154, -104, 54), (-150, 158, -112, 60), (-100, 156, -122, 62),
    (-60, 150, -130, 58), (-20, 143, -145, 51), (20, 141, -152, 47), (60, 142, -158, 48),
    (100, 144, -162, 50), (140, 149, -165, 51), (180, 154, -168, 53), (220, 157, -168, 58),
    (260, 156, -162, 64), (300, 154, -150, 67), (340, 152, -135, 65), (370, 146, -117, 58),
    (395, 118, -96, 46), (420, 80, -74, 32), (445, 62, -64, 20), (480, 57, -62, 10),
    (560, 56, -66, 6),
], dtype=np.float64)  # fmt: skip
"""Of the muscle of a lean patient; fat and skin lie around it."""

CAVITY: Profile = np.array([
    (-230, 4, -60, -40), (-170, 30, -80, 10), (-150, 52, -92, 26), (-110, 58, -98, 34),
    (-60, 78, -115, 30), (-30, 104, -132, 17), (0, 116, -140, 13), (40, 124, -146, 15),
    (80, 128, -150, 20), (120, 131, -153, 28), (160, 134, -156, 36), (200, 134, -154, 41),
    (240, 132, -147, 43), (280, 126, -135, 43), (320, 115, -118, 38), (350, 100, -103, 31),
    (380, 76, -86, 18), (405, 50, -64, 4), (425, 26, -42, -12), (445, 4, -30, -20),
    (560, 4, -30, -20),
], dtype=np.float64)  # fmt: skip
"""Of what lies within the wall."""

FAT_HU = -104.0


@dataclass(frozen=True)
class Build:
    """What is a patient's own in the outline of the trunk.

    Attributes:
        fat_mm: thickness of the fat under the skin at the flanks.
        girth: factor on widths and depths of the belly.
        domes_mm: height of the right and of the left dome of the diaphragm.
        lung_hu: of the lungs.
        muscle_hu: of muscle.
    """

    fat_mm: float
    girth: float
    domes_mm: tuple[float, float]
    lung_hu: float
    muscle_hu: float


def outline(profile: Profile, z: Float[np.ndarray, " z"]) -> Float[np.ndarray, "z 3"]:
    """Return half width, front and back at each height."""
    return np.stack([np.interp(z, profile[:, 0], profile[:, c]) for c in (1, 2, 3)], axis=1)


def draw_trunk_outline(
    slab: Slab, build: Build, tile: Tile, lean_mm: Float[np.ndarray, " z"]
) -> None:
    """Fill a slab of air with skin, fat, muscle, fat of the cavity and lungs.

    Args:
        slab: filled.
        build: the patient's.
        tile: noise that makes outlines uneven.
        lean_mm: y of the middle of the spine in each slice; it bulges into the cavity.
    """
    z = slab.origin[0] + slab.spacing[0] * np.arange(slab.bone.shape[0])
    muscle, cavity = outline(MUSCLE, z), outline(CAVITY, z)
    belly = 1 + (build.girth - 1) * np.exp(-(((z - 40) / 110) ** 2))
    for layer in (muscle, cavity):
        layer[:, 0] *= belly
        layer[:, 1] *= belly
    # Fat is thickest in front of the belly and behind the hips.
    front = np.interp(z, [-160, -60, 40, 160, 260, 420], [0.7, 1.3, 1.3, 0.9, 0.7, 0.5])
    back = np.interp(z, [-200, -60, 20, 110, 180, 420], [0.9, 1.1, 1.4, 1.0, 0.7, 0.5])
    sides = np.interp(z, [-200, -60, 60, 200, 420], [1.1, 1.2, 1.1, 0.8, 0.6])
    skin = muscle + build.fat_mm * np.stack([sides, -front, back], axis=1)
    layers = np.stack([skin, muscle, cavity], axis=1)
    _fill(
        slab.soft, slab.tissue, slab.warp, slab.origin, slab.spacing, layers,
        np.array(build.domes_mm), build.lung_hu, build.muscle_hu, tile, lean_mm,
    )  # fmt: skip


def _depth_kernel(layer, y, x):  # type: ignore[no-untyped-def]  # numba infers
    # Signed distance to an outline, roughly: exponent 2.5 gives flat sides.
    middle = 0.5 * layer[1] + 0.5 * layer[2]
    half = 0.5 * (layer[2] - layer[1])
    u, v = abs(x) / layer[0], abs(y - middle) / half
    su, sv = u * np.sqrt(u), v * np.sqrt(v)
    q = u * su + v * sv
    if q < 1e-6:
        return -min(half, layer[0])
    # The square root of q is what grows like a distance.
    root = np.sqrt(q)
    slope = 1.25 * np.sqrt((su / layer[0]) ** 2 + (sv / half) ** 2)
    return max(root * (root - 1.0) / slope, -min(half, layer[0]))


_depth = compiled(_depth_kernel)


def _content_kernel(z, y, x, inner, domes, lung_hu, muscle_hu):  # type: ignore[no-untyped-def]
    # HU and tissue of the cavity: fat below the diaphragm's two domes, lung above.
    if z < 60.0:
        return -98.0, 7
    side = 0 if x < 0 else 1
    centre = -72.0 if side == 0 else 74.0
    r2 = ((x - centre) / 72.0) ** 2 + ((y + 72.0) / 92.0) ** 2
    over = z - max(domes[side] - 72.0 * r2, 112.0)
    if over < -3.0:
        return -98.0, 7
    if over < 0.0 or inner > -2.5:
        return muscle_hu, 3
    return lung_hu, 5


_content = compiled(_content_kernel)


def _fill_kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917  numba takes flat arguments
    soft, tissue, warp, origin, spacing, layers, domes, lung_hu, muscle_hu, tile, spine
):
    for k in range(soft.shape[0]):
        z0 = origin[0] + k * spacing[0]
        skin, muscle, cavity = layers[k, 0], layers[k, 1], layers[k, 2]
        for j in range(soft.shape[1]):
            for i in range(soft.shape[2]):
                z = z0 + warp[0, k, j, i]
                y = origin[1] + j * spacing[1] + warp[1, k, j, i]
                x = origin[2] + i * spacing[2] + warp[2, k, j, i]
                # Below the pelvis there are legs, which are drawn as shapes.
                d = _depth(skin, y, x)
                floor = -186.0 - z - 0.0007 * x * x
                d = max(d, floor)
                if d > 0.6:
                    continue
                if d > -1.7:
                    soft[k, j, i] += min(0.5 - d / 1.2, 1.0) * (15.0 - soft[k, j, i])
                    tissue[k, j, i] = 1
                    continue
                bumps = noise(tile, z / 22.0, y / 13.0, x / 13.0)
                outer = _depth(muscle, y, x) + 2.2 * bumps
                if outer > 0:
                    soft[k, j, i], tissue[k, j, i] = -104.0, 2
                    continue
                inner = _depth(cavity, y, x) - 1.5 * noise(tile, z / 15.0, x / 10.0, y / 10.0)
                # The spine bulges into the cavity from behind.
                u, v = x / 42.0, (y - spine[k] - 46.0) / 44.0
                inner = max(inner, 36.0 * (1.0 - np.sqrt(u * u + v * v)))
                if inner > 0:
                    # Three layers of muscle with fat between them.
                    thick = max(inner - outer, 1e-6)
                    t = -outer / thick
                    gap = min(abs(t - 0.36), abs(t - 0.7)) * thick
                    lean = min(max(gap / 0.9, 0.0), 1.0) if y < 10.0 else 1.0
                    soft[k, j, i] = muscle_hu - 110.0 * (1.0 - lean)
                    tissue[k, j, i] = 3 if lean > 0.5 else 2
                    continue
                soft[k, j, i], tissue[k, j, i] = _content(z, y, x, inner, domes, lung_hu, muscle_hu)


_fill = compiled(_fill_kernel)
