"""The model's grid: points, boxes and masks come back to where they were, however a scan lies."""

import numpy as np
import pytest

from osteomet.data.preprocess import (
    ModelGrid,
    instance_masks,
    labels_to_model_grid,
    to_model_grid,
)
from osteomet.errors import GeometryError
from osteomet.volume import Volume

SPACINGS = (2.5, 0.8, 0.7)
SHAPE = (22, 46, 52)


def turned_about(axis_xyz: tuple[float, float, float], degrees: float) -> np.ndarray:
    x, y, z = np.array(axis_xyz) / np.linalg.norm(axis_xyz)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


UPRIGHT = np.array([[0.0, 0, 1], [0, 1, 0], [1, 0, 0]])  # columns: z, y, x axis in LPS
DIRECTIONS = {
    "axial": UPRIGHT,
    "head first to feet": UPRIGHT * [-1, 1, 1],
    "prone": UPRIGHT * [1, -1, -1],
    "sagittal": UPRIGHT[:, [2, 0, 1]] * [1, -1, 1],
    "coronal": UPRIGHT[:, [1, 0, 2]] * [-1, -1, 1],
    "oblique": turned_about((1, 2, 3), 20) @ UPRIGHT,
    "oblique sagittal": turned_about((2, -1, 1), -25) @ UPRIGHT[:, [2, 0, 1]] * [-1, 1, -1],
}


def affine_of(direction: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = direction * SPACINGS
    affine[:3, 3] = (31.0, -17.0, 240.0)
    return affine


@pytest.fixture(params=DIRECTIONS, ids=lambda name: name.replace(" ", "-"))
def affine(request: pytest.FixtureRequest) -> np.ndarray:
    return affine_of(DIRECTIONS[request.param])


def blob(affine: np.ndarray, world_xyz_mm: np.ndarray, sigma_mm: float = 4.0) -> Volume:
    """Return a scan with a Gaussian around a point, sampled at the voxels' centres."""
    empty = Volume(np.zeros(SHAPE, dtype=np.float32), affine)
    centers = empty.index_to_world(np.argwhere(np.ones(SHAPE, dtype=bool)).astype(float))
    squared = ((centers - world_xyz_mm) ** 2).sum(axis=1).reshape(SHAPE)
    return empty.with_voxels((20000 * np.exp(-squared / (2 * sigma_mm**2))).astype(np.float32))


@pytest.mark.parametrize("spacing_mm", [1.0, 1.5])
def test_a_point_in_mm_is_where_the_model_sees_it(affine: np.ndarray, spacing_mm: float) -> None:
    middle = Volume(np.zeros(SHAPE), affine).edge_to_world(np.array([SHAPE]) / 2)[0]
    point = middle + np.array([1.3, -2.1, 0.7])
    model = to_model_grid(blob(affine, point), spacing_mm)
    weights = model.voxels.astype(float)
    weights /= weights.sum()
    index = np.array([[(weights * axis).sum() for axis in np.indices(model.shape)]])
    assert np.abs(model.index_to_world(index)[0] - point).max() < 0.03


def test_points_and_boxes_go_both_ways_and_agree_with_the_world(affine: np.ndarray) -> None:
    scan = Volume(np.zeros(SHAPE, dtype=np.int16), affine)
    grid = ModelGrid.of(scan, 1.1)
    model = Volume(np.broadcast_to(np.int16(0), grid.shape), grid.affine)
    points = np.random.default_rng(0).uniform(-5, 60, (50, 3))
    native = grid.points_to_native(points)
    assert np.allclose(grid.points_from_native(native), points, atol=1e-9)
    assert np.allclose(scan.edge_to_world(native), model.edge_to_world(points), atol=1e-9)
    boxes = np.hstack([points, points + np.random.default_rng(1).uniform(0.1, 9, (50, 3))])
    moved = grid.boxes_to_native(boxes)
    assert (moved[:, 3:] > moved[:, :3]).all()
    assert np.allclose(grid.boxes_from_native(moved), boxes, atol=1e-9)


def test_the_grid_covers_the_scan_and_shares_its_low_corner(affine: np.ndarray) -> None:
    scan = Volume(np.zeros(SHAPE, dtype=np.int16), affine)
    grid = ModelGrid.of(scan, 1.0)
    lps = scan.closest_lps()
    model = grid.volume(np.zeros(grid.shape, dtype=np.int16))
    zero = np.zeros((1, 3))
    assert np.allclose(model.edge_to_world(zero), lps.edge_to_world(zero), atol=1e-9)
    beyond = np.array(grid.shape) - np.array(lps.shape) * lps.spacing_zyx_mm
    assert (beyond >= -1e-3).all()
    assert (beyond < 1).all()
    assert np.allclose(model.spacing_zyx_mm, 1.0)


def test_whole_multiples_add_no_voxel() -> None:
    scan = Volume.from_spacing(np.zeros((30, 10, 10), dtype=np.int16), (0.1, 0.7, 0.7))
    assert ModelGrid.of(scan, 0.7).shape == (5, 10, 10)
    assert ModelGrid.of(scan, 0.1).shape == (30, 70, 70)


def test_however_a_scan_lies_the_model_sees_the_same() -> None:
    upright = Volume(
        np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16),
        affine_of(UPRIGHT),
    )
    expected = to_model_grid(upright, 1.0)
    turned = Volume(np.flip(upright.voxels.transpose(2, 0, 1), 1), upright.affine.copy())
    turned.affine[:3, :3] = upright.affine[:3, [2, 0, 1]]
    turned.affine[:3, 3] += turned.affine[:3, 1] * (SHAPE[0] - 1)
    turned.affine[:3, 1] *= -1
    again = to_model_grid(turned, 1.0)
    assert np.array_equal(again.voxels, expected.voxels)
    assert np.allclose(again.affine, expected.affine)


