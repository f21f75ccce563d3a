"""The command line: parse, call, print."""

import dataclasses
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import osteomet
from osteomet.checkpoint import DEFAULT_WEIGHTS, load_weights
from osteomet.checkup import Severity
from osteomet.config import Config, load_config, parse_assignment
from osteomet.data.exports import LAYOUTS, export_cohort
from osteomet.data.importing import FORMATS, NOTES, Note, import_cohort
from osteomet.data.manifest import Case, read_cohort
from osteomet.data.prepare import prepare_cohort
from osteomet.data.splits import PROTOCOLS, VALIDATION_SHARE, write_protocol
from osteomet.demo import run_demo
from osteomet.doctor import examine_and_report
from osteomet.errors import ConfigError, InputError, OsteometError
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
from osteomet.reproduce import plan as plans
from osteomet.reproduce.run import reproduce as reproduce_paper
from osteomet.simulate.ceiling import ceilings
from osteomet.simulate.cohort import write_cohort, write_patients
from osteomet.simulate.enrolment import enrol_centres
from osteomet.simulate.insert import write_inserted
from osteomet.simulate.settings import FIELDS, REGIONS, SimulationConfig
from osteomet.training.calibrate import calibrate as calibrate_weights
from osteomet.training.pretrain import pretrain as pretrain_backbone
from osteomet.training.run import train as train_model

NOTICE = "Research software. Not a medical device. Not for diagnosis."

