"""All figures of a set of predicted scans: detection, segmentation and the primary tumour.

Scans are read one at a time and reduced to a few numbers each, so that a cohort of any size
fits in memory. Detection counts scans, the primary patients. Every figure carries an interval;
those from the bootstrap come from the same resampled patients.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from osteomet.errors import ConfigError
from osteomet.evaluation.appearance_figures import appearance_families
from osteomet.evaluation.calibration import Reliability, reliability
from osteomet.evaluation.decision import THRESHOLDS, net_benefit_of_all
from osteomet.evaluation.detection import FROC, PooledMatches
from osteomet.evaluation.detection_figures import BAND_RATES, detection_families, froc_band
from osteomet.evaluation.lung_threshold import UNCHOSEN, LungThreshold
from osteomet.evaluation.primary_figures import (
    SPECIFICITIES,
    benefit_band,
    primary_families,
    roc_band,
)
from osteomet.evaluation.roc import ROC, roc_curve
from osteomet.evaluation.scan import EvaluationCase, ScanResult, score_scan
from osteomet.evaluation.scored import Labelled, ScoredCohort
from osteomet.evaluation.segmentation_figures import segmentation_families
from osteomet.evaluation.statistics import (
    RESAMPLES,
    Estimate,
    Family,
    exact_interval,
    measure_families,
)
from osteomet.evaluation.surface import TOLERANCE_MM

HEADLINE = (
    "sensitivity at 0.5 FP/scan",
    "sensitivity at 1 FP/scan",
    "sensitivity at 2 FP/scan",
    "sensitivity at 4 FP/scan",
    "sensitivity as reported",
    "false positives per scan as reported",
    "lesion-free scans without a report",
    "Dice per matched lesion",
    "Dice per lesion",
    "Dice per patient",
    "Dice pooled",
    "AUC",
    "AUC, all patients",
    "Brier score",
)
"""The figures to quote first; the pages of a model show these."""


@dataclass(frozen=True)
class Options:
    """What a reader may choose about an evaluation.

    Attributes:
        lung_threshold: from which ``p_lung`` up a patient is called lung.
        prior_lung: share of lung patients for which calibration is also given; None takes that
            of the patients.
        tolerance_mm: within which two surfaces agree.
    """

    lung_threshold: LungThreshold = UNCHOSEN
    prior_lung: float | None = None
    tolerance_mm: float = TOLERANCE_MM

    def __post_init__(self) -> None:
        if not 0 <= self.lung_threshold.value <= 1:
            raise ConfigError(f"lung threshold {self.lung_threshold.value}; expected 0 to 1")
        if self.prior_lung is not None and not 0 < self.prior_lung < 1:
            raise ConfigError(f"prior {self.prior_lung} of lung cancer; expected within (0, 1)")
        if self.tolerance_mm < 0:
            raise ConfigError(f"surface tolerance {self.tolerance_mm} mm; expected 0 or more")


DEFAULTS = Options()


@dataclass(frozen=True, eq=False)
class Band:
    """A curve with its pointwise interval; NaN where there is none.

    Attributes:
        at: places along the axis below.
        value: of the curve there.
        low: of the interval.
        high: of the interval.
    """

    at: Float[np.ndarray, " k"]
    value: Float[np.ndarray, " k"]
    low: Float[np.ndarray, " k"]
    high: Float[np.ndarray, " k"]


@dataclass(frozen=True, eq=False)
class Curves:
    """What a reader wants to see drawn.

    Attributes:
        froc: over false positives per scan.
        roc: of the patients with a prediction and a known primary.
        roc_band: sensitivity over specificity.
        reliability: the calibration curve, its interval exact.
        benefit: net benefit over the probability from which one acts.
        benefit_of_all: that of acting on everyone.
    """

    froc: FROC
    froc_band: Band
    roc: ROC
    roc_band: Band
    reliability: Reliability
    reliability_band: Band
    benefit: Band
    benefit_of_all: Float[np.ndarray, " k"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Figures of a cohort, and the scans they were made of.

    Attributes:
        sections: every figure with its interval, n and events, under its heading.
        families: what they were computed with; a comparison resamples them again.
        seed: of the resamples.
    """

    sections: dict[str, tuple[Estimate, ...]]
    curves: Curves
    cohort: ScoredCohort
    families: tuple[Family, ...]
    options: Options
    resamples: int
    seed: int

    def __getitem__(self, name: str) -> Estimate:
        """Return the figure of that name."""
        return next(one for ones in self.sections.values() for one in ones if one.name == name)

    @property
    def estimates(self) -> tuple[Estimate, ...]:
        """The headline figures."""
        return tuple(self[name] for name in HEADLINE)

    @property
    def froc(self) -> FROC:
        return self.curves.froc

    @property
    def scans(self) -> tuple[ScanResult, ...]:
        return self.cohort.scans

    @property
    def patients(self) -> int:
        return len(self.cohort.names)

    @property
    def operating_threshold(self) -> float:
        """Score from which lesions were reported, as the findings say."""
        return self.cohort.operating_threshold


