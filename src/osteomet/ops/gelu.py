"""GELU, ``x`` times the share of a normal distribution that lies below ``x``.

torch evaluates exact error functions, and backward an exponential as well, so that a CPU spends
more on GELU than on the products beside it. Both curves less one half are odd, and a quotient
of two polynomials in the square of ``x`` follows each within the rounding of float32.

Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", arXiv:1606.08415.
"""

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

Values = Float[Tensor, "*shape"]

SMALL = 100_000
"""Values below which to wake a second thread takes longer than the work."""

Coefficients = tuple[np.float32, ...]


def _coefficients(*values: float) -> Coefficients:
    return tuple(np.float32(value) for value in values)


HALF = np.float32(0.5)
SHARE_END, SLOPE_END = np.float32(5.4), np.float32(6.0)
"""Beyond which, on either side, the curves lie within rounding of 0 and 1."""
SHARE_OVER = _coefficients(
    0.398942245, 0.0333721091, 0.00465084269, 1.64320332e-4, 6.35999774e-6, 2.33867502e-8
)  # fmt: skip
SHARE_UNDER = _coefficients(
    1.0, 0.250317561, 0.028378616, 0.00185897382, 7.23996807e-5, 1.2165898e-6
)  # fmt: skip
SLOPE_OVER = _coefficients(
    0.797884526, -0.0307435992, 0.014209191, 2.41807234e-5, 3.58507709e-5, 1.9088745e-7
)  # fmt: skip
SLOPE_UNDER = _coefficients(
    1.0, 0.294805479, 0.0410646636, 0.00352875739, 1.93519463e-4, 8.88755915e-6
)  # fmt: skip
"""Least largest error over ``[0, end]``: 5e-9 of the share, 1.4e-7 of the slope."""


def gelu(x: Values) -> Values:
    """Return ``F.gelu(x)``."""
    if not uses_numba(x) or x.dtype != torch.float32:
        return F.gelu(x)
    apply: Callable[..., Tensor] = _GELU.apply
    return apply(x.contiguous())


class _GELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        y = torch.empty_like(x)
        _run(_activate, x, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        grad_x = torch.empty_like(x)
        _run(_pull_back, x, grad.contiguous(), grad_x)
        return grad_x


def _run(kernel: Callable[..., None], *tensors: Tensor) -> None:
    arrays = [tensor.detach().view(-1).numpy() for tensor in tensors]
    threads = 1 if len(arrays[0]) < SMALL else None
    run_ranges(kernel, len(arrays[0]), *arrays, max_threads=threads)


@partial(compile_kernel, inline=True)
def _odd_quotient(
    x: np.float32, end: np.float32, over: Coefficients, under: Coefficients
) -> np.float32:
    """Return ``x * over(x**2) / under(x**2)``, of ``end`` beyond it. NaN stays NaN."""
    x = end if x > end else (-end if x < -end else x)
    t = x * x
    a = over[0] + t * (over[1] + t * (over[2] + t * (over[3] + t * (over[4] + t * over[5]))))
    b = under[0] + t * (under[1] + t * (under[2] + t * (under[3] + t * (under[4] + t * under[5]))))
    return x * a / b


@partial(compile_kernel, inline=True)
def gelu_value(x: np.float32) -> np.float32:
    """Return GELU."""
    return x * (HALF + _odd_quotient(x, SHARE_END, SHARE_OVER, SHARE_UNDER))


@partial(compile_kernel, inline=True)
def gelu_slope(x: np.float32) -> np.float32:
    """Return its derivative."""
    return HALF + _odd_quotient(x, SLOPE_END, SLOPE_OVER, SLOPE_UNDER)


@compile_kernel
def _activate(first: int, last: int, x: np.ndarray, y: np.ndarray) -> None:
    x, y = x[first:last], y[first:last]
    for i in range(len(x)):
        y[i] = gelu_value(x[i])


@compile_kernel
def _pull_back(first: int, last: int, x: np.ndarray, grad: np.ndarray, grad_x: np.ndarray) -> None:
    x, grad, grad_x = x[first:last], grad[first:last], grad_x[first:last]
    for i in range(len(x)):
        grad_x[i] = grad[i] * gelu_slope(x[i])
