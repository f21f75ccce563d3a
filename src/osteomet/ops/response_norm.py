"""Global response normalisation together with the linear map that follows it.

GRN multiplies each channel of an image by one factor, ``1 + gamma * share``, and adds ``beta``.
Written as layers it reads the largest tensor of a ConvNeXt-V2 block three times forward and
seven times backward. But the factors can go into the weights of the linear map, so that ``x``
is read once for its norms and once for the product; and the gradient through the norms is a
multiple of ``x``, added while the other is still in the cache.

Source: Woo et al., "ConvNeXt V2", arXiv:2301.00808, Sec. 4.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from osteomet.ops.acceleration import compile_kernel, run_ranges, uses_numba

Voxels = Float[Tensor, "batch voxels channels"]

EPS = 1e-6
"""Added to the mean norm that a channel's norm is divided by."""

RUN = 32
"""Rows whose squares are summed in float32, before the sum joins one in float64."""
BLOCK = 16 * RUN
"""Rows of one task."""
SMALL = 200_000
"""Values of ``x`` below which to wake a second thread takes longer than the work."""


def linear_of_response_norm(
    x: Voxels,
    weight: Float[Tensor, "out channels"],
    bias: Float[Tensor, " out"],
    gamma: Float[Tensor, " channels"],
    beta: Float[Tensor, " channels"],
) -> Float[Tensor, "batch voxels out"]:
    """Return ``linear(x * response_factors(channel_norms(x), gamma) + beta)``.

    Args:
        x: of each image, its voxels.
        weight: of the linear map.
        bias: of the linear map.
        gamma: how far each channel follows its share.
        beta: what is added to each channel.

    Returns:
        The map's output, in the dtype of ``x``.
    """
    apply: Callable[..., Tensor] = _LinearOfResponseNorm.apply
    return apply(x, weight, bias, gamma, beta)


def response_factors(
    norms: Float[Tensor, "batch channels"], gamma: Float[Tensor, " channels"]
) -> Float[Tensor, "batch channels"]:
    """Return what each channel is multiplied by: 1 and ``gamma`` times its share of the norms."""
    return 1 + gamma * (norms / (norms.mean(dim=1, keepdim=True) + EPS))


def channel_norms(x: Voxels) -> Float[Tensor, "batch channels"]:
    """Return the root of the sum of squares of each channel of each image, in float32 or above.

    It has no gradient of its own.
    """
    if not uses_numba(x) or x.dtype != torch.float32:
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        norms: Tensor = torch.linalg.vector_norm(x.detach(), dim=1, dtype=dtype)
        return norms
    batch, voxels, channels = x.shape
    blocks = -(-voxels // BLOCK)
    sums = np.zeros((batch * blocks, channels))
    threads = 1 if x.numel() < SMALL else None
    array = x.detach().contiguous().numpy()
    run_ranges(_add_squares, batch * blocks, blocks, array, sums, max_threads=threads)
    total = torch.from_numpy(sums).view(batch, blocks, channels).sum(dim=1)
    return total.sqrt().float()


class _LinearOfResponseNorm(torch.autograd.Function):
    """Where an image has fewer voxels than the map has outputs, ``x`` itself is multiplied."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor
    ) -> Tensor:
        norms = channel_norms(x)
        factors = response_factors(norms, gamma)[:, None]  # (batch, 1, channels)
        ctx.save_for_backward(x, weight, gamma, beta, norms)
        offset = torch.addmv(bias, weight, beta).to(x.dtype)
        if x.shape[1] < len(weight):
            return F.linear(x * factors.to(x.dtype), weight.to(x.dtype), offset)
        return torch.baddbmm(offset, x, (weight * factors).mT.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        x, weight, gamma, beta, norms = ctx.saved_tensors
        grad = grad.to(x.dtype)
        with torch.enable_grad():
            leaves = norms.detach().requires_grad_(), gamma.detach().requires_grad_()
            factors = response_factors(*leaves)
        shown = factors.detach()[:, None]
        if x.shape[1] < len(weight):
            scaled = x * shown.to(x.dtype)
            grad_weight = (grad.flatten(0, 1).T @ scaled.flatten(0, 1)).to(weight.dtype)
            grad_x = grad @ weight.to(grad.dtype)
            grad_factors = (grad_x * x).sum(dim=1, dtype=norms.dtype)
            grad_x *= shown.to(x.dtype)
        else:
            of_image = torch.bmm(grad.mT, x).to(weight.dtype)  # (batch, out, channels)
            grad_weight = torch.einsum("boc,bc->oc", of_image, shown[:, 0])
            grad_factors = torch.einsum("boc,oc->bc", of_image, weight)
            grad_x = torch.bmm(grad, (weight * shown).to(grad.dtype))
        grad_norms, grad_gamma = torch.autograd.grad(factors, leaves, grad_factors)
        # The norm's gradient is x over the norm; of a channel that is 0 everywhere it is 0.
        per_x = torch.where(norms > 0, grad_norms / norms, 0).to(x.dtype)
        grad_x.addcmul_(x, per_x[:, None])
        grad_bias = grad.sum(dim=(0, 1), dtype=norms.dtype).to(weight.dtype)
        grad_weight.addr_(grad_bias, beta)
        return grad_x, grad_weight, grad_bias, grad_gamma, weight.T @ grad_bias


@compile_kernel
def _add_squares(first: int, last: int, blocks: int, x: np.ndarray, sums: np.ndarray) -> None:
    """Sum the squares of blocks of voxels, of which each image has as many."""
    voxels, channels = x.shape[1:]
    part = np.zeros(channels, np.float32)
    for task in range(first, last):
        image, begin = task // blocks, task % blocks * BLOCK
        total = sums[task]
        for start in range(begin, min(begin + BLOCK, voxels), RUN):
            part[:] = 0
            for voxel in range(start, min(start + RUN, voxels)):
                row = x[image, voxel]
                for c in range(channels):
                    part[c] += row[c] * row[c]
            for c in range(channels):
                total[c] += part[c]
