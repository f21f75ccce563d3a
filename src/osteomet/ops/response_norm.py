"""Global response normalisation together with the GELU before and the linear map behind it.

GRN multiplies each channel of an image by one factor, ``1 + gamma * share``, and adds ``beta``.
Written as layers it reads the largest tensor of a ConvNeXt-V2 block three times forward and
seven times backward. But the factors can go into the weights of the linear map, and the norms
add up while GELU writes what they are of; so that is read but once, for the product. And the
gradient through the norms is a multiple of it, added where GELU's derivative is multiplied.

Source: Woo et al., "ConvNeXt V2", arXiv:2301.00808, Sec. 4.
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
from osteomet.ops.gelu import gelu_slope, gelu_value
from osteomet.ops.row_products import multiply_rows, sum_of_products

Voxels = Float[Tensor, "batch voxels channels"]

EPS = 1e-6
"""Added to the mean norm that a channel's norm is divided by."""

RUN = 32
"""Rows whose squares are summed in float32, before the sum joins one in float64."""
BLOCK = 16 * RUN
"""Rows of one task."""
SMALL = 200_000
"""Values of ``x`` below which to wake a second thread takes longer than the work."""


def linear_of_gelu_response_norm(
    x: Voxels,
    weight: Float[Tensor, "out channels"],
    bias: Float[Tensor, " out"],
    gamma: Float[Tensor, " channels"],
    beta: Float[Tensor, " channels"],
) -> Float[Tensor, "batch voxels out"]:
    """Return ``linear(a * response_factors(norms of a, gamma) + beta)``, where ``a = gelu(x)``.

    Args:
        x: of each image, its voxels, before GELU.
        weight: of the linear map.
        bias: of the linear map.
        gamma: how far each channel follows its share.
        beta: what is added to each channel.

    Returns:
        The map's output, in the dtype of ``x``.
    """
    apply: Callable[..., Tensor] = _LinearOfGeluResponseNorm.apply
    return apply(x, weight, bias, gamma, beta)


def response_factors(
    norms: Float[Tensor, "batch channels"], gamma: Float[Tensor, " channels"]
) -> Float[Tensor, "batch channels"]:
    """Return what each channel is multiplied by: 1 and ``gamma`` times its share of the norms."""
    return 1 + gamma * (norms / (norms.mean(dim=1, keepdim=True) + EPS))


