"""Learning rate, weight of the RoI losses and weight decay, as functions of the step.

Steps count from 0.
"""

import math

from torch import nn, optim

from osteomet.config import TrainingConfig


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
    """
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_weight = parameter.ndim > 1 and name.rpartition(".")[2] not in ("bias", "gamma", "beta")
        (decayed if is_weight else free).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return optim.AdamW([group for group in groups if group["params"]], lr=config.learning_rate)
