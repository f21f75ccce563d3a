"""The ConvNeXt V2 backbone in 3D.

Source: Woo et al., "ConvNeXt V2", arXiv:2301.00808: block in Fig. 5, GRN in Sec. 4, sizes
in Table 9 and Appendix A. Written from the paper; only the rank of the kernels changes.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from osteomet.config import BackboneConfig
from osteomet.models.backbones.convnext import assemble
from osteomet.models.backbones.feature_levels import Backbone, Size
from osteomet.models.layers import (
    DepthwiseConv3d,
    Features,
    LayerNorm,
    Linear,
    Visible,
    drop_path,
    keep_visible,
)
from osteomet.ops.inverted_bottleneck import inverted_bottleneck
from osteomet.ops.response_norm import linear_of_gelu_response_norm, response_factors

ChannelsLast = Float[Tensor, "batch z y x channels"]

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

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: ChannelsLast) -> ChannelsLast:
        norms = torch.linalg.vector_norm(x, dim=(1, 2, 3), dtype=torch.float32)
        factors = response_factors(norms, self.gamma)[:, None, None, None]
        return torch.addcmul(self.beta.to(x.dtype), x, factors.to(x.dtype))

    def between(
        self, expand: nn.Linear, project: nn.Linear, x: ChannelsLast
    ) -> Float[Tensor, "batch z y x out"]:
        """Return ``project(self(gelu(expand(x))))``, with few passes over what is the largest."""
        first, last = (expand.weight, expand.bias), (project.weight, project.bias)
        result = inverted_bottleneck(x.flatten(1, 3), first, self.gamma, self.beta, last)
        return result.view(*x.shape[:-1], -1)

    def then(self, project: nn.Linear, x: ChannelsLast) -> Float[Tensor, "batch z y x out"]:
        """Return ``project(self(gelu(x)))``."""
        result = linear_of_gelu_response_norm(
            x.flatten(1, 3), project.weight, project.bias, self.gamma, self.beta
        )
        return result.view(*x.shape[:-1], -1)


class ConvNeXtV2Block(nn.Module):
    """Depthwise 7x7x7, LayerNorm, 1x1x1 to four times the width, GELU, GRN, 1x1x1; plus x."""

    def __init__(self, channels: int, drop_probability: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= drop_probability < 1.0:
            raise ValueError(f"drop_probability must lie in [0, 1), got {drop_probability}")
        self.depthwise = DepthwiseConv3d(channels, kernel_size=7)
        self.norm = LayerNorm(channels)
        self.expand = Linear(channels, 4 * channels)
        self.grn = GlobalResponseNorm(4 * channels)
        self.project = nn.Linear(4 * channels, channels)
        self.drop_probability = drop_probability

    def forward(self, x: Features, visible: Visible | None = None) -> Features:
        """Return ``x`` and what is added to it; a cell that is not ``visible`` stays 0."""
        y = self.norm(self.depthwise(x).movedim(1, -1))  # a view: memory is channels last
        if visible is None:
            y = self.grn.between(self.expand, self.project, y)
        else:  # GRN takes norms over all cells: hidden ones must not count
            y = self.grn.then(self.project, self.expand(y) * visible.movedim(1, -1))
        y = keep_visible(y.movedim(-1, 1), visible)
        return x + drop_path(y, self.drop_probability, self.training)


def convnextv2(config: BackboneConfig, deepest_level: int) -> Backbone:
    """Return the ConvNeXt V2 that ``config.name`` says."""
    backbone = assemble(config, SIZES[config.name], deepest_level, ConvNeXtV2Block)
    for block in backbone.modules():
        if isinstance(block, ConvNeXtV2Block):
            # Residual branches start smaller than the trunk, but not as small as the 0.02 of
            # the published recipe: hundreds of steps must do here what epochs do there.
            nn.init.normal_(block.project.weight, std=0.5 * block.project.in_features**-0.5)
    return backbone
