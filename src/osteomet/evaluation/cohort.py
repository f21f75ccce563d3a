"""All figures of a set of predicted scans: detection, segmentation and the primary tumour.

Scans are read one at a time and reduced to a few numbers each, so that a cohort of any size
fits in memory. Every figure carries a bootstrap interval over the same resampled patients.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from osteomet.errors import InputError
from osteomet.evaluation.detection import FROC, PooledMatches
from osteomet.evaluation.primary import UNDECIDED, PatientPrimary, auc, brier, merge_scans
from osteomet.evaluation.scan import EvaluationCase, ScanResult, score_scan
from osteomet.evaluation.segmentation import Overlap, pooled_dice
from osteomet.evaluation.statistics import RESAMPLES, Estimate, Statistic, measure, weighted_mean
from osteomet.findings import PrimaryTumour

PrimaryFigure = Callable[
    [Bool[np.ndarray, " n"], Float[np.ndarray, " n"], Float[np.ndarray, " n"]], float
]
"""A figure from who has lung cancer, each one's ``p_lung`` and weight."""

FP_RATES = (0.5, 1.0, 2.0, 4.0)
"""False positives per scan at which sensitivity is given; 1 is the one to quote."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Figures of a cohort, and the scans they were made of.

    Attributes:
        estimates: every figure with its interval, n and events.
        froc: the whole curve.
        operating_threshold: at which lesions were reported, as the findings say.
    """

    estimates: tuple[Estimate, ...]
    froc: FROC
    operating_threshold: float
    scans: tuple[ScanResult, ...]
    patients: int
    resamples: int
    seed: int

    def __getitem__(self, name: str) -> Estimate:
        """Return the figure of that name."""
        return next(one for one in self.estimates if one.name == name)


def evaluate_predictions(
    cases: Iterable[EvaluationCase], *, resamples: int = RESAMPLES, seed: int = 0
) -> Evaluation:
    """Compare findings with the truth.

    Args:
        cases: scans, read one at a time; give a generator to keep memory small.
        resamples: bootstrap draws of patients; 0 gives figures without intervals.
        seed: of those draws.

    Raises:
        InputError: there is no scan, one comes twice, or their operating thresholds differ.
        AnnotationError: a label map does not fit its scan, or a patient has two primaries.
    """
    scans = [score_scan(case) for case in cases]
    _check(scans)
    names = list(dict.fromkeys(scan.patient_id for scan in scans))
    owner = np.array([names.index(scan.patient_id) for scan in scans])
    cohort = _Cohort(scans, owner, names, resamples, seed)
    pooled = PooledMatches([scan.candidates for scan in scans], owner)
    return Evaluation(
        (*_detection(cohort, pooled), *_segmentation(cohort), *_primary(cohort)),
        pooled.froc(np.ones(len(names))),
        scans[0].operating_threshold,
        tuple(scans),
        len(names),
        resamples,
        seed,
    )


@dataclass(frozen=True, eq=False)
class _Cohort:
    """Scans, the index of each one's patient, and how intervals are drawn."""

    scans: Sequence[ScanResult]
    owner: Int[np.ndarray, " scans"]
    names: Sequence[str]
    resamples: int
    seed: int

    def measure(self, described: Estimate, statistic: Statistic) -> Estimate:
        return measure(
            described, statistic, len(self.names), resamples=self.resamples, seed=self.seed
        )

    def of_patient(self, patient: int) -> list[ScanResult]:
        return [self.scans[place] for place in np.flatnonzero(self.owner == patient).tolist()]


def _detection(cohort: _Cohort, pooled: PooledMatches) -> list[Estimate]:
    curve = pooled.froc(np.ones(len(cohort.names)))
    return [
        *(_sensitivity_at(cohort, pooled, curve, rate) for rate in FP_RATES),
        *_as_reported(cohort),
        _clean_scans(cohort),
    ]


def _sensitivity_at(cohort: _Cohort, pooled: PooledMatches, curve: FROC, rate: float) -> Estimate:
    threshold, sensitivity, false_positives = curve.at(rate)
    lesions = int(curve.lesions)
    return cohort.measure(
        Estimate(
            f"sensitivity at {rate:g} FP/scan",
            lesions,
            "lesions",
            events=round(sensitivity * lesions) if lesions else 0,
            note=f"score >= {threshold:.4g}, {false_positives:.3g} FP/scan"
            if sensitivity > 0
            else "",
        ),
        lambda weights: pooled.froc(weights).sensitivity_at(rate),
    )