app = typer.Typer(
    help="Find bone metastases in CT and predict whether their primary is lung cancer.\n\n"
    + NOTICE,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(stderr=True)

CohortFile = Annotated[Path, typer.Option("--cohort", help="cohort.csv")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps")]
Weights = Annotated[str, typer.Option(help="name of bundled weights, or a path")]


@app.command()
def simulate(  # noqa: PLR0913, PLR0917 - a command's options are its interface
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of the new cohort")],
    patients: Annotated[int | None, typer.Option(min=1, help="how many; default 20")] = None,
    centre_a: Annotated[int, typer.Option(min=0, help="exactly so many of centre A")] = 0,
    centre_b: Annotated[int, typer.Option(min=0, help="exactly so many of centre B")] = 0,
    region: Annotated[str | None, typer.Option(help=", ".join(REGIONS))] = None,
    field: Annotated[str, typer.Option(help="field of view: " + ", ".join(FIELDS))] = "small",
    into: Annotated[
        list[Path] | None, typer.Option(help="CT to put lesions into, any number of times")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 1,
    splits: Annotated[str, typer.Option(help="shares of patients")] = "train=0.8,val=0.2",
) -> None:
    """Write simulated patients and their cohort.csv; an interrupted run is taken up again."""
    counts = {"A": centre_a, "B": centre_b}
    asked = patients is not None or into
    if any(counts.values()) and asked:
        raise ConfigError("--centre-a and --centre-b with --patients or --into: give one of them")
    if into and (region is not None or field != "small"):
        raise ConfigError("--into with --region or --field: the scan decides what it shows")
    config = SimulationConfig().showing(region, field)
    shares = _shares(splits)
    if into:
        path = write_inserted(output, into, patients or len(into), seed, config, shares)
    elif any(counts.values()):
        enrolled = enrol_centres(counts, seed, shares)
        path = write_patients(output, enrolled, config, workers)
    else:
        path = write_cohort(output, patients or 20, seed, config, workers, shares)
    console.print(f"{len(read_cohort(path).cases)} patients in {escape(str(path))}")


@app.command()
def ceiling(
    patients: Annotated[int, typer.Option(min=100, help="to draw, without images")] = 20_000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Say how well the primary of simulated patients can be told at all, as AUC of patients."""
    found = ceilings(SimulationConfig(), patients, seed)
    for name, value in dataclasses.asdict(found).items():
        Console().print(f"{name.replace('_', ' ')}: {value:.3f}", markup=False)


@app.command("import")
def import_(
    form: Annotated[str, typer.Argument(metavar="FORMAT", help=", ".join(FORMATS))],
    source: Annotated[Path, typer.Argument(help="folder of the data set")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of the new cohort")],
    lesions: Annotated[
        str | None, typer.Option(help="pattern in the names of regions that are lesions")
    ] = None,
    patients: Annotated[
        Path | None, typer.Option(help="CSV: scan_id or patient_id, primary, age, sex, ...")
    ] = None,
    centre: Annotated[str | None, typer.Option(help="name of the hospital or set")] = None,
) -> None:
    """Make a cohort.csv of a data set, and convert what has to be converted."""
    result = import_cohort(
        form,
        source,
        output,
        lesions=lesions,
        patients=patients,
        centre=centre,
        report=_tell_note,
    )
    console.print(
        f"{len(result.cases)} scans in {escape(str(result.cohort))}, {len(result.notes)} notes in "
        f"{escape(str(result.cohort.with_name(NOTES)))}",
        soft_wrap=True,
    )


@app.command()
def doctor(
    cohort: Annotated[Path, typer.Argument(help="cohort.csv")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of the page")] = Path(
        "doctor"
    ),
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 1,
) -> None:
    """Read a cohort once and say what is wrong with it; ends with 1 where it is not fit."""
    with _bar("examining") as bar:
        task = bar.add_task("scans", total=None)
        diagnosis = examine_and_report(
            cohort,
            output,
            workers=workers,
            progress=lambda done, count: bar.update(task, completed=done, total=count),
        )
    for finding in diagnosis.checkup.findings:
        if finding.severity is Severity.ERROR:
            where = f"{', '.join(finding.scans)}: " if finding.scans else ""
            console.print(f"[bold red]{finding.check}:[/] {escape(where + finding.found)}")
    console.print(diagnosis.checkup.verdict)
    console.print(f"Report: {escape(str(diagnosis.page))}", soft_wrap=True)
    raise typer.Exit(0 if diagnosis.checkup.is_fit else 1)


@app.command()
def prepare(
    cohort: Annotated[Path, typer.Argument(help="cohort.csv")],
    config: Annotated[Path | None, typer.Option(help="TOML file; none takes defaults")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="the store; default is where training looks"),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 1,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, any number of times")
    ] = None,
) -> None:
    """Resample, crop and compress the scans of a cohort, so that training need not."""
    settings = load_config(config) if config else Config()
    settings = settings.updated(dict(parse_assignment(text) for text in assignments or ()))
    with _bar("preparing") as bar:
        task = bar.add_task("scans", total=None)
        done = prepare_cohort(
            cohort,
            settings,
            output,
            workers=workers,
            progress=lambda scans, count: bar.update(task, completed=scans, total=count),
            report=_tell_error,
        )
    console.print(
        f"{done.done} scans prepared, {done.kept} kept, {done.failed} failed; "
        f"{done.size_mb:.0f} MB in {escape(str(done.store))}, {done.seconds:.0f} s",
        highlight=False,
        soft_wrap=True,
    )
    raise typer.Exit(1 if done.failed else 0)


@app.command()
def export(
    layout: Annotated[str, typer.Argument(metavar="LAYOUT", help=", ".join(LAYOUTS))],
    cohort: Annotated[Path, typer.Argument(help="cohort.csv")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of the data set")],
    by_primary: Annotated[
        bool, typer.Option("--by-primary", help="two classes, lung and other, instead of one")
    ] = False,
) -> None:
    """Write a cohort as nnU-Net, nnDetection or MONAI want it, to run them on the same patients."""
    result = export_cohort(
        layout,
        cohort,
        output,
        by_primary=by_primary,
        report=lambda scan, reason: _tell_note(Note(scan, "skipped", reason)),
    )
    console.print(
        f"{len(result.cases)} scans in {escape(str(result.folder))}, {len(result.skipped)} skipped",
        soft_wrap=True,
    )


@app.command()
def train(  # noqa: PLR0913, PLR0917 - a command's options are its interface
    cohort: CohortFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of the run")],
    config: Annotated[Path | None, typer.Option(help="TOML file; none takes defaults")] = None,
    init: Annotated[
        str | None,
        typer.Option(help="weights to start from: bundled name, osteomet file, 2D weights"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run")] = False,
    device: Device = "auto",
    processes: Annotated[int, typer.Option(min=1, help="that share each batch")] = 1,
    store: Annotated[
        Path | None, typer.Option(help="what osteomet prepare wrote with -o; default beside cohort")
    ] = None,
    hard_places: Annotated[
        Path | None,
        typer.Option(help="predictions of the training scans: learn what they got wrong"),
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, any number of times")
    ] = None,
) -> None:
    """Train a detector on the scans with split train, checked on those with split val."""
    settings = load_config(config) if config else Config()
    settings = settings.updated(dict(parse_assignment(text) for text in assignments or ()))
    train_model(
        cohort,
        settings,
        output,
        init=init,
        resume=resume,
        device=device,
        processes=processes,
        store_dir=store,
        hard_places=hard_places,
        provenance={"command": shlex.join(["osteomet", *sys.argv[1:]])},
        console=console,
    )


@app.command()
def pretrain(
    images: Annotated[list[Path], typer.Argument(help="scans, or folders of scans")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of the run")],
    config: Annotated[Path | None, typer.Option(help="TOML file; none takes defaults")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run")] = False,
    device: Device = "auto",
    processes: Annotated[int, typer.Option(min=1, help="that share each batch")] = 1,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, any number of times")
    ] = None,
) -> None:
    """Let a backbone learn from scans without labels; its weights are for train --init."""
    settings = load_config(config) if config else Config()
    pretrain_backbone(
        images,
        settings.updated(dict(parse_assignment(text) for text in assignments or ())),
        output,
        resume=resume,
        device=device,
        processes=processes,
        provenance={"command": shlex.join(["osteomet", *sys.argv[1:]])},
        console=console,
    )


@app.command()
def calibrate(
    weights: Annotated[str, typer.Argument(help="weights, or the folder of a run")],
    cohort: CohortFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="file of the new weights")],
    split: Annotated[str, typer.Option(help="scans the detector was not trained on")] = "val",
    false_positives: Annotated[float, typer.Option(min=0.0, help="per scan")] = 1.0,
    device: Device = "auto",
) -> None:
    """Choose the operating threshold and fit the second stage, which predicts the primary."""
    path = Path(weights)
    loaded = load_weights(path / "weights.safetensors" if path.is_dir() else weights)
    with _bar("calibrating") as bar:
        task = bar.add_task("scans", total=None)
        result = calibrate_weights(
            loaded,
            _cases(cohort, split),
            output,
            device=device,
            false_positives=false_positives,
            progress=lambda done, count: bar.update(task, completed=done, total=count),
        )
    for name, value in dataclasses.asdict(result).items():
        console.print(f"{name}: {value:.4g}")


@app.command()
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
        _predict_cohort(_cases(cohort, split), output, make_predictor, chosen, threads)
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
    with _bar("predicting") as bar:
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


@app.command()
def split(
    cohort: Annotated[Path, typer.Argument(help="cohort.csv")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="the new file; for kfold a folder of them")
    ],
    protocol: Annotated[str, typer.Option(help=", ".join(PROTOCOLS))] = "p2",
    centre: Annotated[
        str | None, typer.Option(help="p1: that trains; else: whose patients are kept")
    ] = None,
    test_centre: Annotated[
        str | None, typer.Option(help="p1: that tests; none takes all others")
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="of kfold")] = 5,
    validation: Annotated[
        float, typer.Option(min=0.01, max=0.5, help="share of those who train, not for p2")
    ] = VALIDATION_SHARE,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Write who trains, validates and tests into a new cohort file, by patient and primary."""
    files = write_protocol(
        protocol,
        cohort,
        output,
        centre=centre,
        test_centre=test_centre,
        fold_count=folds,
        validation_share=validation,
        seed=seed,
    )
    for made in files:
        sides = ", ".join(
            f"{side} {lung} lung + {other} other" + (f" + {unknown} unknown" if unknown else "")
            for side, (lung, other, unknown) in made.patients.items()
        )
        console.print(f"{escape(str(made.path))}: {sides}", soft_wrap=True)


@app.command()
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
    cases = _cases(cohort, split)
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


@app.command()
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


@app.command()
def reproduce(  # noqa: PLR0913, PLR0917 - a command's options are its interface
    cohort: CohortFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of all results")],
    protocol: Annotated[str, typer.Option(help=", ".join(plans.PROTOCOLS))] = "p1",
    centre: Annotated[
        str, typer.Option(help="p1: that trains; p2: whose patients are split")
    ] = plans.CENTRE,
    test_centre: Annotated[
        str | None, typer.Option(help="p1: that tests; none takes all others")
    ] = None,
    architectures: Annotated[
        str, typer.Option(help=f"{', '.join(plans.SETS)}, or backbones separated by commas")
    ] = "paper",
    config: Annotated[Path | None, typer.Option(help="TOML file; none takes defaults")] = None,
    device: Device = "auto",
    store: Annotated[
        Path | None, typer.Option(help="what osteomet prepare wrote with -o; default beside cohort")
    ] = None,
    resamples: Annotated[int, typer.Option(min=0, help="bootstrap draws of patients")] = 2000,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, any number of times")
    ] = None,
) -> None:
    """Train and evaluate the paper's architectures; write its tables and figure, ours beside."""
    settings = load_config(config) if config else Config()
    result = reproduce_paper(
        cohort,
        output,
        settings.updated(dict(parse_assignment(text) for text in assignments or ())),
        protocol=protocol,
        centre=centre,
        test_centre=test_centre,
        architectures=plans.architectures(architectures),
        device=device,
        store_dir=store,
        resamples=resamples,
        console=console,
    )
    if result.page is not None:
        console.print(f"Report: {escape(str(result.page))}", soft_wrap=True)
    if result.missing:
        console.print(f"stopped; not done: {', '.join(result.missing)}. The same command goes on.")
    raise typer.Exit(1 if result.missing else 0)


@app.command()
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


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"osteomet {osteomet.__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print it, stop")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; a user's error is one line and exit code 2."""
    try:
        app()
    except OsteometError as error:
        _tell_error(error)
        sys.exit(2)


def _tell_error(error: OsteometError) -> None:
    console.print(f"[bold red]error:[/] {escape(' '.join(str(error).split()))}", soft_wrap=True)


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


def _tell_note(note: Note) -> None:
    mark = "[bold yellow]skipped:[/]" if note.outcome == "skipped" else "  warning:"
    console.print(f"{mark} {escape(note.scan)}: {escape(note.note)}", soft_wrap=True)


def _lung_threshold(
    given: float | None, validation: Path | None, cases: Sequence[Case]
) -> LungThreshold:
    if given is not None and validation is not None:
        raise ConfigError("--lung-threshold beside --thresholds-from; expected one of them")
    if validation is not None:
        return read_lung_threshold(validation, (case.patient_id for case in cases))
    return LungThreshold() if given is None else LungThreshold(given, "as given")


def _cases(path: Path, split: str | None) -> Sequence[Case]:
    cohort = read_cohort(path)
    cases = cohort.cases if split is None else cohort.of_split(split)
    if not cases:
        there = sorted({str(case.split) for case in cohort.cases})
        raise InputError(f"{path}: no scan has split {split!r}; there are {', '.join(there)}")
    return cases


def _shares(text: str) -> dict[str, float]:
    shares = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            shares[name.strip()] = float(value)
        except ValueError as error:
            raise ConfigError(f"--splits {text}: expected name=share,name=share") from error
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise ConfigError(f"--splits {text}: shares add up to {sum(shares.values()):g}, not 1")
    return shares


@contextmanager
def _bar(description: str) -> Iterator[Progress]:
    columns = (TextColumn(description), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield bar


if __name__ == "__main__":
    main()
