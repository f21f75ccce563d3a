"""Exponential moving average of the weights: what is validated and saved."""

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class ExponentialMovingAverage:
    """A second model whose weights trail the trained ones.

    Attributes:
        model: the averaged model, in eval mode and without gradients.
        updates: averages taken so far.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards ``model``; buffers are taken as they are."""
        self.updates += 1
        trained = dict(model.named_parameters())
        names, averages = zip(*self.model.named_parameters(), strict=True)
        move = get_ema_multi_avg_fn(self.current_decay())  # all parameters in one call
        move(averages, [trained[name] for name in names], None)
        buffers = dict(model.named_buffers())
        for name, buffer in self.model.named_buffers():
            buffer.copy_(buffers[name])

    def current_decay(self) -> float:
        """Return the decay, which rises with the updates so that the start is soon forgotten."""
        return min(self.decay, self.updates / (self.updates + 9))
