"""Normalised surface distance against MONAI's, against brute force, and by hand."""

import numpy as np
import pytest
import torch
from monai.metrics import compute_surface_dice
from scipy.spatial.distance import cdist

from osteomet.evaluation.surface import SurfaceCounts, compare_surfaces

SHAPE = (12, 14, 16)
SPACING = (2.5, 1.0, 0.8)


def blobs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    centre = np.array(SHAPE) / 2
    return tuple(
        (((grid - centre - generator.normal(0, 1, 3)) * SPACING) ** 2).sum(axis=-1)
        < generator.uniform(3, 6) ** 2
        for _ in range(2)
    )


# MONAI warns of an argument that its own function passes.
@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")
@pytest.mark.parametrize("tolerance", [0.0, 1.0, 2.0, 3.3])
@pytest.mark.parametrize("seed", range(6))
def test_equals_monai(seed: int, tolerance: float) -> None:
    predicted, true = blobs(seed)
    both = [torch.from_numpy(mask)[None, None].float() for mask in (predicted, true)]
    expected = compute_surface_dice(
        *both, class_thresholds=[tolerance], include_background=True, spacing=SPACING
    )
    ours = compare_surfaces(predicted, true, SPACING, tolerance).agreement
    assert ours == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_equals_brute_force(seed: int) -> None:
    masks = [np.pad(mask, 1) for mask in blobs(seed)]  # so that every voxel has neighbours
    points = []
    for mask in masks:
        border = [
            place
            for place in np.argwhere(mask).tolist()
            if any(
                not mask[tuple(np.add(place, step))]
                for step in np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)]).tolist()
            )
        ]
        points.append(np.array(border) * SPACING)
    distances = cdist(*points)
    within = (distances.min(axis=1) <= 1.5).sum() + (distances.min(axis=0) <= 1.5).sum()
    expected = SurfaceCounts(int(within), len(points[0]) + len(points[1]))
    assert compare_surfaces(*masks, SPACING, 1.5) == expected


def test_a_shifted_plate_by_hand() -> None:
    first, second = np.zeros((6, 9, 9), bool), np.zeros((6, 9, 9), bool)
    first[1], second[3] = True, True
    assert compare_surfaces(first, second, (1.0, 1.0, 1.0), 1.9).agreement == 0.0
    assert compare_surfaces(first, second, (1.0, 1.0, 1.0), 2.0).agreement == 1.0


def test_without_one_or_both() -> None:
    empty, full = np.zeros((3, 3, 3), bool), np.ones((3, 3, 3), bool)
    assert np.isnan(compare_surfaces(empty, empty, SPACING).agreement)
    assert compare_surfaces(empty, full, SPACING) == SurfaceCounts(0, 26)
    assert compare_surfaces(full, full, SPACING, 0.0).agreement == 1.0
    assert SurfaceCounts(1, 2) + SurfaceCounts(3, 4) == SurfaceCounts(4, 6)
