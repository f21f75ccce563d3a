"""Sums over processes through sockets of their own, and what happens if one cannot or is gone."""

import multiprocessing
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import distributed

from osteomet.models.processes import add_up, add_up_by
from osteomet.training import local_sums
from osteomet.training.local_sums import LocalSums, open_local_sums

PROCESSES = 3
LARGE = 300_000
"""Numbers that no socket takes at once."""

needs_names = pytest.mark.skipif(
    not Path("/proc/net/unix").exists(), reason="this system has no sockets without a file"
)


def _values(rank: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(rank)
    return [
        torch.randn(5, generator=generator),
        torch.randn(2, 3, generator=generator, dtype=torch.float64),
        torch.zeros(0),
        torch.tensor([1e8, 1.0, -1e8][rank]),
        torch.randn(LARGE, generator=generator),
    ]


def _add_up(rank: int) -> object:
    sums = open_local_sums()
    assert sums is not None
    values = _values(rank)
    for value in values:
        sums.add_up(value)
    through_torch, instead = torch.tensor(float(rank)), torch.tensor(float(rank))
    add_up(through_torch)
    add_up_by(sums.add_up)
    add_up(instead)
    add_up_by(None)
    return values, through_torch, instead


def _one_cannot(rank: int) -> object:
    if rank == 1:
        local_sums._connect = lambda token: []
    return open_local_sums() is None


def _nobody_listens(rank: int) -> object:
    if rank == 0:
        local_sums._listen = lambda name, processes: None
    return open_local_sums() is None


def _one_ends(rank: int) -> object:
    sums = open_local_sums()
    assert sums is not None
    if rank == 1:
        return "ended"
    try:
        while True:
            sums.add_up(torch.zeros(3))
    except ConnectionError:
        return "lost one"


def _strangers_knock(rank: int) -> object:
    if rank == 0:
        listen = local_sums._listen

        def and_knock(name: str, processes: int) -> socket.socket | None:
            listener = listen(name, processes)
            for said in (b"hello", b"x" * 36):
                with socket.socket(socket.AF_UNIX) as stranger:
                    stranger.connect(name)
                    stranger.sendall(said)
            return listener

        local_sums._listen = and_knock
    sums = open_local_sums()
    assert sums is not None
    numbers = torch.tensor([1.0, rank])
    sums.add_up(numbers)
    return numbers.tolist()


def _one_process(rank: int, folder: str, work: Callable[[int], object]) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=PROCESSES
    )
    torch.save(work(rank), f"{folder}/{rank}.pt")
    if work is not _one_ends:
        distributed.destroy_process_group()


def results(work: Callable[[int], object], folder: Path) -> list:
    """Return what each process returns of the work."""
    spawn = multiprocessing.get_context("spawn")
    started = [
        spawn.Process(target=_one_process, args=(rank, str(folder), work))
        for rank in range(PROCESSES)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


@needs_names
def test_all_processes_get_the_same_sums(tmp_path: Path) -> None:
    found = results(_add_up, tmp_path)
    given = [_values(rank) for rank in range(PROCESSES)]
    for values, through_torch, instead in found:
        assert through_torch == instead == 3
        for i, value in enumerate(values):
            expected = given[0][i] + given[1][i] + given[2][i]  # in the order of the ranks
            assert value.dtype == expected.dtype
            assert torch.equal(value, expected)


@needs_names
@pytest.mark.parametrize("work", [_one_cannot, _nobody_listens])
def test_none_has_them_if_one_has_not(work: Callable[[int], object], tmp_path: Path) -> None:
    assert results(work, tmp_path) == [True] * PROCESSES


@needs_names
def test_a_process_that_ended_is_told(tmp_path: Path) -> None:
    assert results(_one_ends, tmp_path) == ["lost one", "ended", "lost one"]


@needs_names
def test_strangers_are_sent_away(tmp_path: Path) -> None:
    assert results(_strangers_knock, tmp_path) == [[3.0, 3.0]] * PROCESSES


def test_one_process_alone_adds_nothing(tmp_path: Path) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1
    )
    try:
        numbers = torch.tensor([2.0, 3.0])
        LocalSums([]).add_up(numbers)
        assert numbers.tolist() == [2.0, 3.0]
    finally:
        distributed.destroy_process_group()
