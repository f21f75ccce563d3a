"""Processes that share an update against processes that each do all of it."""

import math
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn

from osteomet.training.ema import ExponentialMovingAverage
from osteomet.training.shared_memory import open_shared_rows
from osteomet.training.state import Learner
from osteomet.training.update import KEPT, SharedUpdate, share_out

PROCESSES = 3
STEPS = 4
MAX_NORM = 0.5
ENOUGH = 200_000

needs_memory = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="this system has no memory as files"
)


def _learner() -> Learner:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(30, 40, bias=False),
        nn.BatchNorm1d(40),
        nn.Linear(40, 31),
        nn.ReLU(),
        nn.Linear(31, 1),
    )
    model[2].bias.requires_grad_(False)
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1 and p.requires_grad]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.05, fused=True)
    return Learner(model, ExponentialMovingAverage(model, 0.9), optimizer)


def _backward(learner: Learner, generator: torch.Generator) -> None:
    learner.model(torch.randn(4, 30, generator=generator)).square().sum().backward()


def _follow_alone(learner: Learner) -> float:
    """Update all weights by the mean gradient, as each process would without shared memory."""
    trained = [p for p in learner.model.parameters() if p.requires_grad]
    for parameter in trained:
        distributed.all_reduce(parameter.grad)
        parameter.grad /= PROCESSES
    norm = nn.utils.clip_grad_norm_(trained, MAX_NORM)
    learner.optimizer.step()
    learner.optimizer.zero_grad()
    learner.average.update()
    return norm.item()


def _run(rank: int, shared: bool) -> dict[str, object]:
    """Take steps, one of them after a checkpoint, and return the norms and the state."""
    generator = torch.Generator().manual_seed(rank)
    learner = _learner()
    norms = []
    for step in range(STEPS):
        if step in (0, STEPS - 1):
            if step:
                fresh = _learner()
                fresh.load(learner.state(), "here")
                learner = fresh
            if shared:
                memory = open_shared_rows(PROCESSES + KEPT, ENOUGH)
                assert memory is not None
                update = SharedUpdate(learner, MAX_NORM, memory)
        _backward(learner, generator)
        if shared:
            norm, means = update.follow(torch.tensor([1.0, rank]))
            assert means == pytest.approx([1.0, (PROCESSES - 1) / 2])
        norms.append(norm if shared else _follow_alone(learner))
    assert all(p.grad is None for p in learner.model.parameters())
    return {"norms": norms, **learner.state()}


def _skip(rank: int) -> bool:
    """Return whether a gradient that is not finite in one process changes nothing in any."""
    learner = _learner()
    memory = open_shared_rows(PROCESSES + KEPT, ENOUGH)
    assert memory is not None
    update = SharedUpdate(learner, MAX_NORM, memory)
    _backward(learner, torch.Generator().manual_seed(rank))
    before = learner.state()
    if rank == 1:
        learner.model[0].weight.grad[0, 0] = math.nan
    norm, _ = update.follow(torch.zeros(1))
    after = learner.state()
    return not math.isfinite(norm) and all(
        torch.equal(a, b) for a, b in zip(_weights(before), _weights(after), strict=True)
    )


def _one_process(rank: int, folder: str) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=PROCESSES
    )
    torch.set_num_threads(1)
    torch.save([_run(rank, True), _run(rank, False), _skip(rank)], f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[list]:
    folder = tmp_path_factory.mktemp("processes")
    _start(_one_process, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


@needs_memory
def test_a_shared_update_is_that_of_each_process_alone(found: list[list]) -> None:
    for shared, alone, _ in found:
        assert shared["norms"] == pytest.approx(alone["norms"], rel=1e-5)
        assert shared["average_updates"] == alone["average_updates"] == STEPS
        for ours, theirs in zip(_weights(shared), _weights(alone), strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)
        moments, expected = shared["optimizer"]["state"], alone["optimizer"]["state"]
        assert moments.keys() == expected.keys()
        for number, kept in moments.items():
            for name, value in kept.items():
                torch.testing.assert_close(value, expected[number][name], atol=1e-6, rtol=1e-5)


@needs_memory
def test_all_processes_have_the_same_weights(found: list[list]) -> None:
    first, *others = (shared for shared, _, _ in found)
    for other in others:
        assert other["norms"] == first["norms"]
        # but for the statistics of the batch normalisation's last batch, each its own
        for name, value in first["model"].items():
            assert "running" in name or torch.equal(value, other["model"][name])


@needs_memory
def test_a_gradient_that_is_not_finite_moves_nothing(found: list[list]) -> None:
    assert all(skipped for _, _, skipped in found)


def test_parts_are_about_as_large() -> None:
    sizes = [5, 100, 7, 60, 3, 40, 1]
    owners = share_out(sizes, 2)
    loads = [sum(s for s, o in zip(sizes, owners, strict=True) if o == who) for who in (0, 1)]
    assert loads == [108, 108]
    assert share_out([3], 2) == [0]


def test_saved_state_has_memory_of_its_own() -> None:
    learner = _learner()
    row = torch.zeros(2000)
    weight = learner.model[0].weight
    weight.data = row[: weight.numel()].view(weight.shape)
    saved = learner.state()["model"]["0.weight"]
    assert saved.untyped_storage().nbytes() == 4 * weight.numel()


def _start(target: object, folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    every = [context.Process(target=target, args=(rank, str(folder))) for rank in range(PROCESSES)]
    for process in every:
        process.start()
    for process in every:
        process.join(120)
        assert process.exitcode == 0


def _weights(state: dict[str, dict[str, Tensor]]) -> list[Tensor]:
    kept = {**state["model"], **{f"average {k}": v for k, v in state["average"].items()}}
    return [value for name, value in sorted(kept.items()) if "running" not in name]
