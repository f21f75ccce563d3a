"""How well masks cover lesions: the Dice coefficient, per lesion, per patient and pooled.

A Dice says nothing unless it says over what it was taken, so each has its own name:

- per matched lesion: lesions that were hit only; the shape, once found.
- per lesion: all lesions, a miss counting 0; shape and detection together.
- per patient: union of the patient's masks, over all scans, against the union of the true ones;
  patients without a true lesion have no Dice and are left out, their number stated.
- pooled: all voxels of all patients in one; large lesions decide it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer

from osteomet.evaluation.statistics import ratio
from osteomet.findings import RunLengthMask


def dice(a: Bool[np.ndarray, "*shape"], b: Bool[np.ndarray, "*shape"]) -> float:
    """Return ``2 |a and b| / (|a| + |b|)``; NaN where both are empty."""
    shared = int(np.count_nonzero(a & b))
    return ratio(2.0 * shared, float(np.count_nonzero(a) + np.count_nonzero(b)))


@dataclass(frozen=True)
class Overlap:
    """Voxels, in ml, so that scans of different spacing add up.

    Attributes:
        shared_ml: in both masks.
        predicted_ml: in the predicted mask.
        true_ml: in the true one.
    """

    shared_ml: float = 0.0
    predicted_ml: float = 0.0
    true_ml: float = 0.0

    def __add__(self, other: "Overlap") -> "Overlap":
        return Overlap(
            self.shared_ml + other.shared_ml,
            self.predicted_ml + other.predicted_ml,
            self.true_ml + other.true_ml,
        )

    @property
    def dice(self) -> float:
        return ratio(2 * self.shared_ml, self.predicted_ml + self.true_ml)


def lesion_dice(
    mask: RunLengthMask | None,
    instances: Integer[np.ndarray, "z y x"],
    lesion_id: int,
    box: Float[np.ndarray, " 6"],
    ignore: Bool[np.ndarray, "z y x"] | None = None,
) -> float:
    """Return the Dice of one predicted mask and one true lesion; 0 without a mask.

    Args:
        mask: the prediction, on the grid of ``instances``.
        instances: label map of the scan.
        lesion_id: the lesion's value in it.
        box: the lesion's voxel-edge box, which spares a search of the scan.
        ignore: predicted voxels in here and in no lesion do not count.
    """
    if mask is None:
        return 0.0
    region = mask_region(mask)
    predicted = _counted(
        mask.decode(), instances[region], None if ignore is None else ignore[region]
    )
    z1, y1, x1, z2, y2, x2 = box.astype(int).tolist()
    true = np.count_nonzero(instances[z1:z2, y1:y2, x1:x2] == lesion_id)
    shared = np.count_nonzero(predicted & (instances[region] == lesion_id))
    return ratio(2.0 * shared, float(np.count_nonzero(predicted) + true))


def union_of_masks(
    masks: Sequence[RunLengthMask | None], shape_zyx: tuple[int, int, int]
) -> Bool[np.ndarray, "z y x"]:
    """Return the voxels of the scan's grid that any mask covers."""
    union = np.zeros(shape_zyx, dtype=bool)
    for mask in masks:
        if mask is not None:
            union[mask_region(mask)] |= mask.decode()
    return union


def scan_overlap(
    predicted: Bool[np.ndarray, "z y x"],
    instances: Integer[np.ndarray, "z y x"],
    voxel_ml: float,
    ignore: Bool[np.ndarray, "z y x"] | None = None,
) -> Overlap:
    """Count a scan's voxels; predicted ones in an ignore region and in no lesion do not count."""
    true = instances > 0
    counted = _counted(predicted, instances, ignore)
    return Overlap(
        float(np.count_nonzero(counted & true)) * voxel_ml,
        float(np.count_nonzero(counted)) * voxel_ml,
        float(np.count_nonzero(true)) * voxel_ml,
    )


def pooled_dice(patients: Sequence[Overlap], weights: Float[np.ndarray, " patients"]) -> float:
    """Return the Dice of all voxels together, each patient counted ``weights`` times."""
    shared = np.array([patient.shared_ml for patient in patients])
    both = np.array([patient.predicted_ml + patient.true_ml for patient in patients])
    return ratio(2 * float(weights @ shared), float(weights @ both))


def mask_region(mask: RunLengthMask) -> tuple[slice, slice, slice]:
    """Return where a mask's array lies in its scan."""
    z, y, x = (
        slice(low, low + size) for low, size in zip(mask.offset_zyx, mask.shape_zyx, strict=True)
    )
    return z, y, x


def _counted(
    predicted: Bool[np.ndarray, "z y x"],
    instances: Integer[np.ndarray, "z y x"],
    ignore: Bool[np.ndarray, "z y x"] | None,
) -> Bool[np.ndarray, "z y x"]:
    return predicted if ignore is None else predicted & ((instances > 0) | ~ignore)
