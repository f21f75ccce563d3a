"""How well masks cover lesions: the Dice coefficient, per lesion, per patient and pooled.

A Dice says nothing unless it says over what it was taken, so each has its own name:

- per matched lesion: lesions that were hit only; the shape, once found.
- per lesion: all lesions, a miss counting 0; shape and detection together.
- per patient: union of the patient's masks, over all scans, against the union of the true ones;
  patients without a true lesion have no Dice and are left out, their number stated.
- pooled: all voxels of all patients in one; large lesions decide it.

Sensitivity, specificity and accuracy of voxels are there for comparison with papers that print
them. Of a scan some 99.9 % is no lesion, so that specificity and accuracy are close to 1
whatever a program finds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from osteomet.evaluation.statistics import ratio


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
        scan_ml: of the whole scan, less ignored regions.
    """

    shared_ml: float = 0.0
    predicted_ml: float = 0.0
    true_ml: float = 0.0
    scan_ml: float = 0.0

    def __add__(self, other: "Overlap") -> "Overlap":
        return Overlap(
            self.shared_ml + other.shared_ml,
            self.predicted_ml + other.predicted_ml,
            self.true_ml + other.true_ml,
            self.scan_ml + other.scan_ml,
        )

    @property
    def dice(self) -> float:
        return ratio(2 * self.shared_ml, self.predicted_ml + self.true_ml)

    @property
    def sensitivity(self) -> float:
        return ratio(self.shared_ml, self.true_ml)

    @property
    def specificity(self) -> float:
        wrong = self.predicted_ml - self.shared_ml
        free = self.scan_ml - self.true_ml
        return ratio(free - wrong, free)

    @property
    def accuracy(self) -> float:
        wrong = self.predicted_ml + self.true_ml - 2 * self.shared_ml
        return ratio(self.scan_ml - wrong, self.scan_ml)


def pooled_overlap(
    table: Float[np.ndarray, "patients 4"], weights: Float[np.ndarray, " patients"]
) -> Overlap:
    """Return all voxels of an ``overlap_table``, each patient counted ``weights`` times."""
    return Overlap(*(weights @ table).tolist())


def overlap_table(patients: Sequence[Overlap]) -> Float[np.ndarray, "patients 4"]:
    """Return one row a patient, in the order of the fields of ``Overlap``."""
    rows = [[one.shared_ml, one.predicted_ml, one.true_ml, one.scan_ml] for one in patients]
    return np.array(rows, dtype=np.float64).reshape(-1, 4)
