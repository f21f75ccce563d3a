"""Cohorts to export: simulated patients of several primaries, one scan stored in other axes."""

from pathlib import Path

import numpy as np

from osteomet.data.manifest import read_cohort
from osteomet.io.scan import read_scan
from osteomet.io.volumes import read_labels, write_labels, write_volume
from osteomet.simulate import SimulationConfig, write_cohort
from osteomet.volume import Volume

SPLITS = {"train": 0.5, "val": 0.25, "test": 0.25}
SMALL = SimulationConfig(field_mm=(40.0, 42.0), lesion_free_share=0.3)


def simulated(folder: Path) -> Path:
    """Six patients of two centres on all sides of the split; the last has no lesion.

    The second scan is stored along y, x and z, from left to right.
    """
    path = write_cohort(folder, 6, seed=5, config=SMALL, splits=SPLITS)
    case = read_cohort(path).cases[1]
    assert case.mask is not None
    write_volume(case.image, in_other_axes(read_scan(case.image).volume))
    write_labels(case.mask, in_other_axes(read_labels(case.mask)))
    return path


def in_other_axes(volume: Volume) -> Volume:
    affine = volume.affine.copy()
    affine[:3, :3] = volume.affine[:3, [1, 2, 0]]
    affine[:3, 3] += affine[:3, 1] * (volume.shape[2] - 1)
    affine[:3, 1] *= -1
    return Volume(volume.voxels.transpose(1, 2, 0)[:, ::-1], affine)


def turned(volume: Volume, degrees: float) -> Volume:
    """Return the same voxels, with the patient turned about the long axis."""
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return Volume(volume.voxels, turn @ volume.affine)
