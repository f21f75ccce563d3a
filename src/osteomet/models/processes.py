"""Sums over the processes that share a batch, so that a loss does not depend on how many they are.

Every loss is a ratio of sums over the batch. Where several processes hold a part of it each, a
ratio of one's own sums would weigh a patch by how much lies beside it in its own process. The sums
of all losses are exchanged at once, when the last of them is there: at each exchange the processes
wait for the slowest.
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, distributed

AddUp = Callable[[Tensor], object]
"""Replaces numbers by their sums over all processes."""

_faster: ContextVar[AddUp | None] = ContextVar("_faster", default=None)


def add_up_by(faster: AddUp | None) -> None:
    """Let another function add up; None lets torch's own do it again. All processes must call."""
    _faster.set(faster)


def add_up(numbers: Tensor) -> None:
    """Replace numbers by their sums over all processes, which must all ask for as many at once."""
    (_faster.get() or distributed.all_reduce)(numbers)


@dataclass(frozen=True)
class PartialLoss:
    """What one part of a batch gives to a loss.

    Attributes:
        sums: over this part.
        of_sums: the loss, given the sums over all parts.
    """

    sums: Float[Tensor, " n"]
    of_sums: Callable[[Float[Tensor, " n"]], Float[Tensor, ""]]


def partial_mean(total: Float[Tensor, ""], count: int | Tensor) -> PartialLoss:
    """Return the sum of ``total`` over the sum of ``count``; 0, not NaN, where nothing counts."""
    return PartialLoss(torch.stack([total, total.new_tensor(float(count))]), _ratio)


def losses_over_processes(parts: Mapping[str, PartialLoss]) -> dict[str, Float[Tensor, ""]]:
    """Return the losses of the whole batch; all processes must ask for the same ones at once."""
    if not parts:
        return {}
    sums = over_processes(torch.cat([part.sums for part in parts.values()]))
    sizes = [len(part.sums) for part in parts.values()]
    of_each = dict(zip(parts, sums.split(sizes), strict=True))
    means = [name for name, part in parts.items() if part.of_sums is _ratio]
    others = [name for name in parts if name not in means]
    losses = {name: parts[name].of_sums(of_each[name]) for name in others}
    if means:  # at once: the operators of a ratio take longer than what they compute
        ratios = _ratio(torch.stack([of_each[name] for name in means], dim=1))
        losses |= zip(means, ratios, strict=True)
    return {name: losses[name] for name in parts}


def over_processes(sums: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return the sum over all processes; all of them must ask for it, in the same order.

    The gradient is that of one's own part times the number of processes: data-parallel training
    averages gradients over them, which then gives the gradient of a single process.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return sums
    total = sums.detach().clone()
    add_up(total)
    return total + distributed.get_world_size() * (sums - sums.detach())


def _ratio(sums: Float[Tensor, "2 means"]) -> Float[Tensor, " means"]:
    return sums[0] / sums[1].clamp(min=1)
