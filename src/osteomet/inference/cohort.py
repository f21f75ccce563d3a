"""Predict the scans of a cohort, whoever works on them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from osteomet.data.manifest import Case
from osteomet.inference.agenda import Agenda
from osteomet.inference.cohort_scan import ScanOutcome, ScanWorkerMaker
from osteomet.inference.cohort_summary import write_summary
from osteomet.inference.engines import Engine, in_this_process
from osteomet.inference.pipeline import Predictor


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
