"""Sums over the processes that share a batch, so that a loss does not depend on how many they are.

Every loss is a ratio of sums over the batch. Where several processes hold a part of it each, a
ratio of one's own sums would weigh a patch by how much lies beside it in its own process.
"""

import torch
from jaxtyping import Float
from torch import Tensor, distributed


def over_processes(sums: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return the sum over all processes; all of them must ask for it, in the same order.

    The gradient is that of one's own part times the number of processes: data-parallel training
    averages gradients over them, which then gives the gradient of a single process.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return sums
    total = sums.detach().clone()
    distributed.all_reduce(total)
    return total + distributed.get_world_size() * (sums - sums.detach())


def mean_over_processes(total: Float[Tensor, ""], count: int | Tensor) -> Float[Tensor, ""]:
    """Return the sum of ``total`` over the sum of ``count``; 0, not NaN, where nothing counts."""
    sums = over_processes(torch.stack([total, total.new_tensor(float(count))]))
    return sums[0] / sums[1].clamp(min=1)