def evaluate_predictions(
    cases: Iterable[EvaluationCase],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    options: Options = DEFAULTS,
) -> Evaluation:
    """Compare findings with the truth.

    Args:
        cases: scans, read one at a time; give a generator to keep memory small.
        resamples: bootstrap draws of patients; 0 gives figures without those intervals.
        seed: of those draws.
        options: thresholds and tolerances.

    Raises:
        InputError: there is no scan, one comes twice, or their operating thresholds differ.
        AnnotationError: a label map does not fit its scan, or a patient has two primaries.
    """
    cohort = ScoredCohort.of_scans(
        [score_scan(case, tolerance_mm=options.tolerance_mm) for case in cases]
    )
    pooled = PooledMatches([scan.candidates for scan in cohort.scans], cohort.owner)
    families = (
        *detection_families(cohort, pooled),
        *segmentation_families(cohort, options.tolerance_mm),
        *primary_families(cohort, options.lung_threshold, options.prior_lung),
        *appearance_families(cohort),
    )
    given = Labelled.of_cohort(cohort).predicted()
    drawn = (froc_band(cohort, pooled), roc_band(given), benefit_band(given))
    measured = measure_families(
        [*families, *drawn], len(cohort.names), resamples=resamples, seed=seed
    )
    sections: dict[str, tuple[Estimate, ...]] = {}
    for family, estimates in zip(families, measured, strict=False):
        sections[family.section] = (*sections.get(family.section, ()), *estimates)
    curves = _curves(cohort, pooled, given, measured[len(families) :])
    return Evaluation(sections, curves, cohort, families, options, resamples, seed)


def _curves(
    cohort: ScoredCohort,
    pooled: PooledMatches,
    given: Labelled,
    bands: Sequence[Sequence[Estimate]],
) -> Curves:
    ones = np.ones(len(given))
    bins = reliability(given.is_lung, given.p_lung, ones)
    return Curves(
        froc=pooled.froc(np.ones(len(cohort.names))),
        froc_band=_band(BAND_RATES, bands[0]),
        roc=roc_curve(given.is_lung, given.p_lung, ones),
        roc_band=_band(SPECIFICITIES, bands[1]),
        reliability=bins,
        reliability_band=_reliability_band(bins),
        benefit=_band(THRESHOLDS, bands[2]),
        benefit_of_all=net_benefit_of_all(given.is_lung, ones, THRESHOLDS),
    )


def _band(at: Float[np.ndarray, " k"], estimates: Sequence[Estimate]) -> Band:
    table = np.array([[one.value, one.low, one.high] for one in estimates], dtype=np.float64)
    return Band(at, table[:, 0], table[:, 1], table[:, 2])


def _reliability_band(bins: Reliability) -> Band:
    bounds = [
        exact_interval(round(lung), round(patients)) or (np.nan, np.nan)
        for lung, patients in zip(bins.lung.tolist(), bins.patients.tolist(), strict=True)
    ]
    table = np.array(bounds, dtype=np.float64)
    return Band(bins.predicted, bins.observed, table[:, 0], table[:, 1])
