"""Commands that predict, and that say how good predictions are."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from osteomet.checkpoint import DEFAULT_WEIGHTS, load_weights
from osteomet.cli.shared import (
    NOTICE,
    CohortFile,
    Device,
    Weights,
    cases_of,
    console,
    progress_bar,
)
from osteomet.data.manifest import Case
from osteomet.demo import run_demo
from osteomet.errors import ConfigError
from osteomet.evaluation import audit as audits
from osteomet.evaluation.audit_text import audit_markdown
from osteomet.evaluation.cohort import Options
from osteomet.evaluation.comparison import Difference
from osteomet.evaluation.comparison import compare as compare_evaluations
from osteomet.evaluation.lung_threshold import LungThreshold, read_lung_threshold
from osteomet.evaluation.tables import differences_markdown, to_markdown
from osteomet.inference.batch import Outcome, exit_status, predict_many
from osteomet.inference.cohort import evaluate_cohort, predict_cohort
from osteomet.inference.cohort_scan import ScanOutcome, State
from osteomet.inference.cohort_summary import SUMMARY
from osteomet.inference.engine_choice import ENGINES, choose_engine
from osteomet.inference.engines import Engine
from osteomet.inference.outputs import REPORT
from osteomet.inference.pipeline import Predictor
from osteomet.io.scan import read_scan
from osteomet.reporting.evaluation_html import write_evaluation


def predict(  # noqa: PLR0913, PLR0917 - a command's options are its interface
    inputs: Annotated[list[Path] | None, typer.Argument(help="DICOM, NIfTI, NRRD or MHA")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of the results")] = Path(
        "results"
    ),
    cohort: Annotated[Path | None, typer.Option(help="cohort.csv instead of inputs")] = None,
    split: Annotated[str | None, typer.Option(help="of the cohort; none takes all")] = None,
    weights: Weights = DEFAULT_WEIGHTS,
    device: Device = "auto",
    series_uid: Annotated[str | None, typer.Option(help="which series of one input")] = None,
    threshold: Annotated[float | None, typer.Option(min=0, max=1)] = None,
    prior_lung: Annotated[float | None, typer.Option(min=0, max=1)] = None,
    engine: Annotated[str, typer.Option(help=f"for a cohort: {', '.join(ENGINES)}")] = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="processes for a cohort; ray: default all")
    ] = None,
    address: Annotated[str | None, typer.Option(help="of a Ray cluster: host:port, auto")] = None,
    worker_memory: Annotated[
        float, typer.Option(min=0.1, help="GB that a worker on Ray may need")
    ] = 4.0,
) -> None:
    """Find the lesions of each scan; one folder a scan, with masks, tables and a report.

    A cohort that is predicted again keeps what is finished, and goes on with the rest.
    """
    sources = inputs or []
    if bool(sources) == (cohort is not None):
        raise ConfigError("expected either scans or --cohort: give one of them")
    if series_uid is not None and len(sources) != 1:
        raise ConfigError(f"--series-uid with {len(sources)} inputs; expected exactly one")
    if sources and (engine != "local" or workers is not None):
        raise ConfigError("--engine and --workers spread a cohort: give --cohort, not scans")
    chosen, threads = choose_engine(
        engine, workers, address, gpu=device.startswith("cuda"), memory_gb=worker_memory
    )
    make_predictor = partial(
        Predictor,
        load_weights(weights),
        device,
        operating_threshold=threshold,
        prior_lung=prior_lung,
    )
    if cohort is not None:
        _predict_cohort(cases_of(cohort, split), output, make_predictor, chosen, threads)
        return
    given = [read_scan(sources[0], series_uid)] if series_uid is not None else sources
    outcomes = predict_many(given, output, make_predictor(), report=_tell)
    raise typer.Exit(exit_status(outcomes))


def _predict_cohort(
    cases: Sequence[Case],
    output: Path,
    make_predictor: Callable[[], Predictor],
    engine: Engine,
    threads: int | None,
) -> None:
    with progress_bar("predicting") as bar:
        task = bar.add_task("scans", total=len(cases))

        def report(outcome: ScanOutcome) -> None:
            _tell_scan(outcome)
            bar.advance(task)

        outcomes = predict_cohort(
            cases, output, make_predictor, engine=engine, threads=threads, report=report
        )
    counts = Counter(outcome.state for outcome in outcomes)
    console.print(
        f"{counts[State.FINISHED]} scans finished, {counts[State.KEPT]} kept from an earlier run, "
        f"{counts[State.FAILED]} failed: {escape(str(output / SUMMARY))}",
        soft_wrap=True,
    )
    raise typer.Exit(exit_status(outcomes))


def _tell(outcome: Outcome) -> None:
    name = escape(outcome.source.name)
    if outcome.findings is None or outcome.folder is None:
        console.print(f"[bold red]error:[/] {escape(outcome.error or name)}", soft_wrap=True)
        return
    findings = outcome.findings
    p_lung = findings.primary.p_lung
    primary = "no primary without a lesion" if p_lung is None else f"p(lung) {p_lung:.2f}"
    provenance = findings.provenance
    console.print(
        f"{name}: {len(findings.lesions)} lesions, {primary}, "
        f"{provenance.seconds['total']:.1f} s, {provenance.peak_memory_mb:.0f} MB: "
        f"{escape(str(outcome.folder / REPORT))}",
        soft_wrap=True,
    )
    for warning in findings.warnings:
        console.print(f"  warning: {escape(warning)}", soft_wrap=True)


def _tell_scan(outcome: ScanOutcome) -> None:
    name = escape(outcome.case.scan_id)
    if outcome.folder is None:
        console.print(f"[bold red]error:[/] {escape(outcome.error or name)}", soft_wrap=True)
        return
    p_lung = outcome.p_lung
    primary = "no primary without a lesion" if p_lung is None else f"p(lung) {p_lung:.2f}"
    kept = outcome.state is State.KEPT
    cost = "kept" if kept else f"{outcome.seconds:.1f} s, {outcome.peak_memory_mb:.0f} MB"
    console.print(
        f"{name}: {outcome.lesions} lesions, {primary}, {cost}: "
        f"{escape(str(outcome.folder / REPORT))}",
        soft_wrap=True,
    )
    for warning in () if kept else outcome.warnings:
        console.print(f"  warning: {escape(warning)}", soft_wrap=True)


def evaluate(  # noqa: PLR0913, PLR0917 - a command's options are its interface
    predictions: Annotated[Path, typer.Argument(help="folder that osteomet predict wrote")],
    cohort: CohortFile,
    split: Annotated[str | None, typer.Option(help="of the cohort; none takes all")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="for tables, plots and a page")
    ] = None,
    resamples: Annotated[int, typer.Option(min=0, help="bootstrap draws of patients")] = 2000,
    compare: Annotated[
        Path | None, typer.Option(help="predictions of another model for the same scans")
    ] = None,
    lung_threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="p(lung) from which a patient is called lung")
    ] = None,
    thresholds_from: Annotated[
        Path | None, typer.Option(help="evaluation.json of validation patients, to choose it by")
    ] = None,
    prior_lung: Annotated[
        float | None, typer.Option(min=0, max=1, help="share of lung to calibrate for")
    ] = None,
    surface_tolerance: Annotated[float, typer.Option(min=0, help="in mm")] = 2.0,
) -> None:
    """Compare predictions with the cohort's masks and primaries, with intervals."""
    cases = cases_of(cohort, split)
    options = Options(
        _lung_threshold(lung_threshold, thresholds_from, cases), prior_lung, surface_tolerance
    )
    evaluation = evaluate_cohort(predictions, cases, resamples=resamples, options=options)
    Console().print(to_markdown(evaluation.estimates), markup=False, soft_wrap=True)
    differences: Sequence[Difference] = ()
    if compare is not None:
        other = evaluate_cohort(compare, cases, resamples=resamples, options=options)
        differences = compare_evaluations(evaluation, other)
        Console().print(differences_markdown(differences), markup=False, soft_wrap=True)
    if output is not None:
        title = f"{predictions.name} on {cohort.name}" + (f", split {split}" if split else "")
        page = write_evaluation(evaluation, output, differences, title)
        console.print(f"Report: {escape(str(page))}", soft_wrap=True)


