"""The command line: parse, call, print."""

import os
import sys
from importlib import import_module

from osteomet.errors import OsteometError

SPINS = "1000"
"""Turns, some microseconds, that a thread of OpenMP waits for the next loop before it sleeps. By
default it is a millisecond or so, in which it holds up a thread of the package's own loops: a
training step on two cores takes a fifth longer."""


def main() -> None:
    """Run the command line; a user's error is one line and exit code 2."""
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read once, when torch is imported
    # Not at the top: processes that a command starts import this module first, and those that
    # prepare scans need neither torch nor the 200 MB that it takes.
    app = import_module("osteomet.cli.app").build_app(*sys.argv[1:2])
    try:
        app()
    except OsteometError as error:
        import_module("osteomet.cli.shared").tell_error(error)
        sys.exit(2)
