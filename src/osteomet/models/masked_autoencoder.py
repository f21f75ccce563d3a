"""A masked autoencoder: a backbone learns from scans alone, by guessing what was hidden.

Source: Woo et al., "ConvNeXt V2", arXiv:2301.00808, Sec. 3: FCMAE. Cubes of the image are
hidden at random, the backbone sees the others, and a decoder of one block predicts the hidden
voxels. Where the paper has sparse convolutions, these are dense ones with the mask put on again
behind each, which computes the same from the visible cells and needs no other engine. A cube is
a cell of the backbone's coarsest level.
"""

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from osteomet.config import Config
from osteomet.errors import ConfigError
from osteomet.models.backbones import build_backbone
from osteomet.models.backbones.convnextv2 import ConvNeXtV2Block
from osteomet.models.backbones.feature_levels import Backbone
from osteomet.models.layers import (
    LayerNorm3d,
    PointwiseConv3d,
    Visible,
    initialise,
    keep_visible,
)
from osteomet.ops.space_to_depth import depth_to_space, space_to_depth

Images = Float[Tensor, "batch 1 z y x"]
Cubes = Bool[Tensor, "batch 1 cubes_z cubes_y cubes_x"]
"""Which cubes are visible."""
Encoded = Float[Tensor, "batch channels cubes_z cubes_y cubes_x"]

FLAT_VARIANCE = 1e-6
"""Added to the variance of a cube before its voxels are divided by its root."""


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """What was hidden, and what the decoder made of it.

    Attributes:
        predicted: ``(b, 1, z, y, x)`` in the image's values; visible cubes as they are.
        visible: ``(b, 1, z, y, x)`` voxels that the backbone saw.
    """

    predicted: Tensor
    visible: Tensor


class MaskedAutoencoder(nn.Module):
    """Backbone and light decoder.

    Args:
        config: sections model and pretraining are used; the backbone goes down to the deepest
            of the model's levels, as the detector's does.

    Attributes:
        multiple_of: voxels a side of a cube, of which the sides of an image are multiples.

    Raises:
        ConfigError: the backbone is not of the ConvNeXt families.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        name = config.model.backbone.name
        if not name.startswith("convnext"):
            raise ConfigError(
                f"model.backbone.name is {name}; pretraining hides cells behind each convolution "
                "of a convnext or convnextv2 backbone: choose one of these"
            )
        self.settings = config.pretraining
        self.backbone = build_backbone(config.model.backbone, max(config.model.neck.levels))
        self.multiple_of = 2 ** self.backbone.levels[-1]
        width = self.settings.decoder_channels
        self.reduce = PointwiseConv3d(self.backbone.channels[self.backbone.levels[-1]], width)
        self.decoder = nn.Sequential(ConvNeXtV2Block(width), LayerNorm3d(width))
        self.prediction = PointwiseConv3d(width, self.multiple_of**3)
        for part in (self.reduce, self.decoder, self.prediction):
            initialise(part)
        self.hidden_cell = nn.Parameter(0.02 * torch.randn(width))

    def forward(self, images: Images) -> dict[str, Tensor]:
        """Hide cubes, drawn from torch's generator on the CPU, and return the loss."""
        visible = self.draw_visible(images)
        predicted = self._predict(images, visible)
        wanted, _, _ = self._wanted(images)
        errors = (predicted.float() - wanted).square().mean(dim=1, keepdim=True)
        hidden = (~visible).to(errors)
        return {"reconstruction": (errors * hidden).sum() / hidden.sum()}

    @torch.no_grad()
    def reconstruct(self, images: Images) -> Reconstruction:
        """Hide cubes and fill them with what the decoder predicts."""
        visible = self.draw_visible(images)
        _, mean, deviation = self._wanted(images)
        predicted = depth_to_space(
            self._predict(images, visible).float() * deviation + mean, self.multiple_of
        )
        seen = _repeated(visible, self.multiple_of)
        return Reconstruction(torch.where(seen, images, predicted), seen)

    def draw_visible(self, images: Images) -> Cubes:
        """Return which cubes stay visible; of each image as many are hidden, at least one."""
        shape = [side // self.multiple_of for side in images.shape[2:]]
        cells = shape[0] * shape[1] * shape[2]
        hidden = min(cells - 1, max(1, round(self.settings.mask_ratio * cells)))
        rank = torch.rand(len(images), cells).argsort(dim=1).argsort(dim=1)
        visible: Tensor = rank >= hidden
        return visible.reshape(len(images), 1, *shape).to(images.device)

    def encode(self, images: Images, visible: Cubes) -> Encoded:
        """Return the coarsest features, of the visible cubes alone; 0 elsewhere."""
        return encode_visible(self.backbone, images, visible)

    def _predict(self, images: Images, visible: Cubes) -> Encoded:
        x = self.reduce(self.encode(images, visible))
        x = torch.where(visible, x, self.hidden_cell[:, None, None, None].to(x.dtype))
        predicted: Tensor = self.prediction(self.decoder(x))
        return predicted

    def _wanted(self, images: Images) -> tuple[Encoded, Tensor | float, Tensor | float]:
        """Return the voxels of each cube to predict, and the mean and deviation taken out."""
        voxels = space_to_depth(images.float(), self.multiple_of)
        if not self.settings.normalise_targets:
            return voxels, 0.0, 1.0
        mean = voxels.mean(dim=1, keepdim=True)
        deviation = (voxels.var(dim=1, keepdim=True) + FLAT_VARIANCE).sqrt()
        return (voxels - mean) / deviation, mean, deviation


def encode_visible(backbone: Backbone, images: Images, visible: Cubes) -> Encoded:
    """Return the coarsest level of a ConvNeXt that sees the visible cubes alone.

    Args:
        backbone: of the families convnext or convnextv2.
        images: of any content where they are not visible: it never enters.
        visible: one flag for each cell of the coarsest level.
    """
    x = images
    for level, entry, stage in zip(backbone.levels, backbone.entries, backbone.stages, strict=True):
        seen = _repeated(visible, 2 ** (backbone.levels[-1] - level))
        x = keep_visible(entry(x), seen)
        for block in cast("nn.Sequential", stage):
            x = block(x, seen)
    return x


def _repeated(visible: Cubes, factor: int) -> Visible:
    for axis in (2, 3, 4):
        visible = visible.repeat_interleave(factor, dim=axis)
    return visible
