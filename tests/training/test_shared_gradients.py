"""Gradients averaged in shared memory against those that gloo averages."""

import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from osteomet.training import shared_gradients
from osteomet.training.shared_gradients import SharedAverage, average_bucket, open_shared_rows

PROCESSES = 3
STEPS = 3

needs_memory = pytest.mark.skipif(
    not shared_gradients.MEMORY.is_dir(), reason="this system has no shared memory as files"
)


def _gradients(rank: int, shared: bool) -> list[torch.Tensor]:
    """Return the gradients of a few steps, each on the process's own numbers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 400), nn.ReLU(), nn.Linear(400, 300), nn.Linear(300, 1))
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True, bucket_cap_mb=1)
    if shared:
        rows = open_shared_rows(sum(p.numel() for p in model.parameters()))
        assert rows is not None
        wrapped.register_comm_hook(SharedAverage(rows), average_bucket)
    generator = torch.Generator().manual_seed(rank)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    found = []
    for _ in range(STEPS):
        wrapped(torch.randn(4, 300, generator=generator)).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]).clone())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return found


def _one_process(rank: int, folder: str) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=PROCESSES
    )
    torch.set_num_threads(1)
    torch.save([_gradients(rank, shared) for shared in (True, False)], f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@needs_memory
def test_shared_memory_gives_the_average_that_gloo_gives(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    every = [
        context.Process(target=_one_process, args=(rank, str(tmp_path)))
        for rank in range(PROCESSES)
    ]
    for process in every:
        process.start()
    for process in every:
        process.join(120)
        assert process.exitcode == 0
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(PROCESSES)]
    for shared, by_gloo in found:
        for step in range(STEPS):
            torch.testing.assert_close(shared[step], by_gloo[step])
            assert torch.equal(shared[step], found[0][0][step])  # in all processes to the last bit
    assert not torch.equal(found[0][0][0], found[0][0][1])
    assert not list(shared_gradients.MEMORY.glob("osteomet-gradients-*"))


def test_where_there_is_no_memory_gloo_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1
    )
    try:
        monkeypatch.setattr(shared_gradients, "MEMORY", tmp_path / "none")
        assert open_shared_rows(10) is None
    finally:
        distributed.destroy_process_group()


@needs_memory
def test_memory_that_is_too_small_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shared_gradients, "MEMORY", tmp_path)
    monkeypatch.setattr(os, "posix_fallocate", is_full)
    assert shared_gradients._new_file(1000) is None
    assert not list(tmp_path.iterdir())
