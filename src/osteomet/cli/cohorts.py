"""Commands that make cohorts, check them and store them."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from osteomet.checkup import Severity
from osteomet.cli.shared import (
    Assignments,
    ConfigFile,
    console,
    progress_bar,
    settings_of,
    shares_of,
    tell_error,
)
from osteomet.data.exports import LAYOUTS, export_cohort
from osteomet.data.importing import FORMATS, NOTES, Note, import_cohort
from osteomet.data.manifest import read_cohort
from osteomet.data.prepare import prepare_cohort
from osteomet.data.splits import PROTOCOLS, VALIDATION_SHARE, write_protocol
from osteomet.doctor import examine_and_report
from osteomet.errors import ConfigError
from osteomet.simulate.ceiling import ceilings
from osteomet.simulate.cohort import write_cohort, write_patients
from osteomet.simulate.enrolment import enrol_centres
from osteomet.simulate.insert import write_inserted
from osteomet.simulate.settings import FIELDS, REGIONS, SimulationConfig


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
    shares = shares_of(splits)
    if into:
        path = write_inserted(output, into, patients or len(into), seed, config, shares)
    elif any(counts.values()):
        enrolled = enrol_centres(counts, seed, shares)
        path = write_patients(output, enrolled, config, workers)
    else:
        path = write_cohort(output, patients or 20, seed, config, workers, shares)
    console.print(f"{len(read_cohort(path).cases)} patients in {escape(str(path))}")


def ceiling(
    patients: Annotated[int, typer.Option(min=100, help="to draw, without images")] = 20_000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Say how well the primary of simulated patients can be told at all, as AUC of patients."""
    found = ceilings(SimulationConfig(), patients, seed)
    for name, value in dataclasses.asdict(found).items():
        Console().print(f"{name.replace('_', ' ')}: {value:.3f}", markup=False)


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
        report=tell_note,
    )
    console.print(
        f"{len(result.cases)} scans in {escape(str(result.cohort))}, {len(result.notes)} notes in "
        f"{escape(str(result.cohort.with_name(NOTES)))}",
        soft_wrap=True,
    )


def doctor(
    cohort: Annotated[Path, typer.Argument(help="cohort.csv")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of the page")] = Path(
        "doctor"
    ),
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 1,
) -> None:
    """Read a cohort once and say what is wrong with it; ends with 1 where it is not fit."""
    with progress_bar("examining") as bar:
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


def prepare(
    cohort: Annotated[Path, typer.Argument(help="cohort.csv")],
    config: ConfigFile = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="the store; default is where training looks"),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 1,
    assignments: Assignments = None,
) -> None:
    """Resample, crop and compress the scans of a cohort, so that training need not."""
    settings = settings_of(config, assignments)
    with progress_bar("preparing") as bar:
        task = bar.add_task("scans", total=None)
        done = prepare_cohort(
            cohort,
            settings,
            output,
            workers=workers,
            progress=lambda scans, count: bar.update(task, completed=scans, total=count),
            report=tell_error,
        )
    console.print(
        f"{done.done} scans prepared, {done.kept} kept, {done.failed} failed; "
        f"{done.size_mb:.0f} MB in {escape(str(done.store))}, {done.seconds:.0f} s",
        highlight=False,
        soft_wrap=True,
    )
    raise typer.Exit(1 if done.failed else 0)


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
        report=lambda scan, reason: tell_note(Note(scan, "skipped", reason)),
    )
    console.print(
        f"{len(result.cases)} scans in {escape(str(result.folder))}, {len(result.skipped)} skipped",
        soft_wrap=True,
    )


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


def tell_note(note: Note) -> None:
    """Say what came of one scan, besides success."""
    mark = "[bold yellow]skipped:[/]" if note.outcome == "skipped" else "  warning:"
    console.print(f"{mark} {escape(note.scan)}: {escape(note.note)}", soft_wrap=True)
