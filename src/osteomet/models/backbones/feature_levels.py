"""What every backbone is: for each level one step coarser, then a stage of blocks."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from osteomet.config import BackboneConfig


@dataclass(frozen=True)
class Size:
    """Blocks and channels of the four stages."""

    depths: tuple[int, ...]
    dims: tuple[int, ...]


class Backbone(nn.Module):
    """Entries and stages, one of each a level: an entry goes one level coarser.

    Attributes:
        levels: level numbers, finest first; level n has stride 2**n voxels.
        channels: channels of each level, by level number.
    """

    def __init__(
        self,
        finest_level: int,
        entries: Sequence[nn.Module],
        stages: Sequence[nn.Module],
        dims: Sequence[int],
    ) -> None:
        super().__init__()
        self.levels = tuple(range(finest_level, finest_level + len(dims)))
        self.channels = dict(zip(self.levels, dims, strict=True))
        self.entries = nn.ModuleList(entries)
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Float[Tensor, "batch 1 z y x"]) -> dict[int, Tensor]:
        """Return the features ``(B, C, Z / 2**n, Y / 2**n, X / 2**n)`` of each level n."""
        features, x = {}, images
        for level, entry, stage in zip(self.levels, self.entries, self.stages, strict=True):
            x = stage(entry(x))
            features[level] = x
        return features


def finest_level(config: BackboneConfig) -> int:
    """Return the level of the first stage."""
    return config.stem_stride.bit_length() - 1


def built_size(config: BackboneConfig, published: Size, deepest_level: int) -> Size:
    """Return the stages to build: the published ones or the configuration's.

    A stage beyond ``deepest_level`` is not built.
    """
    depths, dims = config.depths or published.depths, config.dims or published.dims
    count = max(1, min(len(dims), deepest_level - finest_level(config) + 1))
    return Size(depths[:count], dims[:count])
