"""What follows a gradient: clipping, the optimiser's step, and the average of the weights.

Each process does all of it, or those of one machine share it: weights, their average and the
optimiser's moments then lie once in memory that all of them see. Each process lays down its
gradient of what belongs to the others, and when all have, it adds up, clips and follows its own
part. Gloo instead sends gradients through sockets, and every process updates all weights, which
together is a sixth of a small network's step. What are few numbers goes through sockets here, too
(``local_sums``).

Processes wait for the slowest wherever they exchange something, so what is told of a step travels
with the norm of its gradient.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, distributed, nn

from osteomet.models.processes import add_up, add_up_by
from osteomet.training.local_sums import open_local_sums
from osteomet.training.shared_memory import open_shared_rows
from osteomet.training.state import Learner

LINE = 16
"""Numbers in a cache line, on which each parameter starts."""
KEPT = 4
"""Rows of shared memory beside the gradients: weights, their average, and Adam's two moments."""


class Update(ABC):
    """Follows the gradients that backward left."""

    @abstractmethod
    def follow(self, told: Float[Tensor, " n"]) -> tuple[float, list[float]]:
        """Update the weights, unless the gradient is not finite.

        Args:
            told: numbers of this process.

        Returns:
            The norm of the gradient, and the mean of each number over all processes.
        """


class OneMachine(DDPStrategy):
    """Data-parallel training on the CPU by processes of one machine.

    Attributes:
        memory: that the processes share for the module set up; None where there is none or too
            little: then gradients go through gloo as elsewhere.
    """

    def __init__(self) -> None:
        super().__init__(gradient_as_bucket_view=True)
        self.memory: Tensor | None = None

    def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]
        """Wrap a module, which is left as it is if there is memory."""
        numbers = sum(_slot(p) for p in module.parameters() if p.requires_grad)
        self.memory = open_shared_rows(distributed.get_world_size() + KEPT, numbers)
        sums = None if self.memory is None else open_local_sums()
        add_up_by(None if sums is None else sums.add_up)
        return super().setup_module(module) if self.memory is None else module


def make_update(fabric: Fabric, learner: Learner, max_norm: float) -> Update:
    """Return how the processes of ``fabric`` follow a gradient; all must call it at once.

    Args:
        fabric: that set up the model.
        learner: as it starts or goes on.
        max_norm: of the gradient; a longer one is shortened to it.
    """
    strategy = fabric.strategy
    if isinstance(strategy, OneMachine) and strategy.memory is not None:
        return SharedUpdate(learner, max_norm, strategy.memory)
    return WholeUpdate(fabric, learner, max_norm)


class WholeUpdate(Update):
    """Each process updates all weights."""

    def __init__(self, fabric: Fabric, learner: Learner, max_norm: float) -> None:
        self.fabric, self.learner, self.max_norm = fabric, learner, max_norm

    def follow(self, told: Float[Tensor, " n"]) -> tuple[float, list[float]]:
        learner = self.learner
        total = self.fabric.clip_gradients(
            learner.model, learner.optimizer, max_norm=self.max_norm, error_if_nonfinite=False
        )
        norm = float(cast("Tensor", total))
        if math.isfinite(norm):
            learner.optimizer.step()
            learner.average.update()
        learner.optimizer.zero_grad(set_to_none=True)
        means = cast("Tensor", self.fabric.all_reduce(told.detach()))
        return norm, means.tolist()


