"""What depends on whole rays through the patient: where noise is strong, and beam hardening.

Both are computed on cells of some mm in parallel rays, which is enough: the detail of a
scan's noise is drawn at full resolution elsewhere, and streaks are smooth.

Noise of filtered back projection is, near any point, a sum over directions: the views in
one direction bring the frequencies along it, with a variance that grows exponentially with
the attenuation on their rays. Long paths through shoulders or metal therefore leave streaks
along themselves.

Source: Riederer, Pelc and Chesler, Phys Med Biol 1978; 23: 446-454 (noise of filtered back
projection); Brooks and Di Chiro, Phys Med Biol 1976; 21: 390-398 (beam hardening).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import fft, sparse

CELL_MM, CELL_Z_MM = 2.5, 3.0
SECTORS, VIEWS_A_SECTOR = 6, 15
WATER_PER_MM = 0.0195
"""Attenuation of water at the mean energy of a 120 kV beam."""

MODULATION = 0.55
"""Share of the differences in attenuation that the modulation of the tube leaves over."""

MOST_STRENGTH = 40.0
"""Largest variance over that in soft tissue: detectors have electronic noise, not none."""

BONE_HU, METAL_HU = 250.0, 2500.0
"""Above them a cell counts as dense, and as metal; water is what scanners correct for."""

METAL_SHARE = 0.2
"""Of the square of a path through metal; it saturates, as detectors do."""

SATURATION = 2.5

MOST_STREAK_HU = 900.0

Cells = Float[np.ndarray, "z y x"]
Sinogram = Float[np.ndarray, "views bins z"]


@dataclass(frozen=True, eq=False)
class Rays:
    """Parallel rays through the slices of a scan.

    Attributes:
        shape: of the cells ``(z, y, x)``.
        shape_zyx: of the scan.
        factors: voxels along each side of a cell; the last of an axis may be cut.
        size_mm: side of a cell in the plane.
        bins: rays of a view.
        matrix: from cells of a slice to ``views * bins`` rays; each cell is shared by two.
        grow_y: from cells to pixels, linear.
        grow_x: the same along x.
    """

    shape: tuple[int, int, int]
    shape_zyx: tuple[int, int, int]
    factors: tuple[int, int, int]
    size_mm: float
    bins: int
    matrix: sparse.csr_matrix
    grow_y: Float[np.ndarray, "y cells_y"]
    grow_x: Float[np.ndarray, "x cells_x"]

    @classmethod
    def through(
        cls, shape_zyx: tuple[int, int, int], spacing_zyx_mm: tuple[float, float, float]
    ) -> "Rays":
        """Lay rays through a scan."""
        in_plane = max(1, round(CELL_MM / spacing_zyx_mm[1]))
        factors = (max(1, round(CELL_Z_MM / spacing_zyx_mm[0])), in_plane, in_plane)
        z, y, x = (-(-n // f) for n, f in zip(shape_zyx, factors, strict=True))
        bins = int(np.ceil(np.hypot(y, x))) + 3
        rows, columns = np.divmod(np.arange(y * x), x)
        index, weight = [], []
        for view, angle in enumerate(_angles()):
            across = (rows - (y - 1) / 2) * np.sin(angle) + (columns - (x - 1) / 2) * np.cos(angle)
            place = across + (bins - 1) / 2
            low = np.floor(place).astype(np.int64)
            index += [view * bins + low, view * bins + low + 1]
            weight += [1 - (place - low), place - low]
        cells = np.tile(np.arange(y * x), len(index))
        entries = (np.concatenate(weight).astype(np.float32), (np.concatenate(index), cells))
        matrix = sparse.csr_matrix(entries, shape=(len(_angles()) * bins, y * x))
        return cls(
            (z, y, x), shape_zyx, factors, in_plane * spacing_zyx_mm[1], bins, matrix,
            _growth(shape_zyx[1], in_plane, y), _growth(shape_zyx[2], in_plane, x),
        )  # fmt: skip

    def cells(self, slices: Iterable[Float[np.ndarray, "y x"]]) -> Cells:
        """Return the means of the cells, from the slices one after the other."""
        _, y, x = self.factors
        sums = np.zeros(self.shape, np.float32)
        counts = np.zeros(self.shape[0], np.float32)
        rows, columns = np.arange(0, self.shape_zyx[1], y), np.arange(0, self.shape_zyx[2], x)
        sizes = np.outer(
            np.diff(np.append(rows, self.shape_zyx[1])),
            np.diff(np.append(columns, self.shape_zyx[2])),
        ).astype(np.float32)
        for k, plane in enumerate(slices):
            at = k // self.factors[0]
            total = np.add.reduceat(np.add.reduceat(plane, rows, axis=0), columns, axis=1)
            sums[at] += total / sizes
            counts[at] += 1
        means: Cells = sums / counts[:, None, None]
        return means

    def project(self, cells: Cells) -> Sinogram:
        """Return the sums along all rays, times the side of a cell in mm."""
        sums = self.matrix @ cells.reshape(len(cells), -1).T
        sinogram: Sinogram = (sums * np.float32(self.size_mm)).reshape(-1, self.bins, len(cells))
        return sinogram

    def back(self, sinogram: Sinogram, first: int = 0, last: int | None = None) -> Cells:
        """Return the mean over views ``first`` to ``last`` of what each has at a cell."""
        chosen = sinogram[first:last]
        rows = self.matrix[first * self.bins : (first + len(chosen)) * self.bins]
        spread = rows.T @ chosen.reshape(-1, sinogram.shape[2])
        cells: Cells = np.ascontiguousarray((spread / len(chosen)).T).reshape(self.shape)
        return cells


def _angles() -> Float[np.ndarray, " views"]:
    return np.arange(SECTORS * VIEWS_A_SECTOR) * np.pi / (SECTORS * VIEWS_A_SECTOR)


def _growth(pixels: int, factor: int, cells: int) -> Float[np.ndarray, "pixels cells"]:
    place = np.clip((np.arange(pixels) + 0.5) / factor - 0.5, 0, cells - 1)
    low = np.minimum(place.astype(np.int64), max(cells - 2, 0))
    grow = np.zeros((pixels, cells), np.float32)
    np.add.at(grow, (np.arange(pixels), low), 1 - (place - low))
    np.add.at(grow, (np.arange(pixels), np.minimum(low + 1, cells - 1)), place - low)
    return grow


def upsampled(
    rays: Rays, cells: Float[np.ndarray, "*maps z y x"], k: int
) -> Float[np.ndarray, "*maps Y X"]:
    """Return cell values at the pixels of slice ``k`` of the scan."""
    depth = rays.factors[0]
    place = float(np.clip((k + 0.5) / depth - 0.5, 0, rays.shape[0] - 1))
    low = int(place)
    high = min(low + 1, rays.shape[0] - 1)
    share = np.float32(place - low)
    between = (1 - share) * cells[..., low, :, :] + share * cells[..., high, :, :]
    grown: Float[np.ndarray, "*maps Y X"] = rays.grow_y @ between @ rays.grow_x.T
    return grown


def noise_strength(
    rays: Rays, cells: Cells, body_mm: tuple[float, float]
) -> Float[np.ndarray, "sectors z y x"]:
    """Return the standard deviation of the noise by direction, 1 in the scan's median cell.

    Args:
        rays: through the scan.
        cells: HU.
        body_mm: half axes, left and back, of the body; what of it lies outside the field of
            view weakens rays too.
    """
    water = WATER_PER_MM * np.clip(1 + cells / 1000, 0, 20).astype(np.float32)
    paths = rays.project(water) + _outside(rays, body_mm)[:, :, None]
    middle = paths[:, rays.bins // 2]
    variance = np.exp(MODULATION * np.clip(paths - np.median(middle), -6, 12))
    maps = np.stack(
        [rays.back(variance, k * VIEWS_A_SECTOR, (k + 1) * VIEWS_A_SECTOR) for k in range(SECTORS)]
    )
    inside = cells > -300
    usual = np.median(maps.mean(axis=0)[inside]) if inside.any() else np.median(maps)
    strength: Float[np.ndarray, "sectors z y x"] = np.sqrt(np.minimum(maps / usual, MOST_STRENGTH))
    return strength


def _outside(rays: Rays, body_mm: tuple[float, float]) -> Float[np.ndarray, "views bins"]:
    # An ellipse of water, less the part of each of its chords inside the field of view.
    left, back = body_mm
    y, x = rays.shape[1] * rays.size_mm / 2, rays.shape[2] * rays.size_mm / 2
    across = (np.arange(rays.bins) - (rays.bins - 1) / 2)[None] * rays.size_mm
    angles = _angles()[:, None]
    width = (left * np.cos(angles)) ** 2 + (back * np.sin(angles)) ** 2
    chord = 2 * left * back * np.sqrt(np.maximum(width - across**2, 0)) / width
    c, s = np.abs(np.cos(angles)) + 1e-6, np.abs(np.sin(angles)) + 1e-6
    inner = np.minimum(np.minimum(2 * x / s, 2 * y / c), (x * c + y * s - np.abs(across)) / (c * s))
    missing: Float[np.ndarray, "views bins"] = np.maximum(chord - np.maximum(inner, 0), 0)
    return (WATER_PER_MM * missing).astype(np.float32)


def hardened(rays: Rays, cells: Cells, share: float) -> Cells:
    """Return the HU that uncorrected beam hardening in bone and metal adds.

    A ray through much dense matter seems to be weakened less than in proportion; the error
    is taken as quadratic and reconstructed with a ramp filter.

    Args:
        rays: through the scan.
        cells: HU.
        share: of the square of a path through dense matter.
    """
    dense = np.clip((np.minimum(cells, METAL_HU) - BONE_HU) / 1000, 0, None)
    metal = np.clip((cells - METAL_HU) / 1000, 0, None)
    error = -np.float32(share) * rays.project(WATER_PER_MM * dense.astype(np.float32)) ** 2
    if metal.any():
        path = rays.project(WATER_PER_MM * metal.astype(np.float32))
        error -= np.float32(METAL_SHARE) * path**2 / (1 + path / np.float32(SATURATION))
    length = fft.next_fast_len(2 * rays.bins)
    ramp = np.abs(fft.rfftfreq(length, rays.size_mm)).astype(np.float32)
    spectrum = fft.rfft(error, length, axis=1) * ramp[None, :, None]
    filtered = fft.irfft(spectrum, length, axis=1)[:, : rays.bins]
    streaks = np.pi * rays.back(filtered.astype(np.float32)) * (1000 / WATER_PER_MM)
    # What is dense itself keeps its value: scanners are calibrated for bone of usual size.
    streaks *= np.clip(1 - (cells - BONE_HU) / 500, 0, 1)
    limited: Cells = np.clip(streaks, -MOST_STREAK_HU, MOST_STREAK_HU).astype(np.float32)
    return limited
