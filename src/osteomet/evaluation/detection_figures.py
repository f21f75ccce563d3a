"""The figures of detection: per scan by FROC, per lesion, by lesion size, and per patient."""

import numpy as np

from osteomet.evaluation.detection import FROC, HIT_IOU, PooledMatches
from osteomet.evaluation.precision import average_precision
from osteomet.evaluation.primary import auc
from osteomet.evaluation.roc import delong_interval
from osteomet.evaluation.scan import STRICT_IOU, ScanResult
from osteomet.evaluation.scored import ScoredCohort
from osteomet.evaluation.statistics import (
    Estimate,
    Family,
    Weights,
    family_of_one,
    proportion,
    weighted_mean,
)

DETECTION = "Detection"
BY_SIZE = "Sensitivity by lesion size"
BY_PATIENT = "Detection per patient"

FP_RATES = (0.5, 1.0, 2.0, 4.0)
"""False positives per scan at which sensitivity is given; 1 is the one to quote."""

MEAN_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Those over which the mean sensitivity is taken, as the LUNA16 challenge does."""

BAND_RATES = np.geomspace(0.125, 8.0, 25)
"""Where the curve's interval is drawn."""

SIZES_MM = (0.0, 10.0, 20.0, 30.0, np.inf)
"""Edges of the size classes: the diameter of a sphere of the lesion's volume."""


def detection_families(cohort: ScoredCohort, pooled: PooledMatches) -> list[Family]:
    """Return the figures of detection.

    Args:
        cohort: the scored scans.
        pooled: their candidates at ``HIT_IOU``.
    """
    strict = PooledMatches([scan.strict for scan in cohort.scans], cohort.owner)
    return [
        _froc_family(cohort, pooled),
        _reported_family(cohort),
        _clean_scans(cohort),
        _precision_family(cohort, strict),
        _size_family(cohort),
        *_patient_families(cohort),
    ]


def froc_band(cohort: ScoredCohort, pooled: PooledMatches) -> Family:
    """Return the sensitivities at ``BAND_RATES``."""
    lesions = _lesions(cohort)
    described = tuple(Estimate(f"{rate:.4g}", lesions, "lesions") for rate in BAND_RATES)

    return Family(described, lambda weights: pooled.froc(weights).sensitivities_at(BAND_RATES))


def _froc_family(cohort: ScoredCohort, pooled: PooledMatches) -> Family:
    curve = pooled.froc(np.ones(len(cohort.names)))
    lesions = _lesions(cohort)
    rates = np.array([*FP_RATES, *MEAN_RATES])
    read_at = ", ".join(f"{rate:g}" for rate in MEAN_RATES)
    described = (
        *(_described_at(curve, rate) for rate in FP_RATES),
        Estimate("mean sensitivity of the FROC", lesions, "lesions", note=f"at {read_at} FP/scan"),
        Estimate(
            f"average precision at box IoU {HIT_IOU:g}",
            lesions,
            "lesions",
            note=f"{_candidates(cohort)} candidates",
        ),
    )

    def figures(weights: Weights) -> np.ndarray:
        curve = pooled.froc(weights)
        at = curve.sensitivities_at(rates)
        return np.array(
            [*at[: len(FP_RATES)], at[len(FP_RATES) :].mean(), average_precision(curve)]
        )

    return Family(described, figures, DETECTION)


def _described_at(curve: FROC, rate: float) -> Estimate:
    threshold, sensitivity, false_positives = curve.at(rate)
    lesions = int(curve.lesions)
    return Estimate(
        f"sensitivity at {rate:g} FP/scan",
        lesions,
        "lesions",
        events=round(sensitivity * lesions) if lesions else 0,
        note=f"score >= {threshold:.4g}, {false_positives:.3g} FP/scan" if sensitivity > 0 else "",
    )


def _precision_family(cohort: ScoredCohort, strict: PooledMatches) -> Family:
    described = Estimate(
        f"average precision at box IoU {STRICT_IOU:g}",
        _lesions(cohort),
        "lesions",
        note=f"{_candidates(cohort)} candidates",
    )
    return family_of_one(
        described, lambda weights: average_precision(strict.froc(weights)), DETECTION
    )


