"""Exponential moving average of the weights: what is validated and saved."""

import copy
from collections.abc import Collection

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
        pairs = zip(self.model.named_parameters(), model.parameters(), strict=True)
        self._weights = {name: (average, trained) for (name, average), trained in pairs}
        self._buffers = list(zip(self.model.buffers(), model.buffers(), strict=True))

    @torch.no_grad()
    def update(self, names: Collection[str] | None = None) -> None:
        """Move the average towards the model it was made of; buffers are taken as they are.

        Args:
            names: of the parameters whose average moves; None moves all.
        """
        self.updates += 1
        pairs = [pair for name, pair in self._weights.items() if names is None or name in names]
        averages, trained = zip(*pairs, strict=True)
        move = get_ema_multi_avg_fn(self.current_decay())  # all parameters in one call
        move(averages, trained, None)
        for average, buffer in self._buffers:
            average.copy_(buffer)

    def current_decay(self) -> float:
        """Return the decay, which rises with the updates so that the start is soon forgotten."""
        return min(self.decay, self.updates / (self.updates + 9))
