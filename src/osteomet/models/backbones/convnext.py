"""The ConvNeXt backbone in 3D, and what it shares with its second version.

Source: Liu et al., "A ConvNet for the 2020s", arXiv:2201.03545: block in Fig. 4, sizes in
Sec. 3; those below tiny are the widths and depths of ConvNeXt V2 (arXiv:2301.00808, Appendix
A). Written from the papers; only the rank of the kernels changes.
"""

import itertools
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from osteomet.config import BackboneConfig
from osteomet.models.backbones.feature_levels import Backbone, Size, built_size, finest_level
from osteomet.models.layers import (
    DepthwiseConv3d,
    Features,
    LayerNorm,
    LayerNorm3d,
    Linear,
    PatchifyConv3d,
    Visible,
    drop_path,
    initialise,
    keep_visible,
)
from osteomet.ops.gelu import gelu

SIZES = {
    "convnext_atto": Size((2, 2, 6, 2), (40, 80, 160, 320)),
    "convnext_femto": Size((2, 2, 6, 2), (48, 96, 192, 384)),
    "convnext_pico": Size((2, 2, 6, 2), (64, 128, 256, 512)),
    "convnext_nano": Size((2, 2, 8, 2), (80, 160, 320, 640)),
    "convnext_tiny": Size((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnext_small": Size((3, 3, 27, 3), (96, 192, 384, 768)),
    "convnext_base": Size((3, 3, 27, 3), (128, 256, 512, 1024)),
    "convnext_large": Size((3, 3, 27, 3), (192, 384, 768, 1536)),
    "convnext_xlarge": Size((3, 3, 27, 3), (256, 512, 1024, 2048)),
}

LAYER_SCALE = 0.1
"""At the start. The published 1e-6 suits hundreds of epochs; here hundreds of steps must do."""

BlockOf = Callable[[int, float], nn.Module]
"""Makes a block from its channels and its probability of being dropped."""


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7x7, LayerNorm, 1x1x1 to four times the width, GELU, 1x1x1, scale; plus x."""

    def __init__(self, channels: int, drop_probability: float = 0.0) -> None:
        super().__init__()
        self.depthwise = DepthwiseConv3d(channels, kernel_size=7)
        self.norm = LayerNorm(channels)
        self.expand = Linear(channels, 4 * channels)
        self.project = Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), LAYER_SCALE))
        self.drop_probability = drop_probability

    def forward(self, x: Features, visible: Visible | None = None) -> Features:
        """Return ``x`` and what is added to it; a cell that is not ``visible`` stays 0."""
        y = self.depthwise(x).movedim(1, -1)  # a view: memory is channels last
        y = self.gamma * self.project(gelu(self.expand(self.norm(y))))
        y = keep_visible(y.movedim(-1, 1), visible)
        return x + drop_path(y, self.drop_probability, self.training)


def convnext(config: BackboneConfig, deepest_level: int) -> Backbone:
    """Return the ConvNeXt that ``config.name`` says."""
    return assemble(config, SIZES[config.name], deepest_level, ConvNeXtBlock)


def assemble(
    config: BackboneConfig, published: Size, deepest_level: int, block: BlockOf
) -> Backbone:
    """Return patchifying stem, downsampling layers and stages of ``block``."""
    size = built_size(config, published, deepest_level)
    last = max(1, sum(size.depths) - 1)
    rates = [config.drop_path * index / last for index in range(sum(size.depths))]
    stem = PatchifyConv3d(1, size.dims[0], config.stem_stride)
    entries = [nn.Sequential(stem, LayerNorm3d(size.dims[0]))]
    for narrow, wide in itertools.pairwise(size.dims):
        entries.append(nn.Sequential(LayerNorm3d(narrow), PatchifyConv3d(narrow, wide, 2)))
    stages = [
        nn.Sequential(*(block(dim, rates.pop(0)) for _ in range(depth)))
        for depth, dim in zip(size.depths, size.dims, strict=True)
    ]
    backbone = Backbone(finest_level(config), entries, stages, size.dims)
    initialise(backbone)
    # The norm behind the stem keeps only the direction of each cell's features. Without a
    # bias bright and faint cells would have the same direction, and HU would be lost.
    nn.init.normal_(cast("Tensor", stem.bias), std=0.5)
    return backbone
