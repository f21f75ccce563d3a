"""Small scans with known lesions, written as the files that a cohort names."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from osteomet.config import Config
from osteomet.data.manifest import Case
from osteomet.findings import PrimaryTumour
from osteomet.io.volumes import write_labels, write_volume
from osteomet.volume import Volume

BONE_HU = 300
LESION_HU = 1000
"""Nothing else is as dense, so a patch's image shows where its lesions are."""

SHAPE = (56, 48, 40)

LESIONS = (((8, 10, 6), (6, 5, 4)), ((30, 20, 20), (12, 14, 9)), ((44, 36, 30), (3, 4, 5)))
"""Corner and size of the boxes that are lesions 1, 2 and 3."""

CONFIG = Config().updated(
    {
        "data.patch_size": (32, 32, 32),
        "model.neck.levels": (2, 3),
        "model.anchors.sizes_mm": ((8.0,), (16.0,)),
        "preprocess.window_hu": (-1024.0, 2000.0),
        "preprocess.mean_hu": 0.0,
        "preprocess.std_hu": 1.0,  # so that patches show HU
        "augment.intensity_probability": 0.0,
        "augment.thick_slices_probability": 0.0,
        "augment.translate_mm": 0.0,
    }
)

Box = tuple[tuple[int, int, int], tuple[int, int, int]]


def lesion_map(lesions: Sequence[Box] = LESIONS, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    labels = np.zeros(shape, dtype=np.int16)
    for label, ((z, y, x), (dz, dy, dx)) in enumerate(lesions, start=1):
        labels[z : z + dz, y : y + dy, x : x + dx] = label
    return labels


def scan_volume(
    labels: np.ndarray, spacing_zyx_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> Volume:
    noise = np.random.default_rng(0).integers(-20, 20, labels.shape)
    voxels = (noise - 1000).astype(np.int16)
    voxels[2:-2, 2:-2, 2:-2] += 1000 + BONE_HU
    voxels[labels > 0] = LESION_HU
    return Volume.from_spacing(voxels, spacing_zyx_mm, origin_xyz_mm=(-20.0, 7.0, 100.0))


def write_case(
    folder: Path,
    scan_id: str = "a",
    lesions: Sequence[Box] = LESIONS,
    *,
    primary: PrimaryTumour = PrimaryTumour.LUNG,
    patient_id: str | None = None,
) -> Case:
    """Write a scan with a mask, and return its row."""
    labels = lesion_map(lesions)
    volume = scan_volume(labels)
    image, mask = folder / f"{scan_id}.nii", folder / f"{scan_id}_mask.nii"
    write_volume(image, volume)
    write_labels(mask, volume.with_voxels(labels))
    return Case(scan_id, patient_id or scan_id, image, mask, "A", primary)
