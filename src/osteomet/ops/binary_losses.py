"""Cross-entropy and overlap of voxels that are something or not, in one pass over them.

A loss of a segmentation needs but a few sums over its voxels. From torch's operators they take ten
passes with an exponential in three of them, and as many backward; the loops here take one each
way, and evaluate polynomials, which are vectors where a library's exponential is not.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from osteomet.ops.acceleration import compile_kernel, run_ranges, uses_numba

Rows = Float[Tensor, "rows voxels"]
Coefficients = tuple[np.float32, ...]

BLOCK = 4096
"""Voxels whose sums are float32, before they join others in float64."""
SMALL = 100_000
"""Voxels below which to wake a second thread takes longer than the work."""


def _coefficients(*values: float) -> Coefficients:
    return tuple(np.float32(value) for value in values)


ZERO, ONE, LOG2_E = _coefficients(0.0, 1.0, 1 / math.log(2))
FARTHEST = np.float32(87.0)
"""Whose exponential is the least that is a normal float32 number."""
BIAS, FRACTION_BITS = np.int32(127), np.int32(23)
"""Of a float32 number's exponent, and the bits after it."""
POWER_OF_2 = _coefficients(
    1.0, 0.693147207, 0.240226513, 0.0555032721, 0.00961802560, 0.00134004322, 1.54697320e-4
)  # fmt: skip
"""Over [-1/2, 1/2], to 3e-9."""
LOG_OF_1_PLUS = _coefficients(
    5.23940302e-9, 0.999998911, -0.499962245, 0.332818425, -0.246356606, 0.184688485,
    -0.125266614, 0.0665124793, -0.0230382799, 0.00375262422,
)  # fmt: skip
"""Over [0, 1], to 5e-9."""


def entropy_and_overlap(logits: Rows, truth: Rows) -> Float[Tensor, "rows 4"]:
    """Return four sums over the voxels of each row.

    Args:
        logits: of being something.
        truth: 1 where it is and 0 where it is not, or between; below 0 a voxel does not count.

    Returns:
        Cross-entropy times truth, cross-entropy, probability times truth, and probability.
    """
    numbers = (logits, truth)
    if not uses_numba(*numbers) or any(tensor.dtype != torch.float32 for tensor in numbers):
        return _by_torch(logits, truth)
    apply: Callable[..., Tensor] = _EntropyAndOverlap.apply
    return apply(logits.contiguous(), truth.contiguous())


def _by_torch(logits: Tensor, truth: Tensor) -> Tensor:
    counted, truth = truth >= 0, truth.clamp(min=0).to(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * counted
    p = logits.sigmoid() * counted
    return torch.stack([entropy * truth, entropy, p * truth, p]).sum(dim=2).T


class _EntropyAndOverlap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, truth: Tensor) -> Tensor:
        p = torch.empty_like(logits)
        ctx.save_for_backward(p, truth)
        rows, voxels = logits.shape
        blocks = -(-voxels // BLOCK)
        sums = np.empty((rows, blocks, 4))
        _run(_sum, rows * blocks, logits.detach().numpy(), truth.numpy(), p.numpy(), sums)
        return torch.from_numpy(sums.sum(axis=1).astype(np.float32))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        p, truth = ctx.saved_tensors
        grad_logits = torch.empty_like(p)
        arrays = p.numpy(), truth.numpy(), grad.contiguous().numpy(), grad_logits.numpy()
        _run(_pull_back, len(p) * -(-p.shape[1] // BLOCK), *arrays)
        return grad_logits, None


def _run(kernel: Callable[..., None], count: int, values: np.ndarray, *others: np.ndarray) -> None:
    threads = 1 if values.size < SMALL else None
    run_ranges(kernel, count, values, *others, max_threads=threads)


@partial(compile_kernel, inline=True)
def _polynomial(x: np.float32, coefficients: Coefficients) -> np.float32:
    value = coefficients[-1]
    for i in range(len(coefficients) - 2, -1, -1):
        value = coefficients[i] + x * value
    return value


@partial(compile_kernel, inline=True)
def _exponential_of_minus(x: np.float32) -> np.float32:
    """Return ``exp(-x)`` of what is not negative."""
    power = (-x if x < FARTHEST else -FARTHEST) * LOG2_E
    whole = np.rint(power)
    scale = np.int32((np.int32(whole) + BIAS) << FRACTION_BITS).view(np.float32)
    return _polynomial(power - whole, POWER_OF_2) * scale


@compile_kernel
def _sum(
    first: int,
    last: int,
    logits: np.ndarray,
    truth: np.ndarray,
    p: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Fill probabilities and sums of blocks of voxels, of which each row has as many."""
    blocks = sums.shape[1]
    for task in range(first, last):
        row, block = task // blocks, task % blocks
        x = logits[row, block * BLOCK : (block + 1) * BLOCK]
        true, out = truth[row, block * BLOCK :], p[row, block * BLOCK :]
        entropy_inside = entropy = overlap = volume = ZERO
        for i in range(len(x)):
            counted = ONE if true[i] >= ZERO else ZERO
            t = true[i] * counted
            small = _exponential_of_minus(abs(x[i]))
            above = ONE / (ONE + small)
            probability = above if x[i] > ZERO else small * above
            out[i] = probability
            positive = x[i] if x[i] > ZERO else ZERO
            e = (positive - x[i] * t + _polynomial(small, LOG_OF_1_PLUS)) * counted
            entropy_inside += e * t
            entropy += e
            overlap += probability * t
            volume += probability * counted
        total = sums[row, block]
        total[0], total[1], total[2], total[3] = entropy_inside, entropy, overlap, volume


@compile_kernel
def _pull_back(
    first: int,
    last: int,
    p: np.ndarray,
    truth: np.ndarray,
    grad: np.ndarray,
    grad_logits: np.ndarray,
) -> None:
    blocks = -(-p.shape[1] // BLOCK)
    for task in range(first, last):
        row, block = task // blocks, task % blocks
        probabilities = p[row, block * BLOCK : (block + 1) * BLOCK]
        true, out = truth[row, block * BLOCK :], grad_logits[row, block * BLOCK :]
        entropy_inside, entropy, overlap, volume = grad[row]
        for i in range(len(probabilities)):
            q, t = probabilities[i], true[i]
            of_entropy = (entropy + entropy_inside * t) * (q - t)
            of_p = (volume + overlap * t) * (q * (ONE - q))
            out[i] = of_entropy + of_p if t >= ZERO else ZERO