class SharedUpdate(Update):
    """Each process updates its part of weights that all of them see.

    Args:
        learner: whose weights, average and moments are moved to shared memory; those of the first
            process count. Its optimiser is one of Adam's kind, with ``fused=True``.
        max_norm: of the gradient.
        memory: ``(processes + KEPT, numbers)``.
    """

    def __init__(self, learner: Learner, max_norm: float, memory: Tensor) -> None:
        self.learner, self.max_norm = learner, max_norm
        self._rank, self._processes = distributed.get_rank(), distributed.get_world_size()
        named = [(n, p) for n, p in learner.model.named_parameters() if p.requires_grad]
        names, self._parameters = [n for n, _ in named], [p for _, p in named]
        sizes = [_slot(p) for p in self._parameters]
        owners = share_out(sizes, self._processes)
        starts = _places(sizes, owners, self._processes)
        laid, kept = memory.split([self._processes, KEPT])
        places = list(zip(self._parameters, starts, owners, strict=True))
        self._own = [p for p, _, owner in places if owner == self._rank]
        self._others = [
            (parameter, _view(laid[self._rank], parameter, start))
            for parameter, start, owner in places
            if owner != self._rank
        ]
        self._given = [
            [
                _view(row, parameter, start)
                for parameter, start, owner in places
                if owner == self._rank
            ]
            for rank, row in enumerate(laid)
            if rank != self._rank
        ]
        self._own_names = {n for n, owner in zip(names, owners, strict=True) if owner == self._rank}
        self._move(kept, names, starts)

    def follow(self, told: Float[Tensor, " n"]) -> tuple[float, list[float]]:
        """Add up, clip and follow the part of the gradient that belongs to this process."""
        learner, optimizer = self.learner, cast("Any", self.learner.optimizer)
        self._lay_down()
        _wait_for_all()  # all have laid down theirs
        for buffer in learner.model.buffers():  # statistics of a batch normalisation
            distributed.broadcast(buffer, 0)
        square, *sums = self._add_up(told)
        norm = math.sqrt(square) / self._processes if math.isfinite(square) else math.inf
        if math.isfinite(norm):
            # The optimiser divides where it reads a gradient, which saves a pass over all of it.
            shortened = min(1.0, self.max_norm / (norm + 1e-6))
            optimizer.grad_scale = torch.tensor(self._processes / shortened)
            optimizer.step()
            del optimizer.grad_scale
            learner.average.update(self._own_names)
        optimizer.zero_grad(set_to_none=True)
        _wait_for_all()  # all have updated theirs
        return norm, [total / self._processes for total in sums]

    @torch.no_grad()
    def _lay_down(self) -> None:
        """Put what belongs to others where they find it, and keep no gradient of it."""
        for parameter, place in self._others:
            if parameter.grad is None:
                place.zero_()
            else:
                place.copy_(parameter.grad)
                parameter.grad = None

    @torch.no_grad()
    def _add_up(self, told: Float[Tensor, " n"]) -> list[float]:
        """Sum the own part over all processes; return its square over all parts, and sums of told.

        Those are added up in double.
        """
        gradients = []
        for parameter in self._own:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        for given in self._given:
            torch._foreach_add_(gradients, given)
        norms = torch.stack(torch._foreach_norm(gradients)) if gradients else torch.zeros(1)
        exchanged = torch.cat([norms.double().square().sum()[None], told.double()])
        add_up(exchanged)
        sums: list[float] = exchanged.tolist()
        return sums

    def _move(self, kept: Tensor, names: Sequence[str], starts: Sequence[int]) -> None:
        """Put all that is updated where all processes see it."""
        weights, averages, first, second = kept
        averaged = dict(self.learner.average.model.named_parameters())
        state = self.learner.optimizer.state
        for name, parameter, start in zip(names, self._parameters, starts, strict=True):
            moments = state[parameter] or {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
            average = averaged[name]
            places = {
                "step": first[start + parameter.numel()],  # each slot has room for one number more
                "exp_avg": _view(first, parameter, start),
                "exp_avg_sq": _view(second, parameter, start),
            }
            weight, mean = _view(weights, parameter, start), _view(averages, parameter, start)
            if self._rank == 0:
                weight.copy_(parameter.detach())
                mean.copy_(average)
                for key, place in places.items():
                    place.copy_(moments[key])
            parameter.data, average.data = weight, mean
            state[parameter] = places
        distributed.barrier()


def _wait_for_all() -> None:
    add_up(torch.zeros(1))  # nothing is summed before all have asked


def share_out(sizes: Sequence[int], processes: int) -> list[int]:
    """Return which process gets each: the largest first, to the one that has least."""
    owners, loads = [0] * len(sizes), [0] * processes
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        owners[i] = loads.index(min(loads))
        loads[owners[i]] += sizes[i]
    return owners


def _places(sizes: Sequence[int], owners: Sequence[int], processes: int) -> list[int]:
    """Return where each starts, those of one owner together."""
    starts, at = [0] * len(sizes), 0
    for process in range(processes):
        for i, owner in enumerate(owners):
            if owner == process:
                starts[i], at = at, at + sizes[i]
    return starts


def _slot(parameter: Tensor) -> int:
    """Return the room that a parameter takes, one number more and up to the next line."""
    return (parameter.numel() // LINE + 1) * LINE


def _view(row: Tensor, parameter: Tensor, start: int) -> Tensor:
    return row[start : start + parameter.numel()].view(parameter.shape)
