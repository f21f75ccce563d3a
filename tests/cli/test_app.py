"""The commands: each is there alone and among all others, and costs no other's imports."""

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
