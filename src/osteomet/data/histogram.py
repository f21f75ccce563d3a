"""Whether a scan's values are Hounsfield units that scanners write, and how noisy they are.

Air, fat and muscle have known values, so their peaks tell a shifted or rescaled scan, and the
values that do not occur tell one that went through 8 bits or a window.
"""

import numpy as np
from jaxtyping import Float, Integer, Num
from scipy import ndimage

from osteomet.checkup import HUMeasures

RANGE_HU = (-1500, 4096)
"""Range of the histogram; values outside are counted at its ends."""

PADDING_HU = -1024
"""Written outside the field of view, and no measurement of air."""

AIR_HU, FAT_HU, SOFT_HU = (-1150, -920), (-180, -30), (-25, 200)
"""Where the peak of each is looked for."""

LEAST_SHARE = 0.001
"""A peak of less than this share of the voxels is none."""

TISSUE_HU, LEAST_PER_VALUE = (-120, 80), 10
"""Where every whole value should occur, if there are this many voxels for each."""

SMOOTH_HU = 4.0
NOISE_PLANES = 24
NOISE_SQUARE_VOX = 7
NOISE_TISSUE_HU = (-20.0, 150.0)
NOISE_MOST_HU = 200.0
LEAST_SQUARES = 300

Counts = Integer[np.ndarray, " hu"]


def measure_hu(voxels: Num[np.ndarray, "z y x"]) -> HUMeasures:
    """Measure the values of a scan; reads it plane by plane."""
    low, high = float(voxels.min()), float(voxels.max())
    counts = _histogram(voxels)
    noise, grain = _noise(voxels)
    return HUMeasures(
        low=low,
        high=high,
        step_hu=_step(counts),
        at_high_share=float(sum(int((plane == high).sum()) for plane in voxels) / voxels.size),
        air_hu=_peak(counts, AIR_HU),
        fat_hu=_peak(counts, FAT_HU),
        soft_tissue_hu=_peak(counts, SOFT_HU),
        noise_hu=noise,
        noise_grain=grain,
    )


def _histogram(voxels: Num[np.ndarray, "z y x"]) -> Counts:
    low, high = RANGE_HU
    counts = np.zeros(high - low, dtype=np.int64)
    for plane in voxels:
        whole = np.rint(plane).astype(np.int32).clip(low, high - 1)
        counts += np.bincount((whole - low).ravel(), minlength=high - low)
    return counts


def _peak(counts: Counts, limits: tuple[int, int]) -> float | None:
    """Return the commonest value inside limits; None where it is no peak of its own."""
    hu = np.arange(*RANGE_HU)
    measured = np.where(hu == PADDING_HU, 0, counts)
    smooth = ndimage.gaussian_filter1d(measured.astype(float), SMOOTH_HU)
    within = (hu >= limits[0]) & (hu <= limits[1])
    if measured[within].sum() < LEAST_SHARE * counts.sum():
        return None
    place = int(np.flatnonzero(within)[smooth[within].argmax()])
    # At a limit the values still rise towards a peak that lies elsewhere.
    return None if hu[place] in limits else float(hu[place])


def _step(counts: Counts) -> float:
    """Return the mean distance between neighbouring values of fat and muscle."""
    low, high = TISSUE_HU
    tissue = counts[low - RANGE_HU[0] : high - RANGE_HU[0]]
    if tissue.sum() < LEAST_PER_VALUE * len(tissue):
        return 1.0
    return float(len(tissue) / np.count_nonzero(tissue))


def _noise(voxels: Num[np.ndarray, "z y x"]) -> tuple[float | None, float | None]:
    """Return the commonest standard deviation in squares of soft tissue, and its grain.

    Edges only raise the deviation, so its commonest value is that of homogeneous tissue.

    Source: Christianson et al., AJR 2015; 205: W93-W99.
    """
    chosen = np.linspace(0, len(voxels) - 1, min(NOISE_PLANES, len(voxels))).round().astype(int)
    deviations, grains = [], []
    for index in np.unique(chosen):
        plane = voxels[index].astype(np.float64)
        deviation, grain, soft = _local_noise(plane)
        deviations.append(deviation[soft])
        grains.append(grain[soft])
    found = np.concatenate(deviations)
    if len(found) < LEAST_SQUARES:
        return None, None
    counts, edges = np.histogram(found, bins=400, range=(0, NOISE_MOST_HU))
    place = int(ndimage.gaussian_filter1d(counts.astype(float), 2).argmax())
    noise = float((edges[place] + edges[place + 1]) / 2)
    typical = np.abs(found - noise) <= 0.3 * noise
    grain = np.concatenate(grains)[typical]
    return noise, float(np.median(grain)) if len(grain) else None


def _local_noise(
    plane: Float[np.ndarray, "y x"],
) -> tuple[Float[np.ndarray, "y x"], Float[np.ndarray, "y x"], np.ndarray]:
    """Return deviation and correlation of neighbours around each voxel, and which are soft."""
    size = NOISE_SQUARE_VOX
    mean = ndimage.uniform_filter(plane, size)
    variance = (ndimage.uniform_filter(plane**2, size) - mean**2).clip(0)
    steps = ndimage.uniform_filter(np.diff(plane, axis=1, append=plane[:, -1:]) ** 2, size)
    grain = 1 - steps / (2 * variance + 1e-6)
    low, high = NOISE_TISSUE_HU
    soft = (mean > low) & (mean < high) & (variance > 0)
    return np.sqrt(variance), grain, soft
