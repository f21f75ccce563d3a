"""What the second stage says of patients that it was not fitted to.

On the patients it was fitted to it is too sure, so that a threshold chosen on them is too, and a
calibration curve of them flatters. There are rarely enough others to spare: so the patients are
dealt over folds, and each is scored by a second stage fitted to all other folds, penalties chosen
anew within those. The second stage that is kept is fitted to all of them.

Source: Stone, J R Stat Soc B 1974; 36: 111-147; Platt, Advances in Large Margin Classifiers 1999,
section 2 (a calibration fitted to cross-validated scores).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from osteomet.evaluation.calibration import calibration_line, reliability
from osteomet.evaluation.lung_threshold import youden_threshold
from osteomet.evaluation.primary import auc, brier
from osteomet.evaluation.roc import roc_curve
from osteomet.models.primary import FOLDS, LesionBags, deal_over_folds, fit_primary


@dataclass(frozen=True)
class OutOfFold:
    """Figures of patients scored by a second stage fitted to others; None where undefined.

    Attributes:
        patients: with a score.
        lung: of them with lung cancer.
        lung_threshold: of ``p_lung``, with the largest Youden index.
        auc: area under the ROC curve.
        brier: mean squared distance from the truth.
        expected_calibration_error: over ten even bins.
        calibration_slope: of a logistic regression on the log-odds; below 1 is too extreme.
        calibration_intercept: of the same regression; 0 is perfect.
    """

    patients: int = 0
    lung: int = 0
    lung_threshold: float | None = None
    auc: float | None = None
    brier: float | None = None
    expected_calibration_error: float | None = None
    calibration_slope: float | None = None
    calibration_intercept: float | None = None


def out_of_fold(bags: LesionBags, is_lung: Bool[Tensor, " patients"], seed: int = 0) -> OutOfFold:
    """Score every patient by a second stage fitted to others, and say how good the scores are.

    Args:
        bags: lesions of each patient, of all scans together.
        is_lung: truth of each patient.
        seed: of the folds and of the fits.
    """
    p_lung = out_of_fold_scores(bags, is_lung, seed)
    scored = np.isfinite(p_lung)
    return _figures(is_lung.numpy()[scored], p_lung[scored])


def out_of_fold_scores(
    bags: LesionBags, is_lung: Bool[Tensor, " patients"], seed: int = 0
) -> Float[np.ndarray, " patients"]:
    """Return ``p_lung`` of each patient by a second stage fitted to the other folds.

    NaN for a patient without a lesion, and where the other folds lack one kind of patient.
    """
    scores = np.full(len(is_lung), np.nan)
    rows = torch.nonzero(bags.scores.sum(dim=1) > 0)[:, 0]
    fold = deal_over_folds(is_lung[rows].float(), seed)
    for number in range(FOLDS):
        kept, held_out = rows[fold != number], rows[fold == number]
        if not len(held_out) or is_lung[kept].unique().numel() < 2:
            continue
        model = fit_primary(bags.of(_mask(kept, is_lung)), is_lung[kept], seed=seed)
        p_lung, _ = model.predict(bags.of(_mask(held_out, is_lung)))
        scores[held_out.numpy()] = p_lung.numpy()
    return scores


def _mask(rows: Tensor, like: Bool[Tensor, " patients"]) -> Bool[Tensor, " patients"]:
    chosen = torch.zeros_like(like)
    chosen[rows] = True
    return chosen


def _figures(is_lung: Bool[np.ndarray, " n"], p_lung: Float[np.ndarray, " n"]) -> OutOfFold:
    ones = np.ones(len(p_lung))
    slope, intercept = calibration_line(is_lung, p_lung, ones) if len(p_lung) else (np.nan, np.nan)
    return OutOfFold(
        patients=len(p_lung),
        lung=int(is_lung.sum()),
        lung_threshold=youden_threshold(roc_curve(is_lung, p_lung, ones)),
        auc=_defined(auc(is_lung, p_lung, ones)),
        brier=_defined(brier(is_lung, p_lung, ones)),
        expected_calibration_error=_defined(reliability(is_lung, p_lung, ones).expected_error),
        calibration_slope=_defined(slope),
        calibration_intercept=_defined(intercept),
    )


def _defined(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