def test_voxel_centres_windows_and_axes_lead_back_to_the_scan(affine: np.ndarray) -> None:
    """What inference does with a mask: sample it in a window, turn it, put it in the scan."""
    scan = Volume(np.zeros(SHAPE, dtype=np.int16), affine)
    grid = ModelGrid.of(scan, 1.3)
    box = np.array([4.2, 6.1, 5.3, 19.9, 21.0, 18.4])
    window = grid.lps_window(box)
    z, y, x = (c[part] for c, part in zip(grid.lps_centers(), window, strict=True))
    sampled = np.stack(np.meshgrid(z, y, x, indexing="ij"), axis=-1)
    place = grid.native_window(window)
    for axis in range(3):
        turned = grid.to_native_axes(sampled[..., axis])
        index = np.argwhere(np.ones(SHAPE, dtype=bool)).astype(float)
        expected = grid.points_from_native(index + 0.5)[:, axis].reshape(SHAPE)
        assert np.allclose(turned, expected[place])
    inside = grid.points_from_native(np.argwhere(np.ones(SHAPE, dtype=bool)) + 0.5)
    inside = ((inside >= box[:3]) & (inside < box[3:])).all(axis=1).reshape(SHAPE)
    marked = np.zeros(SHAPE, dtype=bool)
    marked[place] = True
    assert np.array_equal(marked, inside)


def test_a_window_outside_the_scan_is_empty(affine: np.ndarray) -> None:
    grid = ModelGrid.of(Volume(np.zeros(SHAPE, dtype=np.int16), affine), 1.0)
    window = grid.lps_window(np.array([500.0, 500, 500, 510, 510, 510]))
    assert np.zeros(SHAPE)[grid.native_window(window)].size == 0


def test_a_mask_comes_back_as_the_box_it_was(affine: np.ndarray) -> None:
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[5:15, 8:30, 20:44] = 4
    scan = Volume(labels, affine)
    grid = ModelGrid.of(scan, 0.5)
    (one,) = instance_masks(scan, 0.5)
    low = np.array(one.corner, dtype=float)
    back = grid.boxes_to_native(np.concatenate([low, low + one.mask.shape])[None])[0]
    assert np.abs(back - [5, 8, 20, 15, 30, 44]).max() < 0.5


@pytest.mark.parametrize("spacing_mm", [0.7, 1.0, 2.0])
def test_instances_keep_their_volume(spacing_mm: float) -> None:
    z, y, x = np.indices((40, 60, 60)) * np.array([1.2, 0.8, 0.8]).reshape(3, 1, 1, 1)
    labels = np.zeros((40, 60, 60), dtype=np.int16)
    labels[(z - 20) ** 2 + (y - 22) ** 2 + (x - 20) ** 2 < 10**2] = 7
    labels[(z - 30) ** 2 + (y - 36) ** 2 + (x - 36) ** 2 < 7**2] = 300
    scan = Volume.from_spacing(labels, (1.2, 0.8, 0.8))
    model = labels_to_model_grid(scan, spacing_mm)
    assert set(np.unique(model.voxels)) == {0, 7, 300}
    for label in (7, 300):
        before = (labels == label).sum() * scan.voxel_ml
        after = (model.voxels == label).sum() * model.voxel_ml
        assert after == pytest.approx(before, rel=0.05)


def test_the_smallest_instance_is_not_lost() -> None:
    labels = np.zeros((20, 20, 20), dtype=np.int32)
    labels[0, 0, 19] = 3
    labels[9, 9, 9] = 70_000
    model = labels_to_model_grid(Volume.from_spacing(labels, (1.0, 1.0, 1.0)), 3.0)
    assert (model.voxels == 3).sum() == (model.voxels == 70_000).sum() == 1
    assert model.voxels[0, 0, 6] == 3
    assert model.voxels[3, 3, 3] == 70_000


def test_an_empty_map_stays_empty() -> None:
    scan = Volume.from_spacing(np.zeros((4, 5, 6), dtype=np.int16), (1.0, 1.0, 1.0))
    assert list(instance_masks(scan, 2.0)) == []
    assert not labels_to_model_grid(scan, 2.0).voxels.any()


def test_a_scan_without_voxels_is_refused() -> None:
    empty = Volume.from_spacing(np.zeros((0, 5, 6), dtype=np.int16), (1.0, 1.0, 1.0))
    with pytest.raises(GeometryError, match="expected voxels on each axis"):
        to_model_grid(empty, 1.0)
