"""After training: choose the operating threshold, and fit the second stage.

Both need whole scans of patients that the detector was not trained on: a score means what it
means on unseen scans, and embeddings of training patients have seen their label.

From which p(lung) up a patient is called lung is chosen here too, on what second stages fitted
without a patient say of that patient (``out_of_fold``).
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from osteomet.checkpoint import LoadedWeights, save_weights
from osteomet.data.annotations import instances_on_scan
from osteomet.data.manifest import Case
from osteomet.errors import InputError
from osteomet.evaluation.detection import ScanMatches, froc
from osteomet.evaluation.scan import EvaluationCase, score_scan
from osteomet.findings import PrimaryTumour
from osteomet.inference.pipeline import Predictor
from osteomet.io.scan import read_scan
from osteomet.models.primary import LesionBags, PrimaryModel, fit_primary
from osteomet.structures import Detections
from osteomet.training.out_of_fold import OutOfFold, out_of_fold

TARGET_FALSE_POSITIVES = 1.0

RECORD = "calibration"
"""Where the provenance of the weights keeps what was chosen."""


@dataclass(frozen=True)
class Calibration:
    """What calibration chose, and on how much.

    Attributes:
        operating_threshold: lowest score of a reported lesion.
        sensitivity: share of the calibration lesions it finds.
        false_positives: per calibration scan.
        primary_patients: patients with a reported lesion on which the second stage was fitted;
            0 where it could not be, since there were too few of one kind.
        out_of_fold: the threshold of p(lung), and how good the second stage is on patients that
            it was not fitted to.
    """

    operating_threshold: float
    sensitivity: float
    false_positives: float
    scans: int
    lesions: int
    primary_patients: int
    out_of_fold: OutOfFold


@dataclass(frozen=True, eq=False)
class _Scan:
    case: Case
    detections: Detections
    matches: ScanMatches


def calibrate(
    weights: LoadedWeights,
    cases: Sequence[Case],
    output: Path,
    *,
    device: str = "auto",
    false_positives: float = TARGET_FALSE_POSITIVES,
    progress: Callable[[int, int], None] = lambda done, count: None,
) -> Calibration:
    """Write weights with an operating threshold and a second stage.

    Args:
        weights: of a trained detector.
        cases: scans of patients it was not trained on.
        output: where to write; replaced only when complete.
        device: where the detector runs.
        false_positives: per scan, that the threshold may cost.
        progress: told of the scans done.

    Raises:
        InputError: there is no scan, or none of them has a lesion.
    """
    scans = _predict(Predictor(weights, device), cases, progress)
    curve = froc([scan.matches for scan in scans])
    if not scans or curve.lesions == 0:
        raise InputError(
            f"{len(scans)} calibration scans hold no lesion; expected a split with lesions"
        )
    threshold, sensitivity, reached = curve.at(false_positives)
    threshold = min(threshold, 1.0)
    primary, patients, checked = _fit_primary(scans, threshold)
    result = Calibration(
        threshold, sensitivity, reached, len(scans), int(curve.lesions), patients, checked
    )
    save_weights(
        output,
        weights.model_state,
        None if primary is None else primary.state_dict(),
        weights.config.updated({"inference.operating_threshold": threshold}),
        weights.metrics,
        {**weights.provenance, RECORD: asdict(result)},
        half=True,
    )
    return result


def _predict(
    predictor: Predictor, cases: Sequence[Case], progress: Callable[[int, int], None]
) -> list[_Scan]:
    scans = []
    for case in cases:
        scan = read_scan(case.image)
        prediction = predictor.predict(scan, scan_id=case.scan_id)
        instances, ignore = instances_on_scan(case, scan.volume)
        scored = score_scan(
            EvaluationCase(
                case.scan_id,
                case.patient_id,
                prediction.findings,
                instances,
                case.primary,
                ignore,
            )
        )
        scans.append(_Scan(case, prediction.detections, scored.candidates))
        progress(len(scans), len(cases))
    return scans


def _fit_primary(
    scans: Sequence[_Scan], threshold: float
) -> tuple[PrimaryModel | None, int, OutOfFold]:
    """Fit the second stage on the lesions that will be reported, over all scans of a patient.

    Returns:
        The second stage fitted to all patients with a lesion, how many those are, and how good
        it is on patients that it was not fitted to.
    """
    lesions: dict[str, list[Detections]] = defaultdict(list)
    primaries: dict[str, PrimaryTumour] = {}
    for scan in scans:
        if scan.case.primary is not PrimaryTumour.UNKNOWN:
            reported = scan.detections[scan.detections.scores >= threshold]
            lesions[scan.case.patient_id].append(reported)
            primaries[scan.case.patient_id] = scan.case.primary
    if not lesions:
        return None, 0, OutOfFold()
    bags = LesionBags.from_detections([Detections.concatenate(parts) for parts in lesions.values()])
    is_lung = torch.tensor([primaries[name] is PrimaryTumour.LUNG for name in lesions])
    has_lesion = bags.scores.sum(dim=1) > 0
    if is_lung[has_lesion].unique().numel() < 2:
        return None, 0, OutOfFold()
    return fit_primary(bags, is_lung), int(has_lesion.sum()), out_of_fold(bags, is_lung)
