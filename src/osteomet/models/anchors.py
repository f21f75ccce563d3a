"""Anchors: reference boxes on every cell of every level, in mm so that spacing may change."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from osteomet.config import AnchorConfig

Maps = tuple[tuple[tuple[int, int, int], ...], torch.device]
"""Cells of each level, and where."""


def anchor_shapes(sizes_mm: tuple[float, ...], ratios: tuple[float, ...]) -> Float[Tensor, "a 3"]:
    """Return ``(dz, dy, dx)`` in mm of each anchor of a cell, sizes slowest.

    A ratio ``r = dz : dxy`` changes the shape at constant volume.
    """
    shapes = [
        (size * ratio ** (2 / 3), size * ratio ** (-1 / 3), size * ratio ** (-1 / 3))
        for size in sizes_mm
        for ratio in ratios
    ]
    return torch.tensor(shapes)


class AnchorGenerator:
    """Makes the anchors of an image from the sizes of its feature maps.

    Attributes:
        per_cell: anchors of one cell, the same on every level.
    """

    def __init__(self, config: AnchorConfig, levels: tuple[int, ...], spacing_mm: float) -> None:
        self.per_cell = len(config.sizes_mm[0]) * len(config.ratios)
        self.strides = [2**level for level in levels]
        self.shapes_vox = [
            anchor_shapes(sizes, config.ratios) / spacing_mm for sizes in config.sizes_mm
        ]
        self._made: dict[Maps, tuple[Tensor, Tensor]] = {}
        """The anchors made last, and for which maps: sizes change seldom."""

    def __call__(
        self, maps: list[tuple[int, int, int]], device: torch.device
    ) -> tuple[Float[Tensor, "anchors 6"], Int[Tensor, " anchors"]]:
        """Return all anchors in voxels of the image, and the place of their level.

        Args:
            maps: ``(z, y, x)`` cells of each level.
            device: where to put them.

        Returns:
            Boxes ordered by level, then z, y, x, then anchor of the cell; they may reach
            beyond the image. The level's index runs from 0.
        """
        key = tuple(maps), device
        made = self._made.get(key)
        if made is None:
            with torch.inference_mode(False):  # or no later step of training could use them
                made = self._make(maps, device)
            self._made = {key: made}  # replaced, not changed: threads share the model
        return made

    def _make(
        self, maps: list[tuple[int, int, int]], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        boxes, index = [], []
        for number, (cells, stride, shapes) in enumerate(
            zip(maps, self.strides, self.shapes_vox, strict=True)
        ):
            axes = [(torch.arange(n, device=device) + 0.5) * stride for n in cells]
            centers = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 1, 3)
            half = shapes.to(device)[None] / 2
            level = torch.cat([centers - half, centers + half], dim=-1).reshape(-1, 6)
            boxes.append(level)
            index.append(torch.full((len(level),), number, device=device))
        return torch.cat(boxes), torch.cat(index)
