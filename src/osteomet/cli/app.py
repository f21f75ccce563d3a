"""The commands as one program, of which a run imports only the one that it is asked for."""

from importlib import import_module
from typing import Annotated

import typer

import osteomet
from osteomet.cli.shared import NOTICE

COMMANDS = {
    "simulate": "cohorts",
    "ceiling": "cohorts",
    "import": "cohorts",
    "doctor": "cohorts",
    "prepare": "cohorts",
    "export": "cohorts",
    "train": "learning",
    "pretrain": "learning",
    "average": "learning",
    "calibrate": "learning",
    "predict": "prediction",
    "split": "cohorts",
    "evaluate": "results",
    "audit": "results",
    "reproduce": "learning",
    "demo": "results",
}
"""Module of each command, in the order of the help."""


def build_app(command: str | None = None) -> typer.Typer:
    """Return the program.

    Args:
        command: the only one it needs to have: prediction need not wait until all that training
            needs is imported. Anything else gives all commands.
    """
    app = typer.Typer(
        help="Find bone metastases in CT and predict whether their primary is lung cancer.\n\n"
        + NOTICE,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    for name in (command,) if command in COMMANDS else COMMANDS:
        module = import_module(f"osteomet.cli.{COMMANDS[name]}")
        # ``import`` is a word of Python's.
        app.command(name)(getattr(module, "import_" if name == "import" else name))
    return app


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"osteomet {osteomet.__version__}")
        raise typer.Exit
    return wanted


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print it, stop")
    ] = False,
) -> None:
    pass
