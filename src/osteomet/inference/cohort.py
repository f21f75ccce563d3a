"""Predict the scans of a cohort, and compare what was found with what is annotated."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from osteomet.data.annotations import instances_on_scan
from osteomet.data.manifest import Case
from osteomet.errors import InputError, OsteometError
from osteomet.evaluation.cohort import DEFAULTS, Evaluation, Options, evaluate_predictions
from osteomet.evaluation.scan import EvaluationCase
from osteomet.findings import Findings
from osteomet.inference.batch import Outcome
from osteomet.inference.outputs import FINDINGS, write_results
from osteomet.inference.pipeline import Prediction, Predictor
from osteomet.structures import Detections
from osteomet.volume import Volume


def predict_cohort(
    cases: Sequence[Case],
    out: Path,
    predictor: Predictor,
    *,
    report: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Write the results of each scan to ``out/<scan_id>``; a scan that fails stops no other.

    The primary belongs to the patient: with several scans it is predicted once, from the
    lesions of all of them, and stands in the findings of each.
    """
    patients: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        patients[case.patient_id].append(case)
    outcomes = []
    for patient_id, scans in patients.items():
        found: list[tuple[Case, Prediction]] = []
        for case in scans:
            try:
                found.append((case, predictor.predict(case.image, scan_id=case.scan_id)))
            except OsteometError as error:
                outcomes.append(_failed(case, error))
                report(outcomes[-1])
        for case, prediction in of_one_patient(found, patient_id, predictor):
            try:
                folder = write_results(prediction, out)
                outcomes.append(Outcome(case.image, folder, prediction.findings))
            except OsteometError as error:
                outcomes.append(_failed(case, error))
            report(outcomes[-1])
    return outcomes


def of_one_patient(
    found: Sequence[tuple[Case, Prediction]], patient_id: str, predictor: Predictor
) -> list[tuple[Case, Prediction]]:
    """Give each scan of a patient the patient's name and one primary from all their lesions."""
    if not found:
        return []
    update: dict[str, object] = {"patient_id": patient_id}
    if len(found) > 1:
        lesions = Detections.concatenate([prediction.reported for _, prediction in found])
        primary = predictor.predict_primary(lesions)
        aggregation = f"{primary.aggregation}, of all {len(found)} scans of the patient"
        update["primary"] = primary.model_copy(update={"aggregation": aggregation})
    return [
        (case, replace(prediction, findings=prediction.findings.model_copy(update=update)))
        for case, prediction in found
    ]


def _failed(case: Case, error: OsteometError) -> Outcome:
    return Outcome(case.image, error=" ".join(str(error).split()))


def evaluate_cohort(
    predictions: Path,
    cases: Sequence[Case],
    *,
    resamples: int = 2000,
    seed: int = 0,
    options: Options = DEFAULTS,
) -> Evaluation:
    """Compare the findings in ``predictions/<scan_id>`` with the cohort's masks.

    The images are not read again: the findings say on which grid they lie.

    Raises:
        InputError: a scan was not predicted, has no masks, or there is no scan at all.
    """
    if not cases:
        raise InputError("no scan to evaluate; choose a split that the cohort has")
    return evaluate_predictions(
        _pairs(predictions, cases), resamples=resamples, seed=seed, options=options
    )


def _pairs(predictions: Path, cases: Sequence[Case]) -> Iterator[EvaluationCase]:
    for case in cases:
        found = predictions / case.scan_id / FINDINGS
        if not found.is_file():
            raise InputError(
                f"{found}: is missing; expected the findings of scan {case.scan_id}: run "
                "osteomet predict --cohort with the same split first"
            )
        findings = Findings.read(found)
        instances, ignore = instances_on_scan(case, _grid(findings))
        yield EvaluationCase(
            case.scan_id, case.patient_id, findings, instances, case.primary, ignore
        )


def _grid(findings: Findings) -> Volume:
    """Return the grid of the scan that was predicted, with zeros that take no memory."""
    voxels = np.broadcast_to(np.int16(0), findings.series.shape_zyx)
    return Volume(voxels, np.array(findings.series.affine_lps, dtype=np.float64))
