"""The YOLOv8 backbone in 3D: C2f stages and SPPF.

Source: its published structure: Terven et al., "A Comprehensive Review of YOLO Architectures
in Computer Vision", arXiv:2304.00501, Sec. on YOLOv8 and its figure of the architecture;
layers and parameters as its training logs print them. C2f follows Wang et al., "Designing
Network Design Strategies Through Gradient Path Analysis", arXiv:2211.04800; the pooling
pyramid He et al., arXiv:1406.4729. Written from these alone; only the rank of the kernels
changes.
"""

import torch
from torch import nn
from torch.nn import functional as F

from osteomet.config import BackboneConfig, Normalisation
from osteomet.models.backbones.feature_levels import Backbone, Size, built_size, finest_level
from osteomet.models.layers import Features, initialise, normalisation3d

# Blocks of the largest, (3, 6, 6, 3), times a depth factor of 1/3 (n, s), 2/3 (m) and 1 (l, x);
# channels of l times a width factor, of which the last stage is capped.
SIZES = {
    "yolov8n": Size((1, 2, 2, 1), (32, 64, 128, 256)),
    "yolov8s": Size((1, 2, 2, 1), (64, 128, 256, 512)),
    "yolov8m": Size((2, 4, 4, 2), (96, 192, 384, 576)),
    "yolov8l": Size((3, 6, 6, 3), (128, 256, 512, 512)),
    "yolov8x": Size((3, 6, 6, 3), (160, 320, 640, 640)),
}

PYRAMID_STAGES = 4
"""SPPF follows the fourth stage, the last of the published network."""
POOL = 5
"""Side of SPPF's max pool, taken three times."""


class ConvBlock(nn.Sequential):
    """Convolution without bias, norm, SiLU."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        kernel_size: int,
        norm: Normalisation,
        stride: int = 1,
    ) -> None:
        padding = kernel_size // 2
        super().__init__(
            nn.Conv3d(channels, out_channels, kernel_size, stride, padding, bias=False),
            normalisation3d(norm, out_channels),
            nn.SiLU(),
        )


class Bottleneck(nn.Module):
    """Two 3x3x3 convolutions of one width; plus x."""

    def __init__(self, channels: int, norm: Normalisation) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvBlock(channels, channels, 3, norm), ConvBlock(channels, channels, 3, norm)
        )

    def forward(self, x: Features) -> Features:
        y: Features = x + self.layers(x)
        return y


class C2f(nn.Module):
    """Half of the channels pass, half go through a chain of bottlenecks; all are joined.

    What each bottleneck gives goes into the join too, so that every one of them has a short
    way to the loss.
    """

    def __init__(self, channels: int, depth: int, norm: Normalisation) -> None:
        super().__init__()
        width = max(1, channels // 2)
        self.split = ConvBlock(channels, 2 * width, 1, norm)
        self.chain = nn.ModuleList(Bottleneck(width, norm) for _ in range(depth))
        self.join = ConvBlock((2 + depth) * width, channels, 1, norm)

    def forward(self, x: Features) -> Features:
        parts = list(self.split(x).chunk(2, dim=1))
        for bottleneck in self.chain:
            parts.append(bottleneck(parts[-1]))
        y: Features = self.join(torch.cat(parts, dim=1))
        return y


class PoolingPyramid(nn.Module):
    """SPPF: the features beside their maxima over 5, 9 and 13 cells, by one pool taken thrice."""

    def __init__(self, channels: int, norm: Normalisation) -> None:
        super().__init__()
        width = max(1, channels // 2)
        self.reduce = ConvBlock(channels, width, 1, norm)
        self.join = ConvBlock(4 * width, channels, 1, norm)

    def forward(self, x: Features) -> Features:
        parts = [self.reduce(x)]
        for _ in range(3):
            parts.append(F.max_pool3d(parts[-1], POOL, stride=1, padding=POOL // 2))
        y: Features = self.join(torch.cat(parts, dim=1))
        return y


def yolov8(config: BackboneConfig, deepest_level: int) -> Backbone:
    """Return the YOLOv8 backbone that ``config.name`` says.

    The published stem has stride 4: two convolutions of stride 2. With a stem of stride 2
    the first one keeps the resolution.
    """
    size = built_size(config, SIZES[config.name], deepest_level)
    norm = config.normalisation
    stem_channels = max(1, size.dims[0] // 2)
    stem = ConvBlock(1, stem_channels, 3, norm, stride=config.stem_stride // 2)
    entries, stages, channels = [], [], stem_channels
    for number, (depth, dim) in enumerate(zip(size.depths, size.dims, strict=True), start=1):
        down = ConvBlock(channels, dim, 3, norm, stride=2)
        entries.append(nn.Sequential(stem, down) if number == 1 else down)
        layers: list[nn.Module] = [C2f(dim, depth, norm)]
        if number == PYRAMID_STAGES:
            layers.append(PoolingPyramid(dim, norm))
        stages.append(nn.Sequential(*layers))
        channels = dim
    backbone = Backbone(finest_level(config), entries, stages, size.dims)
    initialise(backbone)
    return backbone
