"""Random changes of a training patch, in HU, before normalisation: what is drawn for it.

Where a patch is taken from is one affine map from its voxels to the scan's: a turn, a scale,
flips and a shift. Image and instances are sampled through it once. Intensities are changed
after that. Nothing is computed here: a patch's numbers are drawn on the processor, from its own
generator, and ``render`` carries them out on whichever device the model runs.
"""

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Float32

from osteomet.config import AugmentConfig

Matrix = Float[np.ndarray, "3 3"]
Boxes = Float[np.ndarray, "n 6"]

BLUR_REACH = 2.5
"""Standard deviations after which a blur's kernel is cut."""

LEAST_BLUR_VOX = 0.1
"""A narrower blur changes nothing that could be seen."""


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a patch lies in its scan: ``source = matrix @ (patch - middle) + center``, in edges.

    Attributes:
        matrix: turn and scale, or flips alone.
        center: middle of the patch, in edges of the scan.
        shape: voxels of the patch.
        aligned: whether patch voxels are scan voxels, flipped at most.
    """

    matrix: Matrix
    center: Float[np.ndarray, " 3"]
    shape: tuple[int, int, int]
    aligned: bool

    @property
    def zoom(self) -> float:
        """Length in the patch over length in the scan."""
        return float(np.abs(np.linalg.det(self.matrix)) ** (-1 / 3))

    def source_box(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Return corner and shape of the block of the scan that sampling reads."""
        if self.aligned:
            z, y, x = np.rint(self.center - np.array(self.shape) / 2).astype(int).tolist()
            return (z, y, x), self.shape
        half = np.abs(self.matrix) @ (np.array(self.shape) / 2)
        low = np.floor(self.center - half - 0.5).astype(int)
        size = np.ceil(self.center + half + 0.5).astype(int) + 1 - low
        z, y, x = low.tolist()
        dz, dy, dx = size.tolist()
        return (z, y, x), (dz, dy, dx)

    def move_boxes(self, boxes: Boxes, *, hull: bool) -> Boxes:
        """Return boxes of the scan in patch edges, not clipped.

        Args:
            boxes: ``(n, 6)``; ``n`` may be 0.
            hull: a turned box becomes the hull of its corners, so nothing of it is lost. Else it
                becomes the hull of the ellipsoid in it, which is what a lesion looks like; the
                hull of the corners would be up to 1.7 times too wide.
        """
        inverse = np.linalg.inv(self.matrix)
        center, half = (boxes[:, :3] + boxes[:, 3:]) / 2, (boxes[:, 3:] - boxes[:, :3]) / 2
        center = (center - self.center) @ inverse.T + np.array(self.shape) / 2
        half = half @ np.abs(inverse).T if hull else np.sqrt(half**2 @ (inverse**2).T)
        return np.hstack([center - half, center + half])

    def index_map(self) -> tuple[Float32[np.ndarray, "3 3"], Float32[np.ndarray, " 3"]]:
        """Return the map from patch indices to fractional indices of the ``source_box``."""
        corner, _ = self.source_box()
        # Centre k of the patch is edge k + 0.5; edge e of the block is index e - 0.5.
        origin = self.matrix @ (0.5 - np.array(self.shape) / 2) + self.center - corner - 0.5
        return self.matrix.astype(np.float32), origin.astype(np.float32)


def draw_matrix(config: AugmentConfig, rng: np.random.Generator) -> tuple[Matrix, bool]:
    """Draw flips, turn and scale of a patch.

    Returns:
        The map from patch to scan directions, and whether it keeps voxels aligned.
    """
    flips = np.where(rng.random(3) < 0.5, -1.0, 1.0) if config.flip else np.ones(3)
    if rng.random() >= config.spatial_probability:
        return np.diag(flips), True
    angles = np.deg2rad(rng.uniform(-config.rotate_degrees, config.rotate_degrees, 3))
    low, high = (math.log(scale) for scale in sorted(config.scale))
    zoom = math.exp(rng.uniform(low, high))
    return _rotation(angles) @ np.diag(flips) / zoom, False