def _lung_threshold(
    given: float | None, validation: Path | None, cases: Sequence[Case]
) -> LungThreshold:
    if given is not None and validation is not None:
        raise ConfigError("--lung-threshold beside --thresholds-from; expected one of them")
    if validation is not None:
        return read_lung_threshold(validation, (case.patient_id for case in cases))
    return LungThreshold() if given is None else LungThreshold(given, "as given")


def audit(
    table: Annotated[
        Path | None, typer.Argument(help="CSV of name, accuracy, sensitivity, specificity, f1")
    ] = None,
    accuracy: Annotated[str | None, typer.Option(help="digits as printed, .886 or 88.6%")] = None,
    sensitivity: Annotated[str | None, typer.Option()] = None,
    specificity: Annotated[str | None, typer.Option()] = None,
    f1: Annotated[str | None, typer.Option()] = None,
    cohort: Annotated[
        list[str] | None,
        typer.Option(help="positives/negatives that the paper states, any number of times"),
    ] = None,
    max_patients: Annotated[int, typer.Option(min=2, max=5000)] = audits.MAX_PATIENTS,
) -> None:
    """List the counts of patients that can lie behind figures that a paper prints."""
    printed = {"accuracy": accuracy, "sensitivity": sensitivity, "specificity": specificity}
    given = {**printed, "f1": f1}
    if (table is None) == (not any(given.values())):
        raise ConfigError("expected either a table or figures such as --accuracy: give one of them")
    rows = [audits.PrintedRow.parse("figures", given)] if table is None else audits.read_rows(table)
    cohorts = [audits.parse_cohort(text) for text in cohort or ()]
    text = audit_markdown(rows, cohorts, max_patients)
    Console().print(text, markup=False, soft_wrap=True)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o")] = Path("demo"),
    weights: Weights = DEFAULT_WEIGHTS,
    device: Device = "auto",
) -> None:
    """Simulate a patient as a DICOM series, predict it, and compare with the truth."""
    result = run_demo(output, Predictor(weights, device))
    for sentence in result.summary():
        console.print(sentence)
    console.print(NOTICE)
    console.print(f"Report: {escape(str(result.report))}")
