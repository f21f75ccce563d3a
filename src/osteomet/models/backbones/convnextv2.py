"""The ConvNeXt V2 backbone in 3D.

Source: Woo et al., "ConvNeXt V2", arXiv:2301.00808: block in Fig. 5, GRN in Sec. 4, sizes
in Table 9 and Appendix A. Written from the paper; only the rank of the kernels changes.
"""

import itertools
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from osteomet.config import BackboneConfig
from osteomet.models.layers import (
    DepthwiseConv3d,
    Features,
    LayerNorm3d,
    PatchifyConv3d,
    drop_path,
    initialise,
)

ChannelsLast = Float[Tensor, "batch z y x channels"]


@dataclass(frozen=True)
class Size:
    """Blocks and channels of the four stages."""

    depths: tuple[int, ...]
    dims: tuple[int, ...]


SIZES = {
    "convnextv2_atto": Size((2, 2, 6, 2), (40, 80, 160, 320)),
    "convnextv2_femto": Size((2, 2, 6, 2), (48, 96, 192, 384)),
    "convnextv2_pico": Size((2, 2, 6, 2), (64, 128, 256, 512)),
    "convnextv2_nano": Size((2, 2, 8, 2), (80, 160, 320, 640)),
    "convnextv2_tiny": Size((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnextv2_base": Size((3, 3, 27, 3), (128, 256, 512, 1024)),
    "convnextv2_large": Size((3, 3, 27, 3), (192, 384, 768, 1536)),
    "convnextv2_huge": Size((3, 3, 27, 3), (352, 704, 1408, 2816)),
}


class GlobalResponseNorm(nn.Module):
    """Make channels compete: scale each one by its share of the spatial energy.

    ``gamma`` and ``beta`` start at 0, so at initialisation the layer is the identity.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: ChannelsLast) -> ChannelsLast:
        energy: Tensor = torch.linalg.vector_norm(
            x, dim=(1, 2, 3), keepdim=True, dtype=torch.float32
        )
        share = energy / (energy.mean(dim=-1, keepdim=True) + self.eps)
        # x + gamma * (x * share) + beta, with one pass over x instead of three.
        return torch.addcmul(self.beta.to(x.dtype), x, (1 + self.gamma * share).to(x.dtype))


class ConvNeXtV2Block(nn.Module):
    """Depthwise 7x7x7, LayerNorm, 1x1x1 to four times the width, GELU, GRN, 1x1x1; plus x."""

    def __init__(self, channels: int, drop_probability: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= drop_probability < 1.0:
            raise ValueError(f"drop_probability must lie in [0, 1), got {drop_probability}")
        self.depthwise = DepthwiseConv3d(channels, kernel_size=7)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, 4 * channels)
        self.grn = GlobalResponseNorm(4 * channels)
        self.project = nn.Linear(4 * channels, channels)
        self.drop_probability = drop_probability

    def forward(self, x: Features) -> Features:
        y = self.depthwise(x).movedim(1, -1)  # a view: memory is channels last
        y = self.project(self.grn(F.gelu(self.expand(self.norm(y)))))
        return x + drop_path(y.movedim(-1, 1), self.drop_probability, self.training)


class ConvNeXtV2(nn.Module):
    """Stem and stages; a stage beyond ``deepest_level`` is not built.

    Attributes:
        channels: channels of each level, by level number.
    """

    def __init__(self, config: BackboneConfig, deepest_level: int) -> None:
        super().__init__()
        size = SIZES[config.name]
        depths, dims = config.depths or size.depths, config.dims or size.dims
        first_level = config.stem_stride.bit_length() - 1
        stages = min(len(dims), deepest_level - first_level + 1)
        depths, dims = depths[:stages], dims[:stages]
        self.levels = tuple(range(first_level, first_level + stages))
        self.channels = dict(zip(self.levels, dims, strict=True))
        last = max(1, sum(depths) - 1)
        rates = [config.drop_path * block / last for block in range(sum(depths))]
        stem = PatchifyConv3d(1, dims[0], config.stem_stride)
        self.entries = nn.ModuleList([nn.Sequential(stem, LayerNorm3d(dims[0]))])
        for narrow, wide in itertools.pairwise(dims):
            self.entries.append(nn.Sequential(LayerNorm3d(narrow), PatchifyConv3d(narrow, wide, 2)))
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvNeXtV2Block(dim, rates.pop(0)) for _ in range(depth)))
            for depth, dim in zip(depths, dims, strict=True)
        )
        initialise(self)
        # The norm behind the stem keeps only the direction of each cell's features. Without a
        # bias bright and faint cells would have the same direction, and HU would be lost.
        nn.init.normal_(cast("Tensor", stem.bias), std=0.5)
        for block in self.modules():
            if isinstance(block, ConvNeXtV2Block):
                # Residual branches start smaller than the trunk, but not as small as the 0.02 of
                # the published recipe: hundreds of steps must do here what epochs do there.
                nn.init.normal_(block.project.weight, std=0.5 * block.project.in_features**-0.5)

    def forward(self, images: Float[Tensor, "batch 1 z y x"]) -> dict[int, Tensor]:
        """Return the features ``(B, C, Z / 2**n, Y / 2**n, X / 2**n)`` of each level n."""
        features, x = {}, images
        for level, entry, stage in zip(self.levels, self.entries, self.stages, strict=True):
            x = stage(entry(x))
            features[level] = x
        return features
