"""Depthwise 3D convolution: each channel has its own kernel, as ConvNeXt's 7 x 7 x 7."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Features = Float[Tensor, "batch channels depth height width"]


def depthwise_conv3d(
    x: Features, weight: Float[Tensor, "channels 1 k k k"], bias: Float[Tensor, " channels"]
) -> Features:
    """Convolve each channel with its own cube, padded with zeros to keep the size.

    Args:
        x: features in any memory format.
        weight: one cube of odd side a channel.
        bias: one number a channel.

    Raises:
        ValueError: The side of the cube is even.
    """
    side = weight.shape[-1]
    if side % 2 == 0:
        raise ValueError(f"the kernel has side {side}; expected an odd one, which has a centre")
    return F.conv3d(x, weight, bias, padding=side // 2, groups=weight.shape[0])
