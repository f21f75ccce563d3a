"""Dense 3 x 3 x 3 convolution, as a mask head's; on a CPU with a third of its products.

Torch computes it and the gradient of its input at the speed of a matrix product, the gradient of
its weights at less than half of that. ``ops.winograd`` takes half to three quarters as long.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from osteomet.ops import winograd
from osteomet.ops.acceleration import uses_numba

Features = Float[Tensor, "batch channels z y x"]
Beside = Float[Tensor, "batch more z y x"]
Output = Float[Tensor, "batch out z y x"]
Weight = Float[Tensor, "out all_channels 3 3 3"]


def dense_conv3d(
    x: Features, weight: Weight, bias: Float[Tensor, " out"], beside: Beside | None = None
) -> Output:
    """Return ``F.conv3d(x, weight, bias, padding=1)``.

    Args:
        x: features.
        weight: of the features and, after them, what is beside them.
        bias: of the outputs.
        beside: more channels of the input, which need no gradient.
    """
    numbers = [tensor for tensor in (x, weight, bias, beside) if tensor is not None]
    is_wide = uses_numba(*numbers) and all(tensor.dtype == torch.float32 for tensor in numbers)
    if not is_wide or torch.is_autocast_enabled(x.device.type):
        joined = x if beside is None else torch.cat([x, beside], dim=1)
        joined = joined.contiguous(memory_format=torch.channels_last_3d)
        return F.conv3d(joined, weight, bias, padding=1)
    joined = x.detach() if beside is None else torch.cat([x.detach(), beside], dim=1)
    apply: Callable[..., Tensor] = _DenseConv3d.apply
    return apply(x, weight, bias, joined.contiguous(memory_format=torch.channels_last_3d))


TORCH_CONVOLVES = torch.backends.cpu.get_cpu_capability() == "AVX512"
"""There the loops were not timed; torch's gradient of weights is slow everywhere."""


class _DenseConv3d(torch.autograd.Function):
    """The convolution of ``joined``, of which ``x`` are the first channels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, joined: Tensor) -> Tensor:
        ctx.channels = x.shape[1]
        ctx.save_for_backward(joined, weight)
        return _convolve(joined, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        joined, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            flipped = weight[:, : ctx.channels].flip(2, 3, 4).transpose(0, 1)
            grad_x = _convolve(grad, flipped)
        if ctx.needs_input_grad[1]:
            grad_weight = winograd.weight_gradient(joined, grad)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(dim=(0, 2, 3, 4))
        return grad_x, grad_weight, grad_bias, None


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if TORCH_CONVOLVES:
        return F.conv3d(x, weight, bias, padding=1)
    return winograd.convolve(x, weight, bias)