def _reported_family(cohort: ScoredCohort) -> Family:
    matches = [scan.reported for scan in cohort.scans]
    pooled = PooledMatches(matches, cohort.owner)
    note = f"operating threshold {cohort.operating_threshold:.4g}"
    described = (
        Estimate(
            "sensitivity as reported",
            _lesions(cohort),
            "lesions",
            events=sum(int(match.hits.sum()) for match in matches),
            note=note,
        ),
        Estimate(
            "false positives per scan as reported",
            len(matches),
            "scans",
            events=sum(int((~match.hits).sum()) for match in matches),
            note=note,
        ),
    )

    def figures(weights: Weights) -> np.ndarray:
        # The last point of a curve counts every candidate, here every reported lesion.
        curve = pooled.froc(weights)
        return np.array([curve.sensitivity[-1], curve.false_positives[-1]])

    return Family(described, figures, DETECTION)


def _clean_scans(cohort: ScoredCohort) -> Family:
    without = [place for place, scan in enumerate(cohort.scans) if scan.reported.lesions == 0]
    clean = np.array([len(cohort.scans[place].reported.scores) == 0 for place in without], float)
    owner = cohort.owner[without]
    return family_of_one(
        Estimate(
            "lesion-free scans without a report",
            len(without),
            "scans without lesions",
            events=int(clean.sum()),
        ),
        lambda weights: weighted_mean(clean, weights[owner]),
        DETECTION,
    )


def _size_family(cohort: ScoredCohort) -> Family:
    hit = cohort.lesion_values([scan.hit for scan in cohort.scans])
    size = np.digitize(cohort.lesion_values([scan.diameters_mm for scan in cohort.scans]), SIZES_MM)
    owner = cohort.lesion_owner
    classes = range(1, len(SIZES_MM))
    described = tuple(
        Estimate(
            f"sensitivity, {_size_words(place)}",
            int((size == place).sum()),
            "lesions",
            events=int(hit[size == place].sum()),
            note="as reported; diameter of a sphere of that volume",
        )
        for place in classes
    )

    def figures(weights: Weights) -> np.ndarray:
        of_lesion = weights[owner]
        there = np.bincount(size, of_lesion, len(SIZES_MM) + 1)
        found = np.bincount(size, of_lesion * hit, len(SIZES_MM) + 1)
        return np.array([found[k] / there[k] if there[k] else np.nan for k in classes])

    return Family(described, figures, BY_SIZE)


def _size_words(place: int) -> str:
    low, high = SIZES_MM[place - 1], SIZES_MM[place]
    if low == 0:
        return f"below {high:g} mm"
    return f"from {low:g} mm" if np.isinf(high) else f"{low:g} to {high:g} mm"


def _patient_families(cohort: ScoredCohort) -> list[Family]:
    """Of patients: each is one unit, so that exact intervals hold."""
    patients = len(cohort.names)
    diseased = cohort.lesions_per_patient > 0
    best, hit, reported = np.zeros(patients), np.zeros(patients, bool), np.zeros(patients, bool)
    for scan, owner in zip(cohort.scans, cohort.owner.tolist(), strict=True):
        best[owner] = max(best[owner], _best_score(scan))
        hit[owner] |= bool(scan.reported.hits.any())
        reported[owner] |= len(scan.reported.scores) > 0
    rows = (
        ("patients with a lesion found", diseased, hit, "patients with lesions"),
        ("patients with any report", diseased, reported, "patients with lesions"),
        (
            "lesion-free patients without a report",
            ~diseased,
            ~reported,
            "patients without lesions",
        ),
    )
    families = [_proportion_family(*row) for row in rows]
    low, high = delong_interval(diseased, best) or (None, None)
    described = Estimate(
        "AUC, any lesion",
        patients,
        "patients",
        events=int(diseased.sum()),
        note="best candidate's score against lesions or none; events: with lesions",
        low=low,
        high=high,
        method="DeLong",
    )
    families.append(
        family_of_one(described, lambda weights: auc(diseased, best, weights), BY_PATIENT)
    )
    return families


def _proportion_family(name: str, among: np.ndarray, event: np.ndarray, unit: str) -> Family:
    places = np.flatnonzero(among)
    values = event[places].astype(float)
    return family_of_one(
        proportion(name, int(values.sum()), len(places), unit),
        lambda weights: weighted_mean(values, weights[places]),
        BY_PATIENT,
    )


def _best_score(scan: ScanResult) -> float:
    return float(scan.candidates.scores.max(initial=0.0))


def _lesions(cohort: ScoredCohort) -> int:
    return sum(scan.reported.lesions for scan in cohort.scans)


def _candidates(cohort: ScoredCohort) -> int:
    return sum(len(scan.candidates.scores) for scan in cohort.scans)