@dataclass(frozen=True)
class IntensityChange:
    """What is done to the HU of a patch, in this order, a scanner's; the defaults do nothing.

    Attributes:
        slice_vox: thickness of simulated slices along z; 1 leaves them alone.
        slice_phase: where the first of them begins.
        blur_vox: sigma of a Gaussian blur.
        contrast: factor.
        gamma: power of the place in the HU window, whose ends stay.
        shift_hu: added.
        noise_hu: standard deviation of the noise, with a sign that mirrors it.
        noise_start: where in the fixed supply of noise this patch's begins.
    """

    slice_vox: int = 1
    slice_phase: int = 0
    blur_vox: float = 0.0
    contrast: float = 1.0
    gamma: float = 1.0
    shift_hu: float = 0.0
    noise_hu: float = 0.0
    noise_start: int = 0

    @property
    def smears(self) -> bool:
        """Whether a voxel comes to depend on its neighbours."""
        return self.slice_vox > 1 or self.blur_vox >= LEAST_BLUR_VOX


def draw_intensities(
    config: AugmentConfig, spacing_mm: float, voxels: int, rng: np.random.Generator
) -> IntensityChange:
    """Draw thick slices, blur, contrast, gamma, brightness and noise, each with its own chance.

    Args:
        config: their ranges and chances.
        spacing_mm: of the model's grid.
        voxels: of a patch; its noise begins at one of as many places of the supply.
        rng: of this patch.
    """
    chance = config.intensity_probability
    contrast, shift, sigma_mm, noise, gamma = (
        rng.uniform(*config.contrast),
        rng.uniform(-config.shift_hu, config.shift_hu),
        rng.uniform(0, config.blur_mm),
        rng.uniform(0, config.noise_hu),
        math.exp(rng.uniform(math.log(config.gamma[0]), math.log(config.gamma[1]))),
    )
    start = int(rng.integers(voxels + 1))
    sign = 1 if rng.random() < 0.5 else -1
    contrasted, shifted, blurred, noised, bent = (rng.random(5) < chance).tolist()
    slice_vox, phase = 1, 0
    if rng.random() < config.thick_slices_probability:
        thickness_mm = rng.uniform(spacing_mm, config.thick_slices_mm)
        slice_vox, phase = max(1, round(thickness_mm / spacing_mm)), int(rng.integers(1000))
    return IntensityChange(
        slice_vox=slice_vox,
        slice_phase=phase,
        blur_vox=sigma_mm / spacing_mm if blurred else 0.0,
        contrast=contrast if contrasted else 1.0,
        gamma=gamma if bent else 1.0,
        shift_hu=shift if shifted else 0.0,
        noise_hu=sign * noise if noised else 0.0,
        noise_start=start,
    )


@lru_cache(maxsize=2)
def noise_supply(voxels: int) -> Float32[np.ndarray, " n"]:
    """Return the standard normal numbers that the noise of all patches is cut from.

    A fixed supply, twice as long as a patch: drawing a million normal numbers for each one
    would cost more than everything else.
    """
    return np.random.default_rng(0).standard_normal(2 * voxels, dtype=np.float32)


def blur_taps(sigma_vox: float) -> Float32[np.ndarray, " taps"]:
    """Return the middle and one side of a Gaussian kernel whose whole sum is 1."""
    if sigma_vox < LEAST_BLUR_VOX:
        return np.ones(1, dtype=np.float32)
    reach = math.ceil(BLUR_REACH * sigma_vox)
    taps = np.exp(-0.5 * (np.arange(reach + 1) / sigma_vox) ** 2)
    normalised: Float32[np.ndarray, " taps"] = (taps / (2 * taps.sum() - taps[0])).astype(
        np.float32
    )
    return normalised


def _rotation(angles: Float[np.ndarray, " 3"]) -> Matrix:
    turn = np.eye(3)
    for (a, b), angle in zip(itertools.combinations(range(3), 2), angles, strict=True):
        plane = np.eye(3)
        plane[[a, a, b, b], [a, b, a, b]] = (
            math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle),
        )  # fmt: skip
        turn = turn @ plane
    return turn
