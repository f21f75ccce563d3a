"""A plain trunk with a spine, in which everything's place and HU is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from osteomet.data.manifest import Case
from osteomet.findings import PrimaryTumour
from osteomet.io.volumes import write_labels, write_volume
from osteomet.volume import Volume

SPACING_MM = 2.0
SHAPE = (40, 70, 80)
MIDDLE = (35, 40)
SPINE = (48, 40)
AIR, FAT, MUSCLE, MARROW, CORTEX, LUNG = -1000, -100, 50, 120, 700, -850
NOISE_HU = 15.0

Ball = tuple[tuple[int, int, int], float]

IN_SPINE: Ball = ((20, *SPINE), 8.0)
IN_MUSCLE: Ball = ((20, 22, 40), 8.0)
IN_AIR: Ball = ((20, 5, 5), 8.0)


def distance_mm(centre: tuple[int, int], shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Distance of each column of voxels from an axis along z."""
    y, x = np.ogrid[: shape[1], : shape[2]]
    distance: np.ndarray = np.hypot(y - centre[0], x - centre[1]) * SPACING_MM
    return np.broadcast_to(distance, shape)


def skin() -> np.ndarray:
    y, x = np.ogrid[: SHAPE[1], : SHAPE[2]]
    inside = ((y - MIDDLE[0]) / 28) ** 2 + ((x - MIDDLE[1]) / 34) ** 2 <= 1
    return np.broadcast_to(inside, SHAPE)


def trunk(*, noise_hu: float = NOISE_HU, seed: int = 0, lungs: bool = False) -> Volume:
    voxels = np.full(SHAPE, AIR, dtype=float)
    voxels[skin()] = FAT
    y, x = np.ogrid[: SHAPE[1], : SHAPE[2]]
    muscle = ((y - MIDDLE[0]) / 24) ** 2 + ((x - MIDDLE[1]) / 30) ** 2 <= 1
    voxels[np.broadcast_to(muscle, SHAPE)] = MUSCLE
    if lungs:
        for side in (24, 56):
            voxels[distance_mm((32, side)) <= 22] = LUNG
    voxels[distance_mm(SPINE) <= 18] = CORTEX
    voxels[distance_mm(SPINE) <= 14] = MARROW
    voxels += np.random.default_rng(seed).normal(0, noise_hu, SHAPE)
    return Volume.from_spacing(
        np.rint(voxels).astype(np.int16), (SPACING_MM,) * 3, origin_xyz_mm=(-80.0, -70.0, 300.0)
    )


def balls(*lesions: Ball) -> np.ndarray:
    labels = np.zeros(SHAPE, dtype=np.int16)
    grid = np.indices(SHAPE)
    for label, (centre, radius_mm) in enumerate(lesions, start=1):
        apart = np.sqrt(((grid - np.reshape(centre, (3, 1, 1, 1))) ** 2).sum(axis=0)) * SPACING_MM
        labels[apart <= radius_mm] = label
    return labels


def write_trunk(
    folder: Path,
    scan_id: str,
    volume: Volume | None = None,
    labels: np.ndarray | None = None,
    **row: object,
) -> Case:
    """Write a scan and its mask, and return its row; ``row`` changes the row."""
    volume = trunk(seed=sum(scan_id.encode())) if volume is None else volume
    labels = balls(IN_SPINE) if labels is None else labels
    image, mask = folder / f"{scan_id}.nii.gz", folder / f"{scan_id}_mask.nii.gz"
    write_volume(image, volume)
    write_labels(mask, volume.with_voxels(labels))
    case = Case(scan_id, scan_id, image, mask, "A", PrimaryTumour.LUNG)
    return replace(case, **row)  # type: ignore[arg-type] # fields of Case, by name
