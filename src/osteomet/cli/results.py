"""Commands that say how good predictions are, and the demo."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from osteomet.checkpoint import DEFAULT_WEIGHTS
from osteomet.cli.shared import (
    NOTICE,
    CohortFile,
    Device,
    Weights,
    cases_of,
    console,
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
from osteomet.inference.cohort_evaluation import evaluate_cohort
from osteomet.inference.pipeline import Predictor
from osteomet.reporting.evaluation_html import write_evaluation


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
