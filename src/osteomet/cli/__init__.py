"""The command line: parse, call, print."""

import sys
from typing import Annotated

import typer

import osteomet
from osteomet.cli import cohorts, learning, results
from osteomet.cli.shared import NOTICE, tell_error
from osteomet.errors import OsteometError

app = typer.Typer(
    help="Find bone metastases in CT and predict whether their primary is lung cancer.\n\n"
    + NOTICE,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

COMMANDS = (
    cohorts.simulate,
    cohorts.ceiling,
    cohorts.import_,
    cohorts.doctor,
    cohorts.prepare,
    cohorts.export,
    learning.train,
    learning.pretrain,
    learning.calibrate,
    results.predict,
    cohorts.split,
    results.evaluate,
    results.audit,
    learning.reproduce,
    results.demo,
)
for command in COMMANDS:
    app.command(command.__name__.rstrip("_"))(command)


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
        tell_error(error)
        sys.exit(2)
