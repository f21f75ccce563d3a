"""Length of a run; learning rate, weight of the RoI losses and weight decay, by the step.

Steps count from 0.
"""

import math
from collections import defaultdict

from torch import nn, optim

from osteomet.config import TrainingConfig
from osteomet.models.layers import DepthwiseConv3d

FOCUSED_TAPS = 77
RATE_SCALES = (0.05, 4.0)
"""Bounds of a layer's learning rate over the given one."""


def steps_per_epoch(training_scans: int, config: TrainingConfig) -> int:
    """Return the steps in which each training scan is due ``patches_per_scan`` patches.

    Due, not given: which patient a patch shows is drawn, so that an epoch holds a scan so often
    on average.
    """
    return math.ceil(training_scans * config.patches_per_scan / config.batch_size)


def planned_steps(epoch_steps: int, config: TrainingConfig) -> int | None:
    """Return the steps of a whole run; None under a wall-clock budget, which is yet to be timed."""
    if config.budget_minutes is not None:
        return None
    return config.max_steps if config.epochs is None else config.epochs * epoch_steps


def learning_rate(step: int, total_steps: int | None, config: TrainingConfig) -> float:
    """Return the rate of one step: a linear rise over ``warmup_steps``, then the schedule.

    While the total is not known yet, which happens in the first steps under a wall-clock
    budget, the schedule stays at its start.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if total_steps is None:
        return config.learning_rate
    if config.schedule == "step":
        return config.learning_rate * (1.0 if step < config.step_at * total_steps else 0.1)
    span = max(1, total_steps - 1 - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / span)
    if config.schedule == "exponential":
        # final_rate 0 would be reached at once; a rate that small is 0 for every purpose
        return config.learning_rate * math.pow(max(config.final_rate, 1e-8), progress)
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return config.learning_rate * (config.final_rate + (1 - config.final_rate) * cosine)


def roi_weight(step: int, config: TrainingConfig) -> float:
    """Return the factor of the RoI losses, which rises to 1 while the RPN learns first.

    Proposals of an untrained RPN teach the heads little but their background.
    """
    if config.roi_warmup_steps == 0:
        return 1.0
    return min(1.0, (step + 1) / config.roi_warmup_steps)


def adamw(model: nn.Module, config: TrainingConfig) -> optim.AdamW:
    """Return AdamW that decays only the weights of linear maps and convolutions.

    Biases, norms and GRN's gamma and beta set a scale or an offset: decay would pull them
    from where the data put them.

    Adam moves every weight by about the learning rate, so that a layer's output moves by the
    rate times the number of its inputs: one rate is far too fast for a head with 16,000 inputs
    and too slow for a pointwise convolution with 48. With ``config.reference_fan_in`` each
    layer's rate is scaled to its fan-in (the rule of Tensor Programs V, arXiv:2203.03466); a
    group's ``rate_scale`` keeps the factor for the schedule.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_weight = parameter.ndim > 1 and name not in ("bias", "gamma", "beta")
            scale = _rate_scale(module, parameter, config) if is_weight else 1.0
            groups[scale, is_weight].append(parameter)
    return optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": config.weight_decay if is_weight else 0.0,
                "rate_scale": scale,
            }
            for (scale, is_weight), parameters in sorted(groups.items(), key=lambda g: g[0])
        ],
        lr=config.learning_rate,
        fused=True,
    )


def _rate_scale(module: nn.Module, weight: nn.Parameter, config: TrainingConfig) -> float:
    if config.reference_fan_in == 0:
        return 1.0
    # Of a focused depthwise kernel's taps about this many carry weight.
    fan_in = FOCUSED_TAPS if isinstance(module, DepthwiseConv3d) else weight[0].numel()
    low, high = RATE_SCALES
    return min(high, max(low, config.reference_fan_in / fan_in))
