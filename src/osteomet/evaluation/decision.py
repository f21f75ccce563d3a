"""Decision curves: what acting on a prediction is worth, for every view of what errors cost.

Someone who acts from a probability of t up would act in vain on (1 - t) / t others for the sake of
one lung patient. The net benefit counts both on that scale, in lung patients per patient; a model
is of use at t where it beats acting on everyone and acting on no one.

Source: Vickers and Elkin, Medical Decision Making 2006; 26: 565-574.
"""

import numpy as np
from jaxtyping import Bool, Float

THRESHOLDS = np.linspace(0.05, 0.95, 19)


def net_benefit(
    is_lung: Bool[np.ndarray, " n"],
    p_lung: Float[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"],
    thresholds: Float[np.ndarray, " k"],
) -> Float[np.ndarray, " k"]:
    """Return the net benefit of acting from each threshold up; NaN without patients.

    Args:
        is_lung: the truth.
        p_lung: predictions.
        weights: of the patients.
        thresholds: within (0, 1).
    """
    total = float(weights.sum())
    if total <= 0:
        return np.full(len(thresholds), np.nan)
    acted = p_lung[None] >= thresholds[:, None]
    hits = acted @ (weights * is_lung) / total
    vain = acted @ (weights * ~is_lung) / total
    benefit: Float[np.ndarray, " k"] = hits - vain * thresholds / (1 - thresholds)
    return benefit


def net_benefit_of_all(
    is_lung: Bool[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"],
    thresholds: Float[np.ndarray, " k"],
) -> Float[np.ndarray, " k"]:
    """Return the net benefit of acting on everyone."""
    return net_benefit(is_lung, np.ones(len(is_lung)), weights, thresholds)
