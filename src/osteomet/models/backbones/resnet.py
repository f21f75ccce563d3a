"""The ResNet backbone in 3D.

Source: He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385: Table 1
and Fig. 5. Stride 2 stands in the 3x3x3 convolution of a bottleneck, not in its first 1x1x1,
as in every implementation since (Goyal et al., arXiv:1706.02677, Sec. 5.1). Written from the
papers; only the rank of the kernels changes.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from osteomet.config import BackboneConfig, Normalisation
from osteomet.models.backbones.feature_levels import Backbone, Size, built_size, finest_level
from osteomet.models.layers import Features, drop_path, initialise, normalisation3d

SIZES = {
    "resnet18": Size((2, 2, 2, 2), (64, 128, 256, 512)),
    "resnet34": Size((3, 4, 6, 3), (64, 128, 256, 512)),
    "resnet50": Size((3, 4, 6, 3), (256, 512, 1024, 2048)),
    "resnet101": Size((3, 4, 23, 3), (256, 512, 1024, 2048)),
}

BOTTLENECKS = ("resnet50", "resnet101")
EXPANSION = 4
"""Channels that leave a bottleneck over those within it."""

Branch = Callable[[int, int, int, Normalisation], nn.Sequential]
"""Makes a block's convolutions from channels in, channels out, stride and kind of norm."""


class ResidualBlock(nn.Module):
    """The branch plus x, which a 1x1x1 convolution fits where channels or stride change."""

    def __init__(
        self,
        branch: nn.Sequential,
        shortcut: nn.Module,
        drop_probability: float,
    ) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        self.drop_probability = drop_probability

    def forward(self, x: Features) -> Float[Tensor, "batch out z_out y_out x_out"]:
        y = drop_path(self.branch(x), self.drop_probability, self.training)
        return F.relu(self.shortcut(x) + y)


def convolution(
    channels: int, out_channels: int, kernel_size: int, stride: int, norm: Normalisation
) -> nn.Sequential:
    """Return a convolution, which needs no bias before a norm, and the norm."""
    return nn.Sequential(
        nn.Conv3d(
            channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            bias=False,
        ),
        normalisation3d(norm, out_channels),
    )


def basic(channels: int, out_channels: int, stride: int, norm: Normalisation) -> nn.Sequential:
    """Return two 3x3x3 convolutions, of ResNet-18 and 34."""
    return nn.Sequential(
        convolution(channels, out_channels, 3, stride, norm),
        nn.ReLU(),
        convolution(out_channels, out_channels, 3, 1, norm),
    )


def bottleneck(channels: int, out_channels: int, stride: int, norm: Normalisation) -> nn.Sequential:
    """Return 1x1x1, 3x3x3 at a quarter of the width, 1x1x1, of ResNet-50 and 101."""
    width = max(1, out_channels // EXPANSION)
    return nn.Sequential(
        convolution(channels, width, 1, 1, norm),
        nn.ReLU(),
        convolution(width, width, 3, stride, norm),
        nn.ReLU(),
        convolution(width, out_channels, 1, 1, norm),
    )


def resnet(config: BackboneConfig, deepest_level: int) -> Backbone:
    """Return the ResNet that ``config.name`` says.

    The published stem has stride 4: a convolution and a max pool. With a stem of stride 2
    the pool is left out.
    """
    size = built_size(config, SIZES[config.name], deepest_level)
    wide = config.name in BOTTLENECKS
    branch: Branch = bottleneck if wide else basic
    norm = config.normalisation
    channels = max(1, size.dims[0] // EXPANSION) if wide else size.dims[0]
    stem = [convolution(1, channels, 7, 2, norm), nn.ReLU()]
    if config.stem_stride == 4:
        stem.append(nn.MaxPool3d(3, stride=2, padding=1))
    last = max(1, sum(size.depths) - 1)
    rates = iter([config.drop_path * index / last for index in range(sum(size.depths))])
    stages = []
    for number, (depth, dim) in enumerate(zip(size.depths, size.dims, strict=True)):
        blocks = []
        for index in range(depth):
            stride = 2 if number > 0 and index == 0 else 1
            shortcut: nn.Module = nn.Identity()
            if stride > 1 or channels != dim:
                shortcut = convolution(channels, dim, 1, stride, norm)
            blocks.append(ResidualBlock(branch(channels, dim, stride, norm), shortcut, next(rates)))
            channels = dim
        stages.append(nn.Sequential(*blocks))
    # A stage's first block goes one level coarser by itself.
    entries = [nn.Sequential(*stem), *(nn.Identity() for _ in stages[1:])]
    backbone = Backbone(finest_level(config), entries, stages, size.dims)
    initialise(backbone)
    return backbone
