"""Boxes that the tests of several operators share."""

import torch


def whole_boxes(n: int, seed: int, size: int = 12) -> torch.Tensor:
    """Return boxes of whole voxels inside a cube of ``size``."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, size, (n, 2, 3), generator=generator)
    low, high = corners.min(dim=1).values, corners.max(dim=1).values + 1
    return torch.cat([low, high], dim=1).float()


def float_boxes(n: int, seed: int, spread: float, largest: float) -> torch.Tensor:
    """Return boxes of any position; the smaller ``spread``, the more they overlap."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(n, 3, generator=generator) * spread
    return torch.cat([low, low + 1 + torch.rand(n, 3, generator=generator) * largest], dim=1)


def rasterise(box: torch.Tensor, size: int = 12) -> torch.Tensor:
    """Return the voxels of a whole box as a boolean cube."""
    volume = torch.zeros(size, size, size, dtype=torch.bool)
    z1, y1, x1, z2, y2, x2 = box.int().tolist()
    volume[z1:z2, y1:y2, x1:x2] = True
    return volume
