"""All commands in one program."""

from typing import Annotated

import typer

import osteomet
from osteomet.cli import cohorts, learning, results
from osteomet.cli.shared import NOTICE

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
