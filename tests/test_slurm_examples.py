"""The scripts for Slurm: their syntax, and what they would start, with stand-ins for Slurm."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from osteomet.cli.app import build_app

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("slurm_*.sh"))
STAND_INS = {
    "scontrol": "echo m1; echo m2",
    "srun": 'while [[ $1 == --* ]]; do shift; done; "$@"',
    "torchrun": 'echo "torchrun $*" >> "$LOG"',
    "ray": 'echo "ray $*" >> "$LOG"',
    "osteomet": 'echo "osteomet $*" >> "$LOG"',
}
SLURM = {
    "SLURM_JOB_NODELIST": "m[1-2]",
    "SLURM_NNODES": "2",
    "SLURM_GPUS_ON_NODE": "4",
    "SLURM_CPUS_PER_TASK": "32",
    "SLURM_JOB_ID": "7",
    "CLUSTER_START_S": "1",
}

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


def started(script: str, tmp_path: Path) -> list[list[str]]:
    """Run a script and return the commands that it would have started."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in STAND_INS.items():
        (programs / name).write_text(f"#!/bin/bash\n{body}\n")
        (programs / name).chmod(0o755)
    log = tmp_path / "log"
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["bash", str(EXAMPLES / script), "cohort.csv", str(tmp_path / "out")],
        env={**os.environ, **SLURM, "PATH": path, "LOG": str(log)},
        check=True,
        timeout=60,
    )
    return [line.split() for line in log.read_text().splitlines()]


def options_of(command: str) -> set[str]:
    group = get_command(build_app())
    assert isinstance(group, TyperGroup)
    return {name for parameter in group.commands[command].params for name in parameter.opts}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_syntax(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=60)
    assert script.read_text().startswith("#!/bin/bash\n")


@pytest.mark.parametrize("resumed", [False, True])
def test_training_is_started_by_one_torchrun_a_machine(tmp_path: Path, resumed: bool) -> None:
    if resumed:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "last.ckpt").touch()
    prepare, train = started("slurm_train.sh", tmp_path)
    assert prepare[:2] == ["osteomet", "prepare"]
    assert train[:5] == ["torchrun", "--nnodes", "2", "--nproc-per-node", "4"]
    assert train[train.index("--rdzv-endpoint") + 1] == "m1:29500"
    ours = train[train.index("train") :]
    assert train[train.index("train") - 1] == str(tmp_path / "bin" / "osteomet")
    assert ("--resume" in ours) is resumed
    for command in (prepare[1:], ours):
        assert {word for word in command if word.startswith("-")} <= options_of(command[0])


def test_prediction_joins_the_machines_and_is_told_of_them(tmp_path: Path) -> None:
    commands = started("slurm_predict.sh", tmp_path)
    (predict,) = [command for command in commands if command[0] == "osteomet"]
    clusters = sorted(command[2] for command in commands if command[0] == "ray")
    assert clusters == ["--address=m1:6379", "--head"]
    assert predict[predict.index("--address") + 1] == "m1:6379"
    assert {word for word in predict if word.startswith("-")} <= options_of("predict")
