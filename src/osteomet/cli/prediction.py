"""The command that predicts; apart, so that it need not wait for what evaluation imports."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from osteomet.checkpoint import DEFAULT_WEIGHTS, load_weights
from osteomet.cli.shared import Device, Weights, cases_of, console, progress_bar
from osteomet.data.manifest import Case
from osteomet.errors import ConfigError
from osteomet.inference.batch import Outcome, exit_status, predict_many
from osteomet.inference.cohort import predict_cohort
from osteomet.inference.cohort_scan import ScanOutcome, State
from osteomet.inference.cohort_summary import SUMMARY
from osteomet.inference.engine_choice import ENGINES, choose_engine
from osteomet.inference.engines import Engine
from osteomet.inference.outputs import REPORT
from osteomet.inference.pipeline import Predictor
from osteomet.io.scan import read_scan


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
