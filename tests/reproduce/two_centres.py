"""The smallest reproduction there is: two centres of blocks with a sphere each, few channels."""

from pathlib import Path

import numpy as np

from osteomet.config import Config, parse_config
from osteomet.io.volumes import write_labels, write_volume
from osteomet.reproduce.run import Reproduced, reproduce
from osteomet.volume import Volume

SIDE = 40
CENTRES = {"A": 4, "B": 14}
"""Patients; half of them have lung cancer. Of B's fourteen, two validate."""


def two_centres(folder: Path, centres: dict[str, int] | None = None) -> Path:
    """Write a cohort; spheres of lung cancer are dark, the others bright."""
    rows = ["patient_id,image,mask,centre,primary"]
    for centre, count in (centres or CENTRES).items():
        for number in range(count):
            name, is_lung = f"{centre}{number}", number % 2 == 0
            rng = np.random.default_rng([ord(centre), number])
            hu = rng.normal(100, 30, (SIDE,) * 3)
            hu[:, :6] += 500  # bone, without which no place is searched
            middle = rng.uniform(12, SIDE - 12, 3)
            distance = np.linalg.norm(np.indices(hu.shape).T - middle, axis=-1).T
            hu[distance < 5] += -150 if is_lung else 600
            lesion = (distance < 5).astype(np.int16)
            write_volume(folder / f"{name}.nii.gz", Volume(hu.astype(np.int16), np.eye(4)))
            write_labels(folder / f"{name}m.nii.gz", Volume(lesion, np.eye(4)))
            primary = "lung" if is_lung else "other"
            rows.append(f"{name},{name}.nii.gz,{name}m.nii.gz,{centre},{primary}")
    (folder / "cohort.csv").write_text("\n".join(rows))
    return folder / "cohort.csv"


def tiny_config() -> Config:
    """Return six steps of a network that finds hardly anything, which is all that is needed."""
    return parse_config(
        {
            "model": {
                "backbone": {"dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
                "neck": {"levels": [2, 3], "channels": 8},
                "anchors": {"sizes_mm": [[8.0], [16.0]]},
                "rpn": {"proposals_train": 16, "proposals_test": 16},
                "box_head": {"pool_size": 3, "hidden": 16, "rois_per_image": 8},
                "mask_head": {"size": 8, "channels": 4, "convolutions": 1, "rois_per_image": 2},
            },
            "data": {"patch_size": [32, 32, 32], "val_patches": 2, "workers": 0},
            "training": {
                **{"batch_size": 1, "max_steps": 6, "validate_every": 3, "checkpoint_every": 2},
                **{"warmup_steps": 2, "roi_warmup_steps": 4},
            },
            "inference": {"tile_size": [64, 64, 64], "overlap_vox": 16},
        },
        "test",
    )


def reproduce_tiny(cohort: Path, out: Path, *architectures: str) -> Reproduced:
    """Reproduce with few bootstrap draws, on the CPU."""
    return reproduce(
        cohort, out, tiny_config(), architectures=architectures, device="cpu", resamples=20
    )