def gelu_and_norms(x: Voxels) -> tuple[Voxels, Float[Tensor, "batch channels"]]:
    """Return GELU of ``x``, and of each channel of each image the root of its sum of squares.

    The norms are float32 or above. Neither has a gradient of its own.
    """
    x = x.detach()
    if not _by_loops(x):
        activated = F.gelu(x)
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        return activated, torch.linalg.vector_norm(activated, dim=1, dtype=dtype)
    batch, voxels, channels = x.shape
    blocks = -(-voxels // BLOCK)
    activated = torch.empty(x.shape)
    sums = np.zeros((batch * blocks, channels))
    arrays = x.contiguous().numpy(), activated.numpy(), sums
    run_ranges(_activate, batch * blocks, blocks, *arrays, max_threads=_threads(x))
    total = torch.from_numpy(sums).view(batch, blocks, channels).sum(dim=1)
    return activated, total.sqrt().float()


def factor_gradients(
    norms: Float[Tensor, "batch channels"],
    gamma: Float[Tensor, " channels"],
    grad: Float[Tensor, "batch channels"],
) -> tuple[Float[Tensor, "batch channels"], Float[Tensor, " channels"]]:
    """Return the gradients of the norms, each over its norm, and of ``gamma``.

    Args:
        norms: of each channel of each image.
        gamma: of ``response_factors``.
        grad: of the factors.
    """
    if _by_loops(norms, gamma, grad):  # some numbers: a dozen operators would take far longer
        per_value, grad_gamma = torch.empty_like(norms), torch.zeros_like(gamma)
        arrays = (t.detach().numpy() for t in (norms, gamma, grad, per_value, grad_gamma))
        _pull_back_factors(*arrays)
        return per_value, grad_gamma
    mean = norms.mean(dim=1, keepdim=True) + EPS
    share = norms / mean
    of_share = grad * gamma
    through_mean = (of_share * share).mean(dim=1, keepdim=True)
    # The norm's gradient is the value over the norm; of a channel that is 0 everywhere it is 0.
    per_value = torch.where(norms > 0, (of_share - through_mean) / (mean * norms), 0)
    return per_value, (grad * share).sum(dim=0)


def _dots(grad: Voxels, activated: Voxels, dtype: torch.dtype) -> Float[Tensor, "batch channels"]:
    """Return the sum of ``grad * activated`` over each image's voxels."""
    if not _by_loops(grad, activated):
        return (grad * activated).sum(dim=1, dtype=dtype)
    batch, _, channels = grad.shape
    sums = torch.empty(batch, channels)
    arrays = grad.contiguous().numpy(), activated.numpy(), sums.numpy()
    run_ranges(_add_products, batch, *arrays, max_threads=_threads(grad))
    return sums


def _pull_back(
    grad: Voxels,
    factors: Float[Tensor, "batch channels"] | None,
    per_value: Float[Tensor, "batch channels"],
    activated: Voxels,
    x: Voxels,
) -> Voxels:
    """Return the gradient of ``x``, given that of GELU's value but for what the norms add to it.

    ``grad`` is not needed any more; it is to be multiplied by the factors, where there are any.
    """
    if not _by_loops(grad, x):
        if factors is not None:
            grad *= factors[:, None].to(grad.dtype)
        grad.addcmul_(activated, per_value[:, None].to(grad.dtype))
        pulled: Tensor = torch.ops.aten.gelu_backward(grad, x)
        return pulled
    batch, voxels, _ = x.shape
    factors = torch.ones_like(per_value) if factors is None else factors
    arrays = (tensor.contiguous().numpy() for tensor in (grad, factors, per_value, activated, x))
    run_ranges(_chain, batch * voxels, voxels, *arrays, max_threads=_threads(x))
    return grad


def _by_loops(*tensors: Tensor) -> bool:
    return uses_numba(*tensors) and all(tensor.dtype == torch.float32 for tensor in tensors)


def _threads(x: Tensor) -> int | None:
    return 1 if x.numel() < SMALL else None


class _LinearOfGeluResponseNorm(torch.autograd.Function):
    """Where an image has fewer voxels than the map has outputs, factors multiply the values."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor
    ) -> Tensor:
        activated, norms = gelu_and_norms(x)
        factors = response_factors(norms, gamma)
        offset = torch.addmv(bias, weight, beta).to(x.dtype)
        kept = x, activated, weight, gamma, beta, norms, factors
        if x.shape[1] < len(weight):
            scaled = activated * factors[:, None].to(x.dtype)
            ctx.save_for_backward(*kept, scaled)
            return F.linear(scaled, weight.to(x.dtype), offset)
        ctx.save_for_backward(*kept)
        return multiply_rows(activated, (weight * factors[:, None]).mT.to(x.dtype), offset)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        x, activated, weight, gamma, beta, norms, factors, *scaled = ctx.saved_tensors
        grad = grad.to(x.dtype)
        if scaled:
            rows = grad.flatten(0, 1)
            grad_weight = (rows.T @ scaled[0].flatten(0, 1)).to(weight.dtype)
            grad_a = grad @ weight.to(grad.dtype)
            grad_factors, still = _dots(grad_a, activated, norms.dtype), factors
        else:
            of_image = sum_of_products(grad, activated).to(weight.dtype)  # (batch, out, channels)
            grad_weight = torch.einsum("boc,bc->oc", of_image, factors)
            grad_factors, still = torch.einsum("boc,oc->bc", of_image, weight), None
            grad_a = multiply_rows(grad, (weight * factors[:, None]).to(grad.dtype))
        per_value, grad_gamma = factor_gradients(norms, gamma, grad_factors)
        grad_x = _pull_back(grad_a, still, per_value, activated, x)
        grad_bias = grad.sum(dim=(0, 1), dtype=norms.dtype).to(weight.dtype)
        grad_weight.addr_(grad_bias, beta)
        return grad_x, grad_weight, grad_bias, grad_gamma, weight.T @ grad_bias


@compile_kernel
def _pull_back_factors(
    norms: np.ndarray,
    gamma: np.ndarray,
    grad: np.ndarray,
    per_value: np.ndarray,
    grad_gamma: np.ndarray,
) -> None:
    """Fill the gradients of the norms, each over its norm, and add up that of ``gamma``."""
    batch, channels = norms.shape
    for image in range(batch):
        mean = through_mean = 0.0
        for c in range(channels):
            mean += norms[image, c]
            through_mean += grad[image, c] * gamma[c] * norms[image, c]
        mean = mean / channels + EPS
        through_mean /= mean * channels
        for c in range(channels):
            norm, of_factor = norms[image, c], grad[image, c]
            grad_gamma[c] += of_factor * norm / mean
            per_value[image, c] = 0
            if norm > 0:
                per_value[image, c] = (of_factor * gamma[c] - through_mean) / (mean * norm)


@compile_kernel
def _activate(
    first: int, last: int, blocks: int, x: np.ndarray, activated: np.ndarray, sums: np.ndarray
) -> None:
    """Write GELU of blocks of voxels, of which each image has as many, and sum its squares."""
    voxels, channels = x.shape[1:]
    part = np.zeros(channels, np.float32)
    for task in range(first, last):
        image, begin = task // blocks, task % blocks * BLOCK
        total = sums[task]
        for start in range(begin, min(begin + BLOCK, voxels), RUN):
            part[:] = 0
            for voxel in range(start, min(start + RUN, voxels)):
                activate_row(x[image, voxel], activated[image, voxel], part)
            for c in range(channels):
                total[c] += part[c]


@partial(compile_kernel, inline=True)
def activate_row(row: np.ndarray, out: np.ndarray, squares: np.ndarray) -> None:
    """Write GELU of one voxel's channels, and add its squares to those of others."""
    for c in range(len(squares)):
        a = gelu_value(row[c])
        out[c] = a
        squares[c] += a * a


@compile_kernel
def _add_products(
    first: int, last: int, grad: np.ndarray, activated: np.ndarray, sums: np.ndarray
) -> None:
    """Fill images of ``sums`` with those of products over voxels."""
    for image in range(first, last):
        total = sums[image]
        total[:] = 0
        for voxel in range(grad.shape[1]):
            row, values = grad[image, voxel], activated[image, voxel]
            for c in range(len(total)):
                total[c] += row[c] * values[c]


@compile_kernel
def _chain(
    first: int,
    last: int,
    voxels: int,
    grad: np.ndarray,
    factors: np.ndarray,
    per_value: np.ndarray,
    activated: np.ndarray,
    x: np.ndarray,
) -> None:
    """Turn the gradient of GELU's values into that of ``x``, voxel by voxel."""
    for task in range(first, last):
        image, voxel = task // voxels, task % voxels
        out, factor, share = grad[image, voxel], factors[image], per_value[image]
        values, row = activated[image, voxel], x[image, voxel]
        for c in range(len(out)):
            out[c] = (out[c] * factor[c] + share[c] * values[c]) * gelu_slope(row[c])
