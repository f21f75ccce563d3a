"""Placements of patches, and where the voxels of each lie in its scan."""

import numpy as np

from osteomet.config import AugmentConfig
from osteomet.data.augment import Placement, draw_matrix

TURNED = AugmentConfig(spatial_probability=1.0, rotate_degrees=40.0, scale=(0.7, 1.4))


def placement_of(seed: int, shape: tuple[int, int, int] = (20, 24, 28)) -> Placement:
    rng = np.random.default_rng(seed)
    matrix, aligned = draw_matrix(TURNED, rng)
    return Placement(matrix, rng.uniform(25, 35, 3), shape, aligned)


def source_points(placement: Placement) -> np.ndarray:
    """Edges of the scan at which the centres of a patch's voxels lie."""
    edges = np.stack(np.indices(placement.shape), axis=-1) + 0.5
    return (edges - np.array(placement.shape) / 2) @ placement.matrix.T + placement.center


def block_of(scan: np.ndarray, placement: Placement) -> np.ndarray:
    corner, size = placement.source_box()
    z, y, x = (slice(c, c + n) for c, n in zip(corner, size, strict=True))
    block = scan[z, y, x]
    assert block.shape == size
    return block
