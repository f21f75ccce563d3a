"""The feature pyramid: coarse levels tell fine ones what they are looking at.

Source: Lin et al., "Feature Pyramid Networks", arXiv:1612.03144. Each level is normalised
before its lateral convolution, since stages of a ConvNeXt end in sums of growing size.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from osteomet.config import NeckConfig
from osteomet.models.layers import (
    LayerNorm3d,
    PointwiseConv3d,
    SeparableConv3d,
    initialise,
)


class FeaturePyramid(nn.Module):
    """Levels C to levels P of equal width, normalised.

    A level deeper than the backbone's last is made from the one above it by taking every
    second cell, as P6 is in Mask R-CNN.
    """

    def __init__(self, config: NeckConfig, in_channels: dict[int, int]) -> None:
        super().__init__()
        self.levels = config.levels
        self.from_backbone = [level for level in self.levels if level in in_channels]
        missing = [level for level in self.levels if level < min(in_channels)]
        if missing:
            raise ValueError(f"the backbone has no level {missing}; it has {sorted(in_channels)}")
        width = config.channels
        self.lateral = nn.ModuleDict()
        self.smooth = nn.ModuleDict()
        for level in self.from_backbone:
            channels = in_channels[level]
            self.lateral[str(level)] = nn.Sequential(
                LayerNorm3d(channels), PointwiseConv3d(channels, width)
            )
            self.smooth[str(level)] = nn.Sequential(
                convolution(config.convolution, width, width), LayerNorm3d(width)
            )
        initialise(self)

    def forward(self, features: dict[int, Tensor]) -> list[Tensor]:
        """Return ``(B, channels, Z, Y, X)`` per level of ``config.levels``."""
        pyramid: dict[int, Tensor] = {}
        coarse: Tensor | None = None
        for level in reversed(self.from_backbone):
            fine = self.lateral[str(level)](features[level])
            if coarse is not None:
                fine = fine + F.interpolate(coarse, size=fine.shape[2:], mode="nearest")
            coarse = fine
            pyramid[level] = self.smooth[str(level)](fine)
        for level in self.levels:
            if level not in pyramid:
                pyramid[level] = pyramid[level - 1][:, :, ::2, ::2, ::2]
        return [pyramid[level] for level in self.levels]


def convolution(kind: str, channels: int, out_channels: int) -> nn.Module:
    """Return the pyramid's and RPN's sliding convolution, ``separable`` or ``dense`` 3x3x3."""
    if kind == "separable":
        return SeparableConv3d(channels, out_channels)
    return nn.Conv3d(channels, out_channels, 3, padding=1)
