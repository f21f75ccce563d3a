"""Noise of a slice, from white noise shaped by frequency, with a strength for each direction."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex, Float
from scipy import fft

LOW_FREQUENCY = 0.02
"""Cycles per mm below which the noise of a scan stops falling."""

ALONG_SLICES = 0.3
"""Correlation of neighbouring slices: the detector's rows are interpolated."""


@dataclass(eq=False)
class NoiseTexture:
    """Filters that turn white noise into that of filtered back projection.

    Attributes:
        shape: of a slice.
        padded: of the transforms.
        filters: one per sector of directions; they sum to the whole spectrum.
        last: white noise of the slice before; None at the first.
    """

    shape: tuple[int, int]
    padded: tuple[int, int]
    filters: Float[np.ndarray, "sectors fy fx"]
    last: Float[np.ndarray, "py px"] | None = None

    @classmethod
    def of(
        cls,
        shape: tuple[int, int],
        spacing_mm: tuple[float, float],
        grain_mm: float,
        sectors: int,
    ) -> "NoiseTexture":
        """Make the filters of a kernel.

        The ramp filter of reconstruction leaves a power in proportion to the frequency, and
        the kernel takes high frequencies away.

        Args:
            shape: of a slice.
            spacing_mm: of its pixels.
            grain_mm: standard deviation of the kernel.
            sectors: of directions, from that of x towards y.
        """
        padded = (fft.next_fast_len(shape[0], real=True), fft.next_fast_len(shape[1], real=True))
        fy = fft.fftfreq(padded[0], spacing_mm[0])[:, None]
        fx = fft.rfftfreq(padded[1], spacing_mm[1])[None]
        frequency = np.hypot(fy, fx)
        spectrum = np.sqrt(frequency + LOW_FREQUENCY) * np.exp(
            -2 * (np.pi * grain_mm * frequency) ** 2
        )
        spectrum[0, 0] = 0
        impulse = fft.irfft2(spectrum, padded)
        spectrum /= np.sqrt((impulse**2).sum())
        angle = np.arctan2(fy, fx) % np.pi
        filters = []
        for k in range(sectors):
            apart = np.abs(angle - (k + 0.5) * np.pi / sectors)
            apart = np.minimum(apart, np.pi - apart) * sectors / np.pi
            filters.append(spectrum * np.cos(np.pi / 2 * np.minimum(apart, 1)) ** 2)
        return cls(shape, padded, np.stack(filters).astype(np.float32))

    def draw(
        self, rng: np.random.Generator, strength: Float[np.ndarray, "sectors y x"]
    ) -> Float[np.ndarray, "y x"]:
        """Return the noise of the next slice; its deviation is 1 where the strengths are."""
        white: Float[np.ndarray, "py px"] = rng.standard_normal(self.padded, dtype=np.float32)
        if self.last is not None:
            fresh = np.float32(np.sqrt(1 - ALONG_SLICES**2))
            white = fresh * white + np.float32(ALONG_SLICES) * self.last
        self.last = white
        waves: Complex[np.ndarray, "fy fx"] = fft.rfft2(white)
        y, x = self.shape
        noise = np.zeros(self.shape, np.float32)
        for one, here in zip(self.filters, strength, strict=True):
            noise += here * fft.irfft2(waves * one, self.padded)[:y, :x]
        return noise
