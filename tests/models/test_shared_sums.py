"""Sums over two processes, with gradients, against the same sums in one."""

import multiprocessing
import tempfile
from pathlib import Path

import torch
from torch import distributed

from osteomet.models.processes import PartialLoss, losses_over_processes, partial_mean

VALUES = torch.tensor([[1.0, 2.0, 4.0], [8.0, 0.5, 3.0]])


def _loss(weight: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """A ratio of sums that no mean over processes can give, and a mean of unequal counts."""
    scaled = rows * weight
    kept = scaled[scaled > 2]
    losses = losses_over_processes(
        {
            "ratio": PartialLoss(
                torch.stack([scaled.square().sum(), scaled.sum()]), lambda sums: sums[0] / sums[1]
            ),
            "mean": partial_mean(kept.sum(), len(kept)),
        }
    )
    return losses["ratio"] + losses["mean"]


def _one_of_two(rank: int, folder: str) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    weight = torch.tensor(1.5, requires_grad=True)
    loss = _loss(weight, VALUES[rank])
    loss.backward()
    assert weight.grad is not None
    gradient = weight.grad.clone()
    distributed.all_reduce(gradient)  # data-parallel training averages
    torch.save((loss.detach(), gradient / 2), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_loss_and_gradient_are_those_of_one_process() -> None:
    weight = torch.tensor(1.5, requires_grad=True)
    loss = _loss(weight, VALUES)
    loss.backward()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        both = [context.Process(target=_one_of_two, args=(rank, folder)) for rank in range(2)]
        for process in both:
            process.start()
        for process in both:
            process.join(120)
        for rank in range(2):
            shared, gradient = torch.load(Path(folder) / f"{rank}.pt")
            torch.testing.assert_close(shared, loss.detach())
            torch.testing.assert_close(gradient, weight.grad)


def test_nothing_that_counts_gives_zero_and_no_nan() -> None:
    total = torch.zeros((), requires_grad=True)
    loss = losses_over_processes({"mean": partial_mean(total, 0)})["mean"]
    loss.backward()
    assert loss.item() == 0
    assert total.grad is not None
    assert total.grad.isfinite()
