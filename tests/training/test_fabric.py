"""How many processes take part, and what is told when one of them is gone."""

import os
import sys

import pytest
import torch
from rich.console import Console

from osteomet.cli import learning
from osteomet.config import Config
from osteomet.errors import ConfigError, TrainingError
from osteomet.training.fabric import (
    LAUNCHERS,
    lost_process_as_error,
    make_fabric,
    of_first_process,
    processes_that_help,
    read_and_launch,
)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*LAUNCHERS, "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "memfd_create", None, raising=False)  # as on Linux


@pytest.mark.parametrize(
    ("cores", "batch", "processes"), [(1, 4, 1), (2, 4, 2), (3, 4, 2), (8, 4, 4), (2, 3, 1)]
)
def test_a_batch_is_shared_evenly_by_as_many_processes_as_there_are_cores(
    cores: int, batch: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    config = Config().updated({"training.batch_size": batch})
    assert processes_that_help("cpu", config) == processes


@pytest.mark.parametrize(
    ("settings", "processes"),
    [
        ({"model.backbone.drop_path": 0.1}, 1),
        ({"training.batch_size": 8}, 2),
        ({"training.batch_size": 8, "model.backbone.name": "resnet18"}, 1),
        ({"training.batch_size": 4, "model.backbone.name": "resnet18"}, 2),
    ],
)
def test_one_process_where_several_would_give_another_result(
    settings: dict[str, object], processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert processes_that_help("cpu", Config().updated(settings)) == processes


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_decides_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setenv(name, "1")
    assert processes_that_help("cpu", Config()) == 1


def test_no_memory_to_share_needs_no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.delattr(os, "memfd_create")
    assert processes_that_help("cpu", Config()) == 1


def test_only_a_command_starts_itself_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    told = {}
    for program in ("/usr/bin/osteomet", "pytest"):
        monkeypatch.setattr(sys, "argv", [program, "train"])
        told[program] = learning._processes(None, "cpu", Config())
    assert told == {"/usr/bin/osteomet": 2, "pytest": 1}
    assert learning._processes(3, "cpu", Config()) == 3


def test_an_unknown_device_is_refused_before_anything_is_read() -> None:
    def read() -> None:
        raise AssertionError

    with pytest.raises(ConfigError, match="device 'abacus' is not available"):
        read_and_launch(read, "abacus", "auto")


def test_only_the_first_process_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console()
    assert of_first_process(console) is console
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert of_first_process(console) is console
    monkeypatch.setenv("RANK", "2")  # the first one of the second machine
    assert of_first_process(console) is None


def test_a_lost_process_is_one_error() -> None:
    broken = compile("raise RuntimeError('pair.cc')", "torch/distributed/core.py", "exec")
    fabric = make_fabric("cpu", "32")
    lost = pytest.raises(TrainingError, match="process 1 of 1 lost another one")
    with lost, lost_process_as_error(fabric):
        exec(broken, {})
    other = compile("raise RuntimeError('of the model')", "distributed/home/model.py", "exec")
    with pytest.raises(RuntimeError, match="of the model"), lost_process_as_error(fabric):
        exec(other, {})
