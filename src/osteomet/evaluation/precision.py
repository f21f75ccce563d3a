"""Average precision of a set of scans: the area under precision against sensitivity.

Precision is the highest that is reached at a sensitivity or beyond it, read at 101 sensitivities
from 0 to 1; what no threshold reaches counts 0. So the figure compares with those of nnDetection
and of COCO. It has no place for scans without lesions beyond their false positives, which FROC
shows per scan.

Source: Lin et al., Microsoft COCO, ECCV 2014, and its evaluation code's description.
"""

import numpy as np

from osteomet.evaluation.detection import FROC

RECALLS = np.linspace(0.0, 1.0, 101)


def average_precision(curve: FROC) -> float:
    """Return the average precision; NaN without a lesion, 0 without a candidate."""
    if not curve.lesions:
        return float("nan")
    # The first point of a curve counts no candidate and has no precision.
    sensitivity = curve.sensitivity[1:]
    hits = sensitivity * curve.lesions
    misses = curve.false_positives[1:] * curve.scans
    precision = hits / np.maximum(hits + misses, np.finfo(np.float64).tiny)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    # Sums of weights are not exact: 7 of 10 lesions must reach 0.7.
    places = np.searchsorted(sensitivity, RECALLS - 1e-12)
    reached = places < len(sensitivity)
    return float(best_from_here[places[reached]].sum() / len(RECALLS))
