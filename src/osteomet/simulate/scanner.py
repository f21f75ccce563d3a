"""What a CT scanner makes of a patient: sampling, blur, artefacts, noise, and its HU scale.

Two centres, as in a cohort of two hospitals: ``A`` reconstructs thin and smooth, mostly
with contrast medium; ``B`` thicker and with a sharper, noisier kernel. How a patient is
scanned depends on the centre and on chance, never on the primary.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage

from osteomet.simulate.artefacts import Rays, hardened, noise_strength, upsampled
from osteomet.simulate.noise import Field
from osteomet.simulate.quantum_noise import NoiseTexture
from osteomet.simulate.settings import SimulationConfig, Voxels

HU_RANGE = (-1024, 3071)
MAX_VOXELS_A_SIDE = 160
MAX_RENDER_STEP_MM = 1.3
THIN_MM = 1.5
"""Thickest slices of a scan whose number of voxels is given."""

CENTRES = ("A", "B")
DENSE_HU = 60.0
"""Above unenhanced soft tissue, values depend on the voltage of the tube."""

BRIGHTEST_HU = 3500.0
"""Metal is brighter, but a kernel that sharpens would ring around it more than scanners do."""

DENSITY_BY_KILOVOLTS = {100: 1.17, 120: 1.0, 140: 0.92}
"""Attenuation of calcium and iodine, relative to that at 120 kV."""

Plane = Float[np.ndarray, "y x"]


@dataclass(frozen=True)
class Habits:
    """What a centre usually does; pairs are ranges.

    Attributes:
        steps_mm: distances between slices.
        overlap: thickness of a slice over the distance.
        pixel_mm: side of a pixel.
        phases: probability of no contrast medium, of the venous and of the arterial phase.
        kilovolts: of the tube, and their probabilities.
        blur_mm: standard deviation of the in-plane point spread.
        sharpening: share of high frequencies that the kernel adds.
        noise_hu: standard deviation of the noise in soft tissue.
        grain_mm: size of the noise's grain.
        offset_hu: mean and deviation of the error of the HU scale.
        arms_down: probability that the arms lie beside the trunk.
    """

    steps_mm: tuple[float, ...]
    overlap: tuple[float, float]
    pixel_mm: tuple[float, float]
    phases: tuple[float, float, float]
    kilovolts: dict[int, float]
    blur_mm: tuple[float, float]
    sharpening: tuple[float, float]
    noise_hu: tuple[float, float]
    grain_mm: tuple[float, float]
    offset_hu: tuple[float, float]
    arms_down: float


HABITS = {
    "A": Habits(
        (1.0, 1.25, 1.5, 2.0), (1.0, 1.25), (0.7, 0.9), (0.25, 0.45, 0.3), {100: 0.5, 120: 0.5},
        (0.55, 0.75), (0.0, 0.25), (9.0, 20.0), (0.42, 0.6), (0.0, 3.0), 0.06,
    ),
    "B": Habits(
        (1.0, 1.5, 2.0, 2.5, 3.0), (1.0, 1.7), (0.78, 1.0), (0.6, 0.3, 0.1), {120: 0.8, 140: 0.2},
        (0.42, 0.6), (0.3, 0.8), (14.0, 32.0), (0.28, 0.42), (-6.0, 4.0), 0.2,
    ),
}  # fmt: skip
PHASES_HU = {"none": 0.0, "venous": 60.0, "arterial": 150.0}
"""What contrast medium adds in arteries."""


@dataclass(frozen=True)
class Protocol:
    """How one patient is scanned.

    Attributes:
        centre: ``A`` or ``B``.
        spacing_zyx_mm: of the voxels of the scan.
        shape_zyx: of the scan.
        substeps: drawn slices that one slice of the scan averages.
        thickness_mm: of a slice; more than the distance where slices overlap.
        phase: of the contrast medium: ``none``, ``venous`` or ``arterial``.
        contrast_hu: what contrast medium adds in arteries; 0 without.
        kilovolts: of the tube.
        blur_mm: standard deviation of the in-plane point spread.
        sharpening: share of high frequencies that the kernel adds.
        noise_hu: standard deviation of the noise in soft tissue.
        noise_grain_mm: size of the noise's grain.
        hardening: share of beam hardening in bone and metal that is not corrected.
        body_mm: half axes of the body around the field of view, left and back.
        offset_hu: error of the HU scale.
    """

    centre: str
    spacing_zyx_mm: tuple[float, float, float]
    shape_zyx: tuple[int, int, int]
    substeps: int
    thickness_mm: float
    phase: str
    contrast_hu: float
    kilovolts: int
    blur_mm: float
    sharpening: float
    noise_hu: float
    noise_grain_mm: float
    hardening: float
    body_mm: tuple[float, float]
    offset_hu: float

    @property
    def drawn_shape(self) -> tuple[int, int, int]:
        z, y, x = self.shape_zyx
        return z * self.substeps, y, x

    @property
    def drawn_spacing_mm(self) -> tuple[float, float, float]:
        z, y, x = self.spacing_zyx_mm
        return z / self.substeps, y, x


def draw_protocol(
    rng: np.random.Generator, config: SimulationConfig, centre: str | None = None
) -> Protocol:
    """Draw how one patient is scanned.

    Args:
        rng: source of randomness.
        config: the field of view.
        centre: one of ``CENTRES``; None draws it.
    """
    drawn = "A" if rng.random() < 0.5 else "B"
    centre = centre or drawn
    habits = HABITS[centre]
    pixel = float(rng.uniform(*habits.pixel_mm))
    steps = habits.steps_mm
    if config.shape_zyx is not None:
        steps = tuple(step for step in steps if step <= THIN_MM)
    step = float(rng.choice(steps))
    phase = str(rng.choice(list(PHASES_HU), p=habits.phases))
    width = float(rng.normal(175, 16) + 70 * (rng.random() < habits.arms_down))
    return Protocol(
        centre=centre,
        spacing_zyx_mm=(step, pixel, pixel),
        shape_zyx=_draw_shape(rng, config, step, pixel),
        substeps=math.ceil(step / MAX_RENDER_STEP_MM),
        thickness_mm=step * float(rng.uniform(*habits.overlap)),
        phase=phase,
        contrast_hu=float(PHASES_HU[phase] * rng.uniform(0.7, 1.3)),
        kilovolts=int(rng.choice(list(habits.kilovolts), p=list(habits.kilovolts.values()))),
        blur_mm=float(rng.uniform(*habits.blur_mm)),
        sharpening=float(rng.uniform(*habits.sharpening)),
        noise_hu=float(rng.uniform(*habits.noise_hu)),
        noise_grain_mm=float(rng.uniform(*habits.grain_mm)),
        hardening=float(rng.uniform(0.01, 0.05)),
        body_mm=(width, float(rng.normal(118, 12))),
        offset_hu=float(rng.normal(*habits.offset_hu)),
    )


def _draw_shape(
    rng: np.random.Generator, config: SimulationConfig, step: float, pixel: float
) -> Voxels:
    height, width = rng.uniform(*config.field_mm, 2).tolist()
    if config.shape_zyx is not None:
        return config.shape_zyx
    side = min(round(width / pixel), MAX_VOXELS_A_SIDE)
    return round(height / step), side, side


def scan(
    rng: np.random.Generator,
    protocol: Protocol,
    drawn_hu: Float[np.ndarray, "drawn_z y x"],
    scale: float,
) -> Int[np.ndarray, "z y x"]:
    """Return the HU, int16, that ``protocol`` records of a drawn patient.

    It works slice by slice, so that a whole trunk takes little more memory than its result.

    Args:
        rng: source of the noise.
        protocol: of this patient.
        drawn_hu: the patient at ``protocol.drawn_shape``.
        scale: factor on the noise.
    """
    rays = Rays.through(protocol.shape_zyx, protocol.spacing_zyx_mm)
    weights = slice_profile(protocol)
    # Cells of some mm carry what depends on whole rays: noise and beam hardening.
    slices = (_slice(drawn_hu, k, weights, protocol) for k in range(protocol.shape_zyx[0]))
    cells = rays.cells(slices)
    streaks = hardened(rays, cells, protocol.hardening)
    strength = noise_strength(rays, cells, protocol.body_mm)
    texture = NoiseTexture.of(
        protocol.shape_zyx[1:], protocol.spacing_zyx_mm[1:], protocol.noise_grain_mm, len(strength)
    )
    recorded = np.empty(protocol.shape_zyx, np.int16)
    for k in range(protocol.shape_zyx[0]):
        plane = np.minimum(_slice(drawn_hu, k, weights, protocol), BRIGHTEST_HU)
        plane = _blurred(plane + upsampled(rays, streaks, k), protocol)
        plane += scale * protocol.noise_hu * texture.draw(rng, upsampled(rays, strength, k))
        recorded[k] = np.clip(np.rint(plane + protocol.offset_hu), *HU_RANGE)
    return recorded


def slice_profile(protocol: Protocol) -> Float[np.ndarray, " drawn"]:
    """Return the weights of the drawn slices around one slice, an odd surplus on either side."""
    half = 0.5 * max(protocol.thickness_mm / protocol.drawn_spacing_mm[0], 1e-6)
    extra = max(math.ceil(half - protocol.substeps / 2), 0)
    edges = np.arange(-extra, protocol.substeps + extra + 1) - protocol.substeps / 2
    weights = np.diff(np.clip(edges, -half, half))
    normed: Float[np.ndarray, " drawn"] = (weights / weights.sum()).astype(np.float32)
    return normed


def _slice(
    drawn_hu: Field, k: int, weights: Float[np.ndarray, " drawn"], protocol: Protocol
) -> Plane:
    # Beyond its ends the patient goes on as in the last slice.
    first = k * protocol.substeps - (len(weights) - protocol.substeps) // 2
    chosen = np.clip(np.arange(first, first + len(weights)), 0, len(drawn_hu) - 1)
    plane = np.zeros(drawn_hu.shape[1:], np.float32)
    for weight, at in zip(weights, chosen, strict=True):
        plane += weight * drawn_hu[at]
    gain = DENSITY_BY_KILOVOLTS[protocol.kilovolts] - 1
    plane += np.float32(gain) * np.maximum(plane - DENSE_HU, 0)
    return plane


def _blurred(plane: Plane, protocol: Protocol) -> Plane:
    sigma = protocol.blur_mm / protocol.spacing_zyx_mm[1]
    blurred: Plane = ndimage.gaussian_filter(plane, sigma, truncate=3.0)
    if protocol.sharpening > 0:
        wide = ndimage.gaussian_filter(blurred, 2 * sigma, truncate=2.5)
        blurred += np.float32(protocol.sharpening) * (blurred - wide)
    return blurred


def average_slices(
    field: Float[np.ndarray, "drawn_z y x"], substeps: int
) -> Float[np.ndarray, "z y x"]:
    """Return the mean of each run of ``substeps`` slices."""
    if substeps == 1:
        return field.astype(np.float32)
    z, y, x = field.shape
    mean: Float[np.ndarray, "z y x"] = field.reshape(z // substeps, substeps, y, x).mean(
        axis=1, dtype=np.float32
    )
    return mean
