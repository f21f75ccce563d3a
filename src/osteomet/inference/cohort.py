"""Predict the scans of a cohort, and compare what was found with what is annotated."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from osteomet.data.annotations import instances_on_scan
from osteomet.data.manifest import Case
from osteomet.errors import InputError, OsteometError
from osteomet.evaluation.cohort import Evaluation, evaluate_predictions
from osteomet.evaluation.scan import EvaluationCase
from osteomet.findings import Findings
from osteomet.inference.batch import Outcome
from osteomet.inference.outputs import FINDINGS, write_results
from osteomet.inference.pipeline import Predictor
from osteomet.io.scan import read_scan


def predict_cohort(
    cases: Sequence[Case],
    out: Path,
    predictor: Predictor,
    *,
    report: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Write the results of each scan to ``out/<scan_id>``; a scan that fails stops no other."""
    outcomes = []
    for case in cases:
        try:
            prediction = predictor.predict(case.image, scan_id=case.scan_id)
            folder = write_results(prediction, out)
            outcomes.append(Outcome(case.image, folder, prediction.findings))
        except OsteometError as error:
            outcomes.append(Outcome(case.image, error=" ".join(str(error).split())))
        report(outcomes[-1])
    return outcomes


def evaluate_cohort(
    predictions: Path, cases: Sequence[Case], *, resamples: int = 2000, seed: int = 0
) -> Evaluation:
    """Compare the findings in ``predictions/<scan_id>`` with the cohort's masks.

    Raises:
        InputError: a scan was not predicted, has no masks, or there is no scan at all.
    """
    if not cases:
        raise InputError("no scan to evaluate; choose a split that the cohort has")
    return evaluate_predictions(_pairs(predictions, cases), resamples=resamples, seed=seed)


def _pairs(predictions: Path, cases: Sequence[Case]) -> Iterator[EvaluationCase]:
    for case in cases:
        found = predictions / case.scan_id / FINDINGS
        if not found.is_file():
            raise InputError(
                f"{found}: is missing; expected the findings of scan {case.scan_id}: run "
                "osteomet predict --cohort with the same split first"
            )
        instances, ignore = instances_on_scan(case, read_scan(case.image).volume)
        yield EvaluationCase(
            case.scan_id, case.patient_id, Findings.read(found), instances, case.primary, ignore
        )
