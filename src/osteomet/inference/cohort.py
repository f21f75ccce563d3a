"""Predict the scans of a cohort, and compare what was found with what is annotated."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from osteomet.data.annotations import instances_on_scan
from osteomet.data.manifest import Case
from osteomet.errors import InputError
from osteomet.evaluation.cohort import DEFAULTS, Evaluation, Options, evaluate_predictions
from osteomet.evaluation.scan import EvaluationCase
from osteomet.findings import Findings
from osteomet.inference.agenda import Agenda
from osteomet.inference.cohort_scan import ScanOutcome, ScanWorkerMaker
from osteomet.inference.cohort_summary import write_summary
from osteomet.inference.engines import Engine, in_this_process
from osteomet.inference.outputs import FINDINGS
from osteomet.inference.pipeline import Predictor
from osteomet.volume import Volume


def predict_cohort(
    cases: Sequence[Case],
    out: Path,
    predictor: Predictor | Callable[[], Predictor],
    *,
    engine: Engine = in_this_process,
    threads: int | None = None,
    report: Callable[[ScanOutcome], None] = lambda outcome: None,
) -> list[ScanOutcome]:
    """Write the results of each scan to ``out/<scan_id>``; a scan that fails stops no other.

    The primary belongs to the patient: with several scans it is predicted once, from the
    lesions of all of them, and stands in the findings of each. What an earlier run finished is
    kept, as long as its scans, the weights and the settings are the same. ``out/predictions.csv``
    has a line for each scan, in the order of the cohort.

    Args:
        cases: the scans.
        out: the folder of the results' folders.
        predictor: for an engine with workers elsewhere, what each of them calls to make its own.
        engine: who works on the scans; all give the same files.
        threads: of torch in each worker; None leaves them as they are.
        report: told of each scan as soon as it is finished, kept or failed.

    Returns:
        One outcome per scan, in the order of the cohort.

    Raises:
        OsteometError: no worker can start, or ``predictions.csv`` cannot be written.
    """
    there = [replace(case, image=case.image.absolute()) for case in cases]
    agenda = Agenda(there)
    make = partial(_given, predictor) if isinstance(predictor, Predictor) else predictor
    maker = ScanWorkerMaker(make, out.absolute(), threads)
    settled: dict[str, ScanOutcome] = {}
    for task, answer in engine(maker, agenda.next_task):
        outcome = agenda.settle(task, answer)
        if outcome is not None:
            settled[outcome.case.scan_id] = outcome
            report(outcome)
    outcomes = [settled[case.scan_id] for case in there]
    write_summary(outcomes, out)
    return outcomes


def _given(predictor: Predictor) -> Predictor:
    return predictor


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
