"""What bone and soft tissue look like from near.

Noise depends on the place in the patient alone, so it is the same wherever a scan's window
lies.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from osteomet.simulate.noise import Tile, compiled, noise
from osteomet.simulate.raster import Slab

WARP_STEP_MM = 3.5


@dataclass(frozen=True, eq=False)
class Look:
    """What is a patient's own in the texture of tissues.

    Attributes:
        tile: smooth noise of variance 1 that varies over about two voxels.
        marrow_hu: of the trabecular bone of a vertebral body.
        cortex_hu: of thick cortex.
        cortex_scale: factor on the thickness of all cortex.
        grain: strength of trabeculae.
        fattiness: of muscle, 0 to 1.
        hip: centre of the left femoral head.
    """

    tile: Tile
    marrow_hu: float
    cortex_hu: float
    cortex_scale: float
    grain: float
    fattiness: float
    hip: tuple[float, float, float]


def warp_field(
    tile: Tile,
    shape: tuple[int, int, int],
    origin: Float[np.ndarray, " 3"],
    spacing: Float[np.ndarray, " 3"],
    sizes_mm: tuple[float, float],
) -> Float[np.ndarray, "3 z y x"]:
    """Return displacements in mm that keep shapes from being too regular.

    Args:
        tile: the patient's noise.
        shape: of the slab.
        origin: of its first voxel.
        spacing: of its voxels.
        sizes_mm: standard deviation of the slow and of the quick bends.
    """
    warp = np.empty((3, *shape), np.float32)
    # Where the lattice lies depends on the patient alone, not on the window.
    first = np.floor(origin / WARP_STEP_MM).astype(np.int64)
    last = np.floor((origin + spacing * np.array(shape)) / WARP_STEP_MM).astype(np.int64) + 2
    lattice = np.empty((3, *(last - first)), np.float32)
    _fill_lattice(tile, lattice, first, WARP_STEP_MM, sizes_mm[0], sizes_mm[1])
    _upsample(lattice, first, WARP_STEP_MM, origin, spacing, warp)
    return warp


def _fill_lattice_kernel(tile, lattice, first, step, slow, quick):  # type: ignore[no-untyped-def]  # numba infers
    for axis in range(3):
        shift = 21.3 * axis
        for k in range(lattice.shape[1]):
            for j in range(lattice.shape[2]):
                for i in range(lattice.shape[3]):
                    z, y, x = (first[0] + k) * step, (first[1] + j) * step, (first[2] + i) * step
                    a = noise(tile, z / 13.0 + shift, y / 13.0, x / 13.0 - shift)
                    b = noise(tile, z / 4.1, y / 4.1 + shift, x / 4.1 + shift)
                    lattice[axis, k, j, i] = slow * a + quick * b


_fill_lattice = compiled(_fill_lattice_kernel)


def _upsample_kernel(lattice, first, step, origin, spacing, warp):  # type: ignore[no-untyped-def]
    for axis in range(3):
        for k in range(warp.shape[1]):
            z = (origin[0] + k * spacing[0]) / step - first[0]
            z0 = int(z)
            tz = z - z0
            for j in range(warp.shape[2]):
                y = (origin[1] + j * spacing[1]) / step - first[1]
                y0 = int(y)
                ty = y - y0
                low = lattice[axis, z0, y0], lattice[axis, z0, y0 + 1]
                high = lattice[axis, z0 + 1, y0], lattice[axis, z0 + 1, y0 + 1]
                for i in range(warp.shape[3]):
                    x = (origin[2] + i * spacing[2]) / step - first[2]
                    x0 = int(x)
                    tx = x - x0
                    a = low[0][x0] + tx * (low[0][x0 + 1] - low[0][x0])
                    b = low[1][x0] + tx * (low[1][x0 + 1] - low[1][x0])
                    c = high[0][x0] + tx * (high[0][x0 + 1] - high[0][x0])
                    d = high[1][x0] + tx * (high[1][x0 + 1] - high[1][x0])
                    a += ty * (b - a)
                    c += ty * (d - c)
                    warp[axis, k, j, i] = a + tz * (c - a)


_upsample = compiled(_upsample_kernel)


def round_off(slab: Slab, tile: Tile) -> None:
    """Round the seams between shapes of bone, and make its surface a little uneven."""
    smoothed = np.empty_like(slab.bone)
    _round_off(slab.bone, smoothed, tile, slab.origin, slab.spacing)
    slab.bone = smoothed


def _round_off_kernel(bone, out, tile, origin, spacing):  # type: ignore[no-untyped-def]  # numba infers
    nz, ny, nx = bone.shape
    for k in range(nz):
        k0, k1 = max(k - 1, 0), min(k + 1, nz - 1)
        z = (origin[0] + k * spacing[0]) / 1.7
        for j in range(ny):
            j0, j1 = max(j - 1, 0), min(j + 1, ny - 1)
            y = (origin[1] + j * spacing[1]) / 1.7
            for i in range(nx):
                d = bone[k, j, i]
                if d > 3.0:
                    out[k, j, i] = d
                    continue
                i0, i1 = max(i - 1, 0), min(i + 1, nx - 1)
                d = 0.4 * d + 0.1 * (
                    bone[k0, j, i] + bone[k1, j, i] + bone[k, j0, i] + bone[k, j1, i]
                    + bone[k, j, i0] + bone[k, j, i1]
                )  # fmt: skip
                if d > -3.0:
                    d += 0.2 * noise(tile, z, y, (origin[2] + i * spacing[2]) / 1.7)
                out[k, j, i] = d


_round_off = compiled(_round_off_kernel)


def compose(
    slab: Slab,
    look: Look,
    lean_mm: Float[np.ndarray, " z"],
    hu: Float[np.ndarray, "z y x"],
    cortex: Float[np.ndarray, "z y x"],
) -> None:
    """Fill HU and the share of cortex from a drawn slab.

    Args:
        slab: drawn and rounded off.
        look: the patient's texture.
        lean_mm: how far back the spine lies in each slice, so that its trabeculae follow it.
        hu: filled.
        cortex: filled; 0 outside bone's neighbourhood.
    """
    traits = np.array(
        [look.marrow_hu, look.cortex_hu, look.cortex_scale, look.grain, look.fattiness]
    )
    _compose(
        slab.bone, slab.part, slab.wall, slab.density, slab.soft, slab.tissue, hu, cortex,
        look.tile, slab.origin, slab.spacing, lean_mm, np.array(look.hip), traits,
    )  # fmt: skip


def _soft_texture_kernel(tile, tissue, soft, z, y, x, fattiness):  # type: ignore[no-untyped-def]
    if tissue in (0, 8, 9):
        return soft
    if tissue == 5:
        n = noise(tile, z / 1.3, y / 1.3, x / 1.3)
        m = noise(tile, z / 9.0, y / 9.0, x / 9.0)
        return soft + 14.0 * n + 12.0 * m + 0.5 * (y + 60.0)
    if tissue in (2, 7):
        # Thin septa, where a slow field crosses zero.
        m = noise(tile, z / 5.0, y / 3.2, x / 3.2)
        n = noise(tile, z / 2.2, y / 2.2, x / 2.2)
        septum = max(1.0 - abs(m) / 0.11, 0.0)
        return soft + 4.0 * n + septum * (14.0 if tissue == 2 else 22.0)
    if tissue == 3:
        # Bundles run mostly upright; sheets and streaks of fat part them.
        m = noise(tile, z / 16.0, y / 4.0 + 0.1 * z, x / 4.5)
        n = noise(tile, z / 4.0, y / 1.0, x / 1.6)
        patch = noise(tile, z / 11.0, y / 9.0, x / 9.0)
        rich = min(max(fattiness + 0.35 * patch, 0.0), 1.2)
        sheet = max(1.0 - abs(m) / 0.13, 0.0) * rich
        streak = max(n - 1.9 + 1.6 * rich, 0.0) * 50.0 * rich
        return soft + 6.0 * n + 4.0 * patch - min(95.0 * sheet + streak, 130.0)
    if tissue == 6:
        m = noise(tile, z / 1.6, y / 1.6, x / 1.6)
        n = noise(tile, z / 4.0, y / 4.0, x / 4.0)
        bubble = min(max((m + 0.5 * n - 0.5) * 3.0, 0.0), 1.0)
        return soft + 25.0 * n - 650.0 * bubble
    return soft + 2.5 * noise(tile, z / 3.0, y / 3.0, x / 3.0)


_soft_texture = compiled(_soft_texture_kernel)


def _trabeculae_kernel(tile, part, z, y, x, lean, hip):  # type: ignore[no-untyped-def]
    # Fine and coarse noise, drawn out along the load.
    if part in (1, 2, 3, 7):
        v = y - lean
        fine = noise(tile, z / 1.4, v / 0.5, x / 0.5)
        coarse = noise(tile, z / 3.0, v / 1.3, x / 1.3)
    elif part == 6:
        # Lines of pressure run from the head to the inner cortex of the shaft; lines of
        # tension arch from the outer cortex over the neck into the head.
        side = abs(x) - hip[2]
        high, deep = z - hip[0], (y - hip[1]) / 0.6
        along, across = -0.88 * high + 0.47 * side, 0.47 * high + 0.88 * side
        pressure = noise(tile, along / 1.7, deep, across / 0.6)
        arch = np.sqrt((high + 58.0) ** 2 + (side - 6.0) ** 2)
        turn = np.arctan2(high + 58.0, side - 6.0) * 28.0
        tension = noise(tile, arch / 0.6 + 31.0, deep, turn)
        fine = 0.6 * (pressure + tension)
        coarse = noise(tile, along / 4.5, deep / 2.2, across / 1.5)
    else:
        fine = noise(tile, z / 0.6, y / 0.6, x / 0.6)
        coarse = noise(tile, z / 1.3, y / 1.3, x / 1.3)
    return fine, coarse


_trabeculae = compiled(_trabeculae_kernel)


def _compose_kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0917  numba takes flat arguments
    bone, part, wall, density, soft, tissue, hu, cortex, tile, origin, spacing, lean, hip, traits
):
    marrow, hard, scale, grain, fattiness = traits
    edge = 1.0 * spacing[1]
    # Voxels larger than a trabecula average several.
    grain *= min(1.0, (0.9 / max(spacing[0], spacing[1])) ** 1.5)
    for k in range(hu.shape[0]):
        z = origin[0] + k * spacing[0]
        for j in range(hu.shape[1]):
            y = origin[1] + j * spacing[1]
            for i in range(hu.shape[2]):
                x = origin[2] + i * spacing[2]
                d = bone[k, j, i]
                cortex[k, j, i] = 0.0
                value = soft[k, j, i]
                if d > -0.5 * edge:
                    value = _soft_texture(tile, tissue[k, j, i], value, z, y, x, fattiness)
                    value = max(value, -1000.0)
                if d < 3.0:
                    lumps = noise(tile, z / 4.5, y / 4.5, x / 4.5)
                    width = scale * wall[k, j, i] * min(max(1.0 + 0.25 * lumps, 0.5), 1.6)
                    share = min(max(0.5 + (width + d) / (0.7 * edge + 0.6), 0.0), 1.0)
                    cortex[k, j, i] = share
                    inside = min(max(0.5 - d / edge, 0.0), 1.0)
                    if inside > 0.0:
                        # Between fat and the densest marrow.
                        spongy = density[k, j, i] * (1.0 + 0.12 * lumps)
                        # Just under the cortex trabecular bone is denser.
                        spongy += 0.45 * np.exp(min(d + width, 0.0) / 1.7) * (0.4 + 0.6 * spongy)
                        trabecular = (marrow + 90.0) * spongy - 90.0
                        fine, coarse = _trabeculae(tile, part[k, j, i], z, y, x, lean[k], hip)
                        rough = grain * min(spongy + 0.15, 1.6) * (0.25 * marrow + 40.0)
                        trabecular += rough * (0.75 * fine + 0.3 * coarse)
                        compact = hard * (0.72 + 0.28 * min(width / 2.5, 1.0))
                        compact *= min(max(1.0 + 0.1 * fine, 0.7), 1.25)
                        full = trabecular + share * (compact - trabecular)
                        value += inside * (full - value)
                hu[k, j, i] = value


_compose = compiled(_compose_kernel)
