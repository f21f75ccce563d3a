"""What a CT scanner makes of a patient: sampling, blur, noise and a shift of the HU scale.

Two centres, as in a cohort of two hospitals: ``A`` reconstructs thin and smooth, mostly
with contrast medium; ``B`` thicker and with a sharper, noisier kernel.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import ndimage

from osteomet.simulate.noise import Field, white

HU_RANGE = (-1024, 3071)
MAX_VOXELS_A_SIDE = 160
MAX_RENDER_STEP_MM = 1.3


@dataclass(frozen=True)
class Protocol:
    """How one patient is scanned.

    Attributes:
        centre: ``A`` or ``B``.
        spacing_zyx_mm: of the voxels of the scan.
        shape_zyx: of the scan.
        substeps: drawn slices that one slice of the scan averages.
        contrast_hu: what contrast medium adds in arteries; 0 without.
        blur_mm: standard deviation of the in-plane point spread.
        sharpening: share of high frequencies that the kernel adds.
        noise_hu: standard deviation of the noise in soft tissue.
        noise_grain_mm: size of the noise's grain.
        offset_hu: error of the HU scale.
    """

    centre: str
    spacing_zyx_mm: tuple[float, float, float]
    shape_zyx: tuple[int, int, int]
    substeps: int
    contrast_hu: float
    blur_mm: float
    sharpening: float
    noise_hu: float
    noise_grain_mm: float
    offset_hu: float

    @property
    def drawn_shape(self) -> tuple[int, int, int]:
        z, y, x = self.shape_zyx
        return z * self.substeps, y, x

    @property
    def drawn_spacing_mm(self) -> tuple[float, float, float]:
        z, y, x = self.spacing_zyx_mm
        return z / self.substeps, y, x


def draw_protocol(rng: np.random.Generator, field_mm: tuple[float, float]) -> Protocol:
    """Draw a centre and how it scans one patient.

    Args:
        rng: source of randomness.
        field_mm: range of the side of the field of view.
    """
    thin = rng.random() < 0.5
    pixel = float(rng.uniform(0.7, 0.9) if thin else rng.uniform(0.78, 1.0))
    slices = (1.0, 1.25, 1.5, 2.0) if thin else (1.0, 1.5, 2.0, 2.5, 3.0)
    step = float(rng.choice(slices))
    height, width = rng.uniform(*field_mm, 2).tolist()
    side = min(round(width / pixel), MAX_VOXELS_A_SIDE)
    phase = rng.choice([0.0, 60.0, 150.0], p=[0.25, 0.45, 0.3] if thin else [0.6, 0.3, 0.1])
    return Protocol(
        centre="A" if thin else "B",
        spacing_zyx_mm=(step, pixel, pixel),
        shape_zyx=(round(height / step), side, side),
        substeps=math.ceil(step / MAX_RENDER_STEP_MM),
        contrast_hu=float(phase * rng.uniform(0.7, 1.3)),
        blur_mm=float(rng.uniform(0.55, 0.75) if thin else rng.uniform(0.42, 0.6)),
        sharpening=float(rng.uniform(0.0, 0.25) if thin else rng.uniform(0.3, 0.8)),
        noise_hu=float(rng.uniform(9, 20) if thin else rng.uniform(14, 32)),
        noise_grain_mm=float(rng.uniform(0.6, 0.85) if thin else rng.uniform(0.45, 0.65)),
        offset_hu=float(rng.normal(0, 3) if thin else rng.normal(-6, 4)),
    )


def scan(
    rng: np.random.Generator,
    protocol: Protocol,
    drawn_hu: Float[np.ndarray, "drawn_z y x"],
    scale: float,
) -> Int[np.ndarray, "z y x"]:
    """Return the HU, int16, that ``protocol`` records of a drawn patient.

    Args:
        rng: source of the noise.
        protocol: of this patient.
        drawn_hu: the patient at ``protocol.drawn_shape``.
        scale: factor on the noise.
    """
    pixel = protocol.spacing_zyx_mm[1]
    hu = average_slices(drawn_hu, protocol.substeps)
    sigma = protocol.blur_mm / pixel
    hu = ndimage.gaussian_filter(hu, (0, sigma, sigma), truncate=3.0)
    if protocol.sharpening > 0:
        hu += protocol.sharpening * (
            hu - ndimage.gaussian_filter(hu, (0, 2 * sigma, 2 * sigma), truncate=2.5)
        )
    hu += scale * protocol.noise_hu * _noise(rng, protocol)
    hu += protocol.offset_hu
    recorded: Int[np.ndarray, "z y x"] = np.clip(np.rint(hu), *HU_RANGE).astype(np.int16)
    return recorded


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


def _noise(rng: np.random.Generator, protocol: Protocol) -> Field:
    # The ramp filter of reconstruction leaves little noise at low frequencies, the kernel
    # little at high ones: a difference of two Gaussians has that spectrum.
    sigma = protocol.noise_grain_mm / protocol.spacing_zyx_mm[1]
    field = white(rng, protocol.shape_zyx)
    grain = ndimage.gaussian_filter(field, (0.45, sigma, sigma), truncate=3.0)
    grain -= 0.7 * ndimage.gaussian_filter(grain, (0, 2 * sigma, 2 * sigma), truncate=2.5)
    grain /= max(float(grain.std()), 1e-6)
    noise: Field = grain
    return noise
