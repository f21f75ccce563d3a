"""The figures of the primary tumour, per patient: ranking, calls, calibration and use."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from osteomet.evaluation.calibration import (
    calibration_line,
    prior_weights,
    reliability,
    shift_prior,
)
from osteomet.evaluation.confusion import Confusion, confusion
from osteomet.evaluation.decision import THRESHOLDS, net_benefit, net_benefit_of_all
from osteomet.evaluation.lung_threshold import LungThreshold
from osteomet.evaluation.primary import UNDECIDED, auc, brier
from osteomet.evaluation.roc import delong_interval, roc_curve
from osteomet.evaluation.scored import Labelled, ScoredCohort
from osteomet.evaluation.statistics import (
    BOOTSTRAP,
    Estimate,
    Family,
    Weights,
    exact_interval,
    family_of_one,
    weighted_mean,
)

PRIMARY = "Primary"
CALLS = "Primary, lung or not"
CALIBRATION = "Calibration of p(lung)"
BENEFIT = "Use of p(lung)"

SPECIFICITIES = np.linspace(0.0, 1.0, 41)
"""Where the interval of the ROC curve is drawn."""

_SHARES: tuple[tuple[str, Callable[[Confusion], float]], ...] = (
    ("accuracy", lambda c: c.accuracy),
    ("sensitivity", lambda c: c.sensitivity),
    ("specificity", lambda c: c.specificity),
    ("positive predictive value", lambda c: c.precision),
    ("negative predictive value", lambda c: c.negative_predictive_value),
    ("F1", lambda c: c.f1),
)


def primary_families(
    cohort: ScoredCohort, threshold: LungThreshold, prior_lung: float | None
) -> list[Family]:
    """Return the figures of the primary.

    Args:
        cohort: the scored scans.
        threshold: from which ``p_lung`` up a patient is called lung.
        prior_lung: share of lung patients for which calibration is also given; None takes that
            of the patients themselves.
    """
    known = Labelled.of_cohort(cohort)
    given = known.predicted()
    null = f"{len(known) - len(given)} without a p_lung"
    unknown = f"{len(cohort.primaries) - len(known)} of unknown primary left out; events: lung"
    left_out = f"{null} left out; {unknown}"
    everyone = known.filled(UNDECIDED)
    return [
        _auc_family("AUC", given, left_out),
        _auc_family("AUC, all patients", everyone, f"{null} counted at {UNDECIDED:g}; {unknown}"),
        family_of_one(
            Estimate("Brier score", len(given), "patients", given.lung, left_out),
            lambda weights: brier(given.is_lung, given.p_lung, weights[given.places]),
            PRIMARY,
        ),
        _calls_family(given, threshold, f"{null} left out"),
        _calls_of_all(known, threshold, f"{null} counted as wrong"),
        _calibration_family(given, left_out),
        *_under_prior(cohort, given, prior_lung),
        _benefit_family(given, threshold),
    ]


def roc_band(given: Labelled) -> Family:
    """Return the sensitivity at each of ``SPECIFICITIES``."""
    described = tuple(
        Estimate(f"{at:.4g}", given.lung, "lung patients") for at in SPECIFICITIES.tolist()
    )

    def sensitivities(weights: Weights) -> Float[np.ndarray, " figures"]:
        curve = roc_curve(given.is_lung, given.p_lung, weights[given.places])
        if np.isnan(curve.specificity[0]):
            return np.full(len(SPECIFICITIES), np.nan)
        # The highest sensitivity among points of at least that specificity.
        last = np.searchsorted(-curve.specificity, -SPECIFICITIES + 1e-12, side="right") - 1
        return curve.sensitivity[np.maximum(last, 0)]

    return Family(described, sensitivities)


def benefit_band(given: Labelled) -> Family:
    """Return the net benefit at each of ``decision.THRESHOLDS``."""
    described = tuple(
        Estimate(f"{at:.4g}", len(given), "patients", given.lung) for at in THRESHOLDS.tolist()
    )
    return Family(
        described,
        lambda weights: net_benefit(given.is_lung, given.p_lung, weights[given.places], THRESHOLDS),
    )


def _auc_family(name: str, patients: Labelled, note: str) -> Family:
    interval = delong_interval(patients.is_lung, patients.p_lung)
    low, high = interval or (None, None)
    if interval is None and 0 < patients.lung < len(patients):
        note = f"too few patients, or separated perfectly: no interval; {note}"
    described = Estimate(
        name, len(patients), "patients", patients.lung, note, low=low, high=high, method="DeLong"
    )
    return family_of_one(
        described,
        lambda weights: auc(patients.is_lung, patients.p_lung, weights[patients.places]),
        PRIMARY,
    )


def _calls_family(given: Labelled, threshold: LungThreshold, note: str) -> Family:
    counts = confusion(given.is_lung, given.p_lung, threshold.value, np.ones(len(given)))
    return Family(
        _described_calls(counts, f"p_lung >= {threshold.value:.4g}, {threshold.source}; {note}"),
        lambda weights: _shares(
            confusion(given.is_lung, given.p_lung, threshold.value, weights[given.places])
        ),
        CALLS,
    )


def _calls_of_all(known: Labelled, threshold: LungThreshold, note: str) -> Family:
    """Count a patient without a prediction as a wrong one, whichever way."""
    wrong = np.where(known.is_lung, -np.inf, np.inf)
    p_lung = np.where(np.isfinite(known.p_lung), known.p_lung, wrong)
    counts = confusion(known.is_lung, p_lung, threshold.value, np.ones(len(known)))
    return Family(
        _described_calls(counts, note, ", all patients"),
        lambda weights: _shares(
            confusion(known.is_lung, p_lung, threshold.value, weights[known.places])
        ),
        CALLS,
    )


def _described_calls(counts: Confusion, note: str, suffix: str = "") -> tuple[Estimate, ...]:
    """Describe the shares with exact intervals; F1 is no share of patients and has none."""
    tp, fn, fp, tn = (round(count) for count in (counts.tp, counts.fn, counts.fp, counts.tn))
    kinds = {
        "accuracy": (tp + tn, tp + fn + fp + tn, "patients"),
        "sensitivity": (tp, tp + fn, "lung patients"),
        "specificity": (tn, tn + fp, "other patients"),
        "positive predictive value": (tp, tp + fp, "patients called lung"),
        "negative predictive value": (tn, tn + fn, "patients called other"),
    }
    rows = []
    for name, _ in _SHARES:
        if name in kinds:
            events, n, unit = kinds[name]
            low, high = exact_interval(events, n) or (None, None)
            rows.append(Estimate(name + suffix, n, unit, events, note, None, low, high, "exact"))
        else:
            matrix = f"TP {tp}, FN {fn}, FP {fp}, TN {tn}; {note}"
            rows.append(Estimate(name + suffix, tp + fn + fp + tn, "patients", tp, matrix))
    return tuple(rows)


def _shares(counts: Confusion) -> Float[np.ndarray, " figures"]:
    return np.array([share(counts) for _, share in _SHARES])


def _calibration_family(given: Labelled, note: str) -> Family:
    n, lung = len(given), given.lung
    described = (
        Estimate("expected calibration error", n, "patients", lung, f"10 even bins; {note}"),
        Estimate("calibration slope", n, "patients", lung, "1 is perfect, below 1 too extreme"),
        Estimate("calibration intercept", n, "patients", lung, "of log-odds; 0 is perfect"),
        Estimate("mean p_lung", n, "patients", lung, f"share of lung {_share(given):.3f}"),
    )

    def figures(weights: Weights) -> Float[np.ndarray, " figures"]:
        ours = weights[given.places]
        curve = reliability(given.is_lung, given.p_lung, ours)
        slope, intercept = calibration_line(given.is_lung, given.p_lung, ours)
        mean = weighted_mean(given.p_lung, ours)
        return np.array([curve.expected_error, slope, intercept, mean])

    return Family(described, figures, CALIBRATION)


def _under_prior(cohort: ScoredCohort, given: Labelled, wanted: float | None) -> list[Family]:
    """Return calibration under another share of lung cancer than the predictions assume."""
    priors = {scan.assumed_prior_lung for scan in cohort.scans}
    assumed = next(iter(priors)) if len(priors) == 1 else None
    share = _share(given) if wanted is None else wanted
    if assumed is None or not 0 < assumed < 1 or not 0 < share < 1:
        return []
    moved = shift_prior(given.p_lung, assumed, share)
    whose = "that of these patients" if wanted is None else "as asked; patients weighted to it"
    note = f"moved from the assumed share {assumed:.3f} to {share:.3f}, {whose}"
    names = ("Brier score", "expected calibration error", "mean p_lung")
    described = tuple(
        Estimate(f"{name}, prior {share:.3f}", len(given), "patients", given.lung, note)
        for name in names
    )

    def figures(weights: Weights) -> Float[np.ndarray, " figures"]:
        ours = weights[given.places]
        if wanted is not None:
            ours = prior_weights(given.is_lung, ours, wanted)
        return np.array(
            [
                brier(given.is_lung, moved, ours),
                reliability(given.is_lung, moved, ours).expected_error,
                weighted_mean(moved, ours),
            ]
        )

    return [Family(described, figures, CALIBRATION)]


def _benefit_family(given: Labelled, threshold: LungThreshold) -> Family:
    at = np.array([threshold.value])
    usable = 0 < threshold.value < 1
    described = (
        Estimate(
            f"net benefit at {threshold.value:.4g}",
            len(given),
            "patients",
            given.lung,
            "lung patients per patient; see the decision curve",
        ),
        Estimate(
            "above acting on all or none",
            len(given),
            "patients",
            given.lung,
            "below 0 the model is worse than no model",
            method=BOOTSTRAP,
        ),
    )

    def figures(weights: Weights) -> Float[np.ndarray, " figures"]:
        ours = weights[given.places]
        if not usable:
            return np.full(2, np.nan)
        model = net_benefit(given.is_lung, given.p_lung, ours, at)[0]
        everyone = net_benefit_of_all(given.is_lung, ours, at)[0]
        return np.array([model, model - max(everyone, 0.0)])

    return Family(described, figures, BENEFIT)


def _share(patients: Labelled) -> float:
    return patients.lung / len(patients) if len(patients) else float("nan")
