"""Commands that train: detectors, backbones, the second stage, the paper's comparison."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from osteomet.checkpoint import LoadedWeights, load_weights
from osteomet.cli.shared import (
    Assignments,
    CohortFile,
    ConfigFile,
    Device,
    StoreFolder,
    cases_of,
    console,
    progress_bar,
    settings_of,
)
from osteomet.config import Config, parse_assignment
from osteomet.errors import ConfigError
from osteomet.reproduce import plan as plans
from osteomet.reproduce.run import reproduce as reproduce_paper
from osteomet.training.average import average_weights
from osteomet.training.calibrate import calibrate as calibrate_weights
from osteomet.training.fabric import processes_that_help
from osteomet.training.pretrain import pretrain as pretrain_backbone
from osteomet.training.run import train as train_model

Processes = Annotated[
    int | None,
    typer.Option(
        min=1, help="that share each batch [default: on a CPU as many as use its cores, else 1]"
    ),
]


def train(  # noqa: PLR0913, PLR0917 - a command's options are its interface
    cohort: CohortFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of the run")],
    config: ConfigFile = None,
    init: Annotated[
        str | None,
        typer.Option(help="weights to start from: bundled name, osteomet file, 2D weights"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run")] = False,
    device: Device = "auto",
    processes: Processes = None,
    store: StoreFolder = None,
    hard_places: Annotated[
        Path | None,
        typer.Option(help="predictions of the training scans: learn what they got wrong"),
    ] = None,
    assignments: Assignments = None,
) -> None:
    """Train a detector on the scans with split train, checked on those with split val."""
    settings = settings_of(config, assignments)
    train_model(
        cohort,
        settings,
        output,
        init=init,
        resume=resume,
        device=device,
        processes=_processes(processes, device, settings),
        store_dir=store,
        hard_places=hard_places,
        provenance={"command": shlex.join(["osteomet", *sys.argv[1:]])},
        console=console,
    )


def pretrain(
    images: Annotated[list[Path], typer.Argument(help="scans, or folders of scans")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of the run")],
    config: ConfigFile = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run")] = False,
    device: Device = "auto",
    processes: Processes = None,
    assignments: Assignments = None,
) -> None:
    """Let a backbone learn from scans without labels; its weights are for train --init."""
    settings = settings_of(config, assignments)
    pretrain_backbone(
        images,
        settings,
        output,
        resume=resume,
        device=device,
        processes=_processes(processes, device, settings),
        provenance={"command": shlex.join(["osteomet", *sys.argv[1:]])},
        console=console,
    )


def calibrate(
    weights: Annotated[str, typer.Argument(help="weights, or the folder of a run")],
    cohort: CohortFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="file of the new weights")],
    split: Annotated[str, typer.Option(help="scans the detector was not trained on")] = "val",
    false_positives: Annotated[float, typer.Option(min=0.0, help="per scan")] = 1.0,
    device: Device = "auto",
    assignments: Assignments = None,
) -> None:
    """Choose the operating threshold and fit the second stage, which predicts the primary.

    Settings of inference may be changed here, and stay with the new weights.
    """
    loaded = _weights_of(weights)
    changes = dict(parse_assignment(text) for text in assignments or ())
    if fixed := [name for name in changes if not name.startswith("inference.")]:
        raise ConfigError(
            f"--set {fixed[0]}: was decided when the weights were trained; expected a setting of "
            "inference, such as inference.tile_size"
        )
    loaded = dataclasses.replace(loaded, config=loaded.config.updated(changes))
    with progress_bar("calibrating") as bar:
        task = bar.add_task("scans", total=None)
        result = calibrate_weights(
            loaded,
            cases_of(cohort, split),
            output,
            device=device,
            false_positives=false_positives,
            progress=lambda done, count: bar.update(task, completed=done, total=count),
        )
    told = dataclasses.asdict(result)
    told |= {f"out of fold, {name}": value for name, value in told.pop("out_of_fold").items()}
    for name, value in told.items():
        console.print(f"{name}: {'none' if value is None else format(value, '.4g')}")


def average(
    first: Annotated[str, typer.Argument(help="weights, or the folder of a run")],
    second: Annotated[str, typer.Argument(help="weights of the same network, or a run's folder")],
    output: Annotated[Path, typer.Option("--output", "-o", help="file of the new weights")],
    share: Annotated[float, typer.Option(help="of the second, from 0 to 1")] = 0.5,
) -> None:
    """Write the mean of two weights, such as a run's and those it started from; then calibrate."""
    average_weights(_weights_of(first), _weights_of(second), share, output)
    console.print(f"{output}: {1 - share:g} of {first} and {share:g} of {second}", soft_wrap=True)


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
    config: ConfigFile = None,
    device: Device = "auto",
    store: StoreFolder = None,
    resamples: Annotated[int, typer.Option(min=0, help="bootstrap draws of patients")] = 2000,
    assignments: Assignments = None,
) -> None:
    """Train and evaluate the paper's architectures; write its tables and figure, ours beside."""
    result = reproduce_paper(
        cohort,
        output,
        settings_of(config, assignments),
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


def _weights_of(name_or_run: str) -> LoadedWeights:
    path = Path(name_or_run)
    return load_weights(path / "weights.safetensors" if path.is_dir() else name_or_run)


def _processes(given: int | None, device: str, settings: Config) -> int:
    """Return what was asked for, or what helps if the command can be started again.

    That it can if it was started as a command, and not called by another program.
    """
    if given is not None:
        return given
    is_command = Path(sys.argv[0]).stem in {"osteomet", "__main__"}
    return processes_that_help(device, settings) if is_command else 1
