"""What the commands share: options, the terminal, and how arguments become objects."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from osteomet.config import Config, load_config, parse_assignment
from osteomet.data.manifest import Case, read_cohort
from osteomet.errors import ConfigError, InputError, OsteometError

NOTICE = "Research software. Not a medical device. Not for diagnosis."

console = Console(stderr=True)
"""For what a person reads; results that another program may read go to standard output."""

CohortFile = Annotated[Path, typer.Option("--cohort", help="cohort.csv")]
ConfigFile = Annotated[Path | None, typer.Option(help="TOML file; none takes defaults")]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", help="section.key=value, any number of times")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps")]
StoreFolder = Annotated[
    Path | None, typer.Option(help="what osteomet prepare wrote with -o; default beside cohort")
]
Weights = Annotated[str, typer.Option(help="name of bundled weights, or a path")]


def settings_of(config: Path | None, assignments: list[str] | None) -> Config:
    """Return the settings of a file, or the defaults, with what ``--set`` changes."""
    settings = load_config(config) if config else Config()
    return settings.updated(dict(parse_assignment(text) for text in assignments or ()))


def cases_of(path: Path, split: str | None) -> Sequence[Case]:
    """Return the scans of a split; None takes all."""
    cohort = read_cohort(path)
    cases = cohort.cases if split is None else cohort.of_split(split)
    if not cases:
        there = sorted({str(case.split) for case in cohort.cases})
        raise InputError(f"{path}: no scan has split {split!r}; there are {', '.join(there)}")
    return cases


def shares_of(text: str) -> dict[str, float]:
    """Read ``train=0.8,val=0.2``."""
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


def tell_error(error: OsteometError) -> None:
    """Say in one line what is wrong."""
    console.print(f"[bold red]error:[/] {escape(' '.join(str(error).split()))}", soft_wrap=True)


@contextmanager
def progress_bar(description: str) -> Iterator[Progress]:
    """Show a bar while the block runs."""
    columns = (TextColumn(description), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield bar
