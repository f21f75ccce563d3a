"""How well it is told what reported lesions look like, where the cohort notes it."""

import numpy as np

from osteomet.evaluation.primary import auc
from osteomet.evaluation.scan import LOOKS
from osteomet.evaluation.scored import ScoredCohort
from osteomet.evaluation.statistics import Estimate, Family, family_of_one

APPEARANCE = "What reported lesions look like"


def appearance_families(cohort: ScoredCohort) -> list[Family]:
    """Return the AUC of each look over the lesions that were reported and of which it is noted.

    A figure is left out where nothing is noted or told. Lesions that were missed are no part of
    it: sensitivity counts them.
    """
    told = np.concatenate([scan.told for scan in cohort.scans])
    noted = np.concatenate([scan.noted for scan in cohort.scans])
    return [
        _family(cohort, name, told[:, column], noted[:, column])
        for column, name in enumerate(LOOKS)
        if (np.isfinite(told[:, column]) & (noted[:, column] >= 0)).any()
    ]


def _family(cohort: ScoredCohort, name: str, told: np.ndarray, noted: np.ndarray) -> Family:
    known = np.isfinite(told) & (noted >= 0)
    has_it, said, owner = noted[known] == 1, told[known], cohort.lesion_owner[known]
    described = Estimate(f"AUC, {name}", len(said), "lesions", int(has_it.sum()), f"events: {name}")
    return family_of_one(described, lambda weights: auc(has_it, said, weights[owner]), APPEARANCE)
