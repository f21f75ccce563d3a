"""The commands: each is there alone and among all others, and costs no other's imports."""

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from osteomet.cli.app import COMMANDS, build_app


def test_help_names_every_command_in_order() -> None:
    told = CliRunner().invoke(build_app(), ["--help"]).output
    places = [told.index(f"│ {name} ") for name in COMMANDS]
    assert places == sorted(places)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_alone_is_the_one_among_all(command: str) -> None:
    ways = [CliRunner().invoke(build_app(which), [command, "--help"]) for which in (command, None)]
    assert [way.exit_code for way in ways] == [0, 0]
    assert ways[0].output == ways[1].output


def test_a_command_that_is_not_there() -> None:
    told = CliRunner().invoke(build_app("pedict"), ["pedict"])
    assert told.exit_code == 2
    assert "Did you mean 'predict'" in told.output


def test_prediction_imports_nothing_of_training_or_evaluation() -> None:
    code = (
        "import sys; from osteomet.cli.app import build_app; build_app('predict'); "
        "print({'lightning_fabric', 'matplotlib', 'scipy.stats', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(("given", "expected"), [(None, "1000"), ("7", "7")])
def test_idle_threads_of_openmp_sleep_soon_unless_told_otherwise(
    given: str | None, expected: str
) -> None:
    code = "import os, sys; from osteomet.cli import main; sys.argv[1:] = ['--version']\ntry:\n    main()\nexcept SystemExit:\n    print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    if given is not None:
        environment["GOMP_SPINCOUNT"] = given
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    )
    assert done.stdout.split()[-2] == expected