def _as_reported(cohort: _Cohort) -> list[Estimate]:
    reported = PooledMatches([scan.reported for scan in cohort.scans], cohort.owner)
    matches = [scan.reported for scan in cohort.scans]
    note = f"operating threshold {cohort.scans[0].operating_threshold:.4g}"
    # The last point of a curve counts every candidate, here every reported lesion.
    return [
        cohort.measure(
            Estimate(
                "sensitivity as reported",
                sum(match.lesions for match in matches),
                "lesions",
                events=sum(int(match.hits.sum()) for match in matches),
                note=note,
            ),
            lambda weights: float(reported.froc(weights).sensitivity[-1]),
        ),
        cohort.measure(
            Estimate(
                "false positives per scan as reported",
                len(matches),
                "scans",
                events=sum(int((~match.hits).sum()) for match in matches),
                note=note,
            ),
            lambda weights: float(reported.froc(weights).false_positives[-1]),
        ),
    ]


def _clean_scans(cohort: _Cohort) -> Estimate:
    without = [place for place, scan in enumerate(cohort.scans) if scan.reported.lesions == 0]
    clean = np.array([len(cohort.scans[place].reported.scores) == 0 for place in without], float)
    owner = cohort.owner[without]
    return cohort.measure(
        Estimate(
            "lesion-free scans without a report",
            len(without),
            "scans without lesions",
            events=int(clean.sum()),
        ),
        lambda weights: weighted_mean(clean, weights[owner]),
    )


def _segmentation(cohort: _Cohort) -> list[Estimate]:
    values = np.concatenate([scan.dice for scan in cohort.scans])
    hit = np.concatenate([scan.hit for scan in cohort.scans])
    owner = np.repeat(cohort.owner, [len(scan.dice) for scan in cohort.scans])
    overlaps = [
        sum((scan.overlap for scan in cohort.of_patient(patient)), Overlap())
        for patient in range(len(cohort.names))
    ]
    diseased = [place for place, overlap in enumerate(overlaps) if overlap.true_ml > 0]
    per_patient = np.array([overlaps[place].dice for place in diseased], float)
    left_out = len(overlaps) - len(diseased)
    return [
        cohort.measure(
            Estimate("Dice per matched lesion", int(hit.sum()), "lesions hit", note="as reported"),
            lambda weights: weighted_mean(values[hit], weights[owner[hit]]),
        ),
        cohort.measure(
            Estimate(
                "Dice per lesion",
                len(values),
                "lesions",
                note=f"{int((~hit).sum())} misses count 0",
            ),
            lambda weights: weighted_mean(values, weights[owner]),
        ),
        cohort.measure(
            Estimate(
                "Dice per patient",
                len(diseased),
                "patients with lesions",
                note=f"{left_out} patients without lesions left out",
            ),
            lambda weights: weighted_mean(per_patient, weights[diseased]),
        ),
        cohort.measure(
            Estimate("Dice pooled", len(overlaps), "patients", note="all voxels together"),
            lambda weights: pooled_dice(overlaps, weights),
        ),
    ]


def _primary(cohort: _Cohort) -> list[Estimate]:
    patients = []
    for place, name in enumerate(cohort.names):
        scans = cohort.of_patient(place)
        patients.append(
            merge_scans(name, [scan.primary for scan in scans], [scan.p_lung for scan in scans])
        )
    known = [
        place
        for place, patient in enumerate(patients)
        if patient.primary is not PrimaryTumour.UNKNOWN
    ]
    given = [place for place in known if patients[place].p_lung is not None]
    null = f"{len(known) - len(given)} without a p_lung"
    unknown = f"{len(patients) - len(known)} of unknown primary left out; events: lung"
    counted = f"{null} counted at {UNDECIDED:g}; {unknown}"
    left_out = f"{null} left out; {unknown}"
    return [
        _of_primary(cohort, patients, given, auc, ("AUC", left_out)),
        _of_primary(cohort, patients, known, auc, ("AUC, all patients", counted)),
        _of_primary(cohort, patients, given, brier, ("Brier score", left_out)),
    ]


def _of_primary(
    cohort: _Cohort,
    patients: Sequence[PatientPrimary],
    chosen: Sequence[int],
    figure: PrimaryFigure,
    name_and_note: tuple[str, str],
) -> Estimate:
    places = np.array(chosen, dtype=np.int64)
    is_lung = np.array([patients[place].primary is PrimaryTumour.LUNG for place in chosen], bool)
    p_lung = np.array([_or_undecided(patients[place].p_lung) for place in chosen], float)
    name, note = name_and_note
    return cohort.measure(
        Estimate(name, len(chosen), "patients", events=int(is_lung.sum()), note=note),
        lambda weights: figure(is_lung, p_lung, weights[places]),
    )


def _or_undecided(p_lung: float | None) -> float:
    return UNDECIDED if p_lung is None else p_lung


def _check(scans: Sequence[ScanResult]) -> None:
    if not scans:
        raise InputError("no scan to evaluate; expected at least one with findings and a mask")
    names = [(scan.patient_id, scan.scan_id) for scan in scans]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"scan {twice[1]} of patient {twice[0]} comes twice; expected it once")
    thresholds = {scan.operating_threshold for scan in scans}
    if len(thresholds) > 1:
        raise InputError(
            f"the scans were predicted at operating thresholds {sorted(thresholds)}; "
            "expected one: predict all scans with the same weights"
        )
