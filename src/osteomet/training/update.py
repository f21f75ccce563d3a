"""What follows a gradient: clipping, the optimiser's step, and the average of the weights.

Each process does all of it, or those of one machine share it: weights, their average and the
optimiser's moments then lie once in memory that all of them see. Each process lays its gradient
beside those of the others, and when all are there it adds up, clips and follows its own part. Gloo
instead sends gradients through sockets, and every process updates all weights, which together is a
sixth of a small network's step.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, distributed, nn

from osteomet.training.shared_memory import open_shared_rows
from osteomet.training.state import Learner

LINE = 16
"""Numbers in a cache line, on which each parameter starts."""
KEPT = 4
"""Rows of shared memory beside the gradients: weights, their average, and Adam's two moments."""


class Update(ABC):
    """Follows the gradients that backward left."""

    @abstractmethod
    def follow(self) -> float:
        """Return the norm of the gradient; nothing is updated if it is not finite."""


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

    def follow(self) -> float:
        learner = self.learner
        total = self.fabric.clip_gradients(
            learner.model, learner.optimizer, max_norm=self.max_norm, error_if_nonfinite=False
        )
        norm = float(cast("Tensor", total))
        if math.isfinite(norm):
            learner.optimizer.step()
            learner.average.update()
        learner.optimizer.zero_grad(set_to_none=True)
        return norm


class SharedUpdate(Update):
    """Each process updates its part of weights that all of them see.

    Args:
        learner: whose weights, average and moments are moved to shared memory; those of the first
            process count. Its optimiser is one of Adam's kind.
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
        starts, bounds = _places(sizes, owners, self._processes)
        own = slice(*bounds[self._rank : self._rank + 2])
        laid, kept = memory.split([self._processes, KEPT])
        places = list(zip(self._parameters, starts, owners, strict=True))
        self._laid = [_view(laid[self._rank], parameter, start) for parameter, start, _ in places]
        self._parts = laid[:, own]
        self._total = torch.zeros(own.stop - own.start)
        self._own = [
            (parameter, _view(self._total, parameter, start - own.start))
            for parameter, start, owner in places
            if owner == self._rank
        ]
        self._own_names = {n for n, owner in zip(names, owners, strict=True) if owner == self._rank}
        self._move(kept, names, starts)

    def follow(self) -> float:
        """Add up, clip and follow the part of the gradient that belongs to this process."""
        learner = self.learner
        with torch.no_grad():
            for place, parameter in zip(self._laid, self._parameters, strict=True):
                if parameter.grad is None:
                    place.zero_()
                else:
                    place.copy_(parameter.grad)
        learner.optimizer.zero_grad(set_to_none=True)
        distributed.barrier()  # all have laid down theirs
        for buffer in learner.model.buffers():  # statistics of a batch normalisation
            distributed.broadcast(buffer, 0)
        norm = self._add_up()
        if math.isfinite(norm):
            self._total.mul_(min(1.0, self.max_norm / (norm + 1e-6)) / self._processes)
            for parameter, gradient in self._own:
                parameter.grad = gradient
            learner.optimizer.step()
            learner.optimizer.zero_grad(set_to_none=True)
            learner.average.update(self._own_names)
        distributed.barrier()  # all have updated theirs
        return norm

    def _add_up(self) -> float:
        """Fill the own part of the sum over all processes, and return the norm of the mean."""
        torch.add(self._parts[0], self._parts[1], out=self._total)
        for part in self._parts[2:]:
            self._total.add_(part)
        square = torch.linalg.vector_norm(self._total).double().square()
        distributed.all_reduce(square)
        return math.sqrt(square) / self._processes if math.isfinite(square) else math.inf

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


def share_out(sizes: Sequence[int], processes: int) -> list[int]:
    """Return which process gets each: the largest first, to the one that has least."""
    owners, loads = [0] * len(sizes), [0] * processes
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        owners[i] = loads.index(min(loads))
        loads[owners[i]] += sizes[i]
    return owners


def _places(
    sizes: Sequence[int], owners: Sequence[int], processes: int
) -> tuple[list[int], list[int]]:
    """Return where each starts, those of one owner together, and where each owner's begin."""
    starts, bounds, at = [0] * len(sizes), [0], 0
    for process in range(processes):
        for i, owner in enumerate(owners):
            if owner == process:
                starts[i], at = at, at + sizes[i]
        bounds.append(at)
    return starts, bounds


def _slot(parameter: Tensor) -> int:
    """Return the room that a parameter takes, one number more and up to the next line."""
    return (parameter.numel() // LINE + 1) * LINE


def _view(row: Tensor, parameter: Tensor, start: int) -> Tensor:
    return row[start : start + parameter.numel()].view(parameter.shape)
