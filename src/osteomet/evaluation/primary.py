"""How well the primary tumour is told, per patient.

The AUC counts every pair of a lung and another patient: 1 where the lung patient's ``p_lung``
is higher, one half where both are equal. Equal values are common here, since a patient without
a detected lesion has none, so what those get is stated and not left to sorting.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from osteomet.errors import AnnotationError
from osteomet.evaluation.statistics import ratio, weighted_mean
from osteomet.findings import PrimaryTumour

UNDECIDED = 0.5
"""``p_lung`` of a patient for whom none was given, where such patients are counted."""


@dataclass(frozen=True)
class PatientPrimary:
    """What is true of a patient and what was predicted.

    Attributes:
        p_lung: mean over the patient's scans that have one; None where none has.
    """

    patient_id: str
    primary: PrimaryTumour
    p_lung: float | None


def merge_scans(
    patient_id: str, primaries: Sequence[PrimaryTumour], p_lung: Sequence[float | None]
) -> PatientPrimary:
    """Make one patient of several scans.

    Raises:
        AnnotationError: the scans name different primaries.
    """
    if len(set(primaries)) != 1:
        raise AnnotationError(
            f"patient {patient_id} has scans with primaries {', '.join(sorted(set(primaries)))}; "
            "expected one primary per patient: correct the cohort"
        )
    given = [value for value in p_lung if value is not None]
    return PatientPrimary(patient_id, primaries[0], float(np.mean(given)) if given else None)


def auc(
    is_lung: Bool[np.ndarray, " n"],
    p_lung: Float[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"],
) -> float:
    """Return the area under the ROC curve, ties counting one half; NaN without both classes.

    scikit-learn's ``roc_auc_score`` gives the same, a hundred times slower, and that is too slow
    for thousands of resamples.

    Source: Hanley and McNeil, Radiology 1982; 143: 29-36.
    """
    values, place = np.unique(p_lung, return_inverse=True)
    lung = np.bincount(place, weights * is_lung, len(values))
    other = np.bincount(place, weights * ~is_lung, len(values))
    won = lung * (np.cumsum(other) - other / 2)
    return ratio(float(won.sum()), float(lung.sum() * other.sum()))


def brier(
    is_lung: Bool[np.ndarray, " n"],
    p_lung: Float[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"],
) -> float:
    """Return the mean squared distance of ``p_lung`` from the truth; 0.25 is what 0.5 gets."""
    return weighted_mean((p_lung - is_lung) ** 2, weights)
