"""Where voxels lie in the patient, against dull arithmetic on every orientation."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from osteomet.errors import GeometryError
from osteomet.volume import Volume

SHAPE, SPACING, ORIGIN = (3, 4, 5), (2.5, 0.7, 0.9), (-120.0, 33.5, 811.0)

# Every way to lay three array axes along world axes: 6 orders times 8 signs.
ORIENTATIONS = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1.0, -1.0), repeat=3)
]


def turn(axis: int, degrees: float) -> np.ndarray:
    a, b = (i for i in range(3) if i != axis)
    matrix, angle = np.eye(3), np.radians(degrees)
    matrix[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    return matrix


SMALL_TURN = turn(0, 14) @ turn(1, -9) @ turn(2, 21)


def oriented(
    order: tuple[int, ...], signs: tuple[float, ...], rotation: np.ndarray | None = None
) -> Volume:
    """Return a volume whose array axis ``a`` runs along world axis ``order[a]``."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for a in range(3):
        affine[order[a], a] = signs[a] * SPACING[a]
    if rotation is not None:
        affine[:3, :3] = rotation @ affine[:3, :3]
    affine[:3, 3] = ORIGIN
    return Volume(np.arange(60).reshape(SHAPE), affine)


def everywhere(volume: Volume) -> dict[tuple[float, ...], int]:
    """Return the value at each voxel's world position, in micrometres."""
    index = np.argwhere(np.ones(volume.shape, bool))
    world = volume.index_to_world(index.astype(float))
    keys = (tuple(point) for point in np.round(world, 3).tolist())
    return dict(zip(keys, volume.voxels[tuple(index.T)].tolist(), strict=True))


class TestConventions:
    def test_upright_axial_scan(self) -> None:
        volume = Volume.from_spacing(np.zeros(SHAPE), SPACING, ORIGIN)
        assert volume.spacing_zyx_mm == pytest.approx(SPACING)
        assert volume.voxel_ml == pytest.approx(2.5 * 0.7 * 0.9 / 1000)
        world = volume.index_to_world(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]))
        x, y, z = ORIGIN
        # z to superior, y to posterior, x to left
        expected = [[x, y, z], [x, y, z + 2.5], [x, y + 0.7, z], [x + 0.9, y, z]]
        assert np.allclose(world, expected)

    def test_edges_are_half_a_voxel_from_centres(self) -> None:
        volume = oriented((1, 0, 2), (1.0, -1.0, 1.0), SMALL_TURN)
        centre = np.array([[2.0, 1.0, 3.0]])
        assert np.allclose(volume.edge_to_world(centre + 0.5), volume.index_to_world(centre))
        assert np.allclose(volume.world_to_edge(volume.index_to_world(centre)), centre + 0.5)

    @pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
    def test_there_and_back(self, order: tuple[int, ...], signs: tuple[float, ...]) -> None:
        volume = oriented(order, signs, SMALL_TURN)
        points = np.random.default_rng(0).uniform(-10, 10, (7, 3))
        assert np.allclose(volume.world_to_index(volume.index_to_world(points)), points)
        assert np.allclose(volume.world_to_edge(volume.edge_to_world(points)), points)

    def test_no_points(self) -> None:
        volume = oriented((0, 1, 2), (1.0, 1.0, 1.0))
        assert volume.index_to_world(np.zeros((0, 3))).shape == (0, 3)
        assert volume.world_to_edge(np.zeros((0, 3))).shape == (0, 3)

    def test_same_world_as_simpleitk(self, tmp_path: Path) -> None:
        """ITK is LPS too, with indices and arrays in opposite orders."""
        volume = oriented((2, 1, 0), (1.0, 1.0, -1.0), SMALL_TURN)
        image = sitk.GetImageFromArray(volume.voxels)
        direction = volume.affine[:3, :3] / np.array(SPACING)
        image.SetSpacing(SPACING[::-1])
        image.SetDirection(direction[:, ::-1].ravel().tolist())
        image.SetOrigin(volume.affine[:3, 3].tolist())
        for k, j, i in ((0, 0, 0), (2, 3, 4), (1, 0, 3)):
            expected = image.TransformIndexToPhysicalPoint((i, j, k))
            assert np.allclose(volume.index_to_world(np.array([[k, j, i]], float))[0], expected)


class TestBoxes:
    def test_upright_box_in_mm(self) -> None:
        volume = Volume.from_spacing(np.zeros(SHAPE), SPACING, ORIGIN)
        x, y, z = ORIGIN
        low = np.array([x - 0.45, y - 0.35, z - 1.25])  # outer corner of the first voxel
        whole = np.array([[0.0, 0, 0, *SHAPE]])
        expected = [*low, *(low + np.array(SHAPE[::-1]) * SPACING[::-1])]
        assert np.allclose(volume.boxes_to_world(whole)[0], expected)

    @pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
    def test_there_and_back(self, order: tuple[int, ...], signs: tuple[float, ...]) -> None:
        volume = oriented(order, signs)
        boxes = np.array([[0.0, 1, 2, 2, 3, 4.5], [1, 1, 1, 1, 1, 1]])
        there = volume.boxes_to_world(boxes)
        assert (there[:, 3:] >= there[:, :3]).all()
        assert np.allclose(volume.boxes_from_world(there), boxes)
        # A box's volume is that of its voxels.
        sides = np.prod(there[0, 3:] - there[0, :3])
        assert sides == pytest.approx(2 * 2 * 2.5 * np.prod(SPACING))

    def test_oblique_box_is_the_hull_of_its_corners(self) -> None:
        volume = oriented((2, 1, 0), (1.0, 1.0, 1.0), SMALL_TURN)
        box = np.array([[0.0, 1, 2, 2, 3, 4]])
        corners = np.array(list(itertools.product((0.0, 2.0), (1.0, 3.0), (2.0, 4.0))))
        world = volume.edge_to_world(corners)
        expected = np.concatenate([world.min(axis=0), world.max(axis=0)])
        assert np.allclose(volume.boxes_to_world(box)[0], expected)
        again = volume.boxes_from_world(volume.boxes_to_world(box))
        assert (again[0, :3] <= box[0, :3]).all()
        assert (again[0, 3:] >= box[0, 3:]).all()

    def test_no_boxes(self) -> None:
        volume = oriented((0, 1, 2), (1.0, 1.0, 1.0))
        assert volume.boxes_to_world(np.zeros((0, 6))).shape == (0, 6)
        assert volume.boxes_from_world(np.zeros((0, 6))).shape == (0, 6)


class TestClosestLPS:
    @pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
    def test_every_orientation_becomes_upright(
        self, order: tuple[int, ...], signs: tuple[float, ...]
    ) -> None:
        volume = oriented(order, signs)
        turned = volume.closest_lps()
        axes = turned.affine[:3, :3]
        assert np.allclose(axes, np.diag(np.diag(axes[:, ::-1]))[:, ::-1])  # x, y, z from the back
        assert (np.diag(axes[:, ::-1]) > 0).all()
        assert everywhere(turned) == everywhere(volume)

    @pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
    def test_oblique_stays_oblique(self, order: tuple[int, ...], signs: tuple[float, ...]) -> None:
        volume = oriented(order, signs, SMALL_TURN)
        turned = volume.closest_lps()
        axes = turned.affine[:3, :3] / np.linalg.norm(turned.affine[:3, :3], axis=0)
        # Each axis has its largest part along its own world axis, in the positive sense.
        assert (np.diag(axes[:, ::-1]) > 0.8).all()
        assert everywhere(turned) == everywhere(volume)
        assert sorted(turned.spacing_zyx_mm) == pytest.approx(sorted(volume.spacing_zyx_mm))

    @pytest.mark.parametrize("seed", range(20))
    def test_any_rotation_gives_each_world_axis_one_array_axis(self, seed: int) -> None:
        rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
        volume = oriented((2, 1, 0), (1.0, 1.0, 1.0), rotation)
        turned = volume.closest_lps()
        assert (np.diag(turned.affine[:3, :3][:, ::-1]) > 0).all()
        assert everywhere(turned) == everywhere(volume)
        again = turned.closest_lps()
        assert np.array_equal(again.affine, turned.affine)
        assert np.array_equal(again.voxels, turned.voxels)

    def test_is_a_view(self) -> None:
        volume = oriented((1, 2, 0), (-1.0, 1.0, -1.0))
        turned = volume.closest_lps()
        assert np.shares_memory(turned.voxels, volume.voxels)
        turned.voxels[...] = 7
        assert (volume.voxels == 7).all()

    def test_keeps_a_volume_that_is_upright(self) -> None:
        volume = Volume.from_spacing(np.arange(60).reshape(SHAPE), SPACING, ORIGIN)
        turned = volume.closest_lps()
        assert np.array_equal(turned.affine, volume.affine)
        assert np.array_equal(turned.voxels, volume.voxels)


class TestRefused:
    @pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
    def test_damaged_spacing(self, bad: float) -> None:
        affine = np.diag([1.0, 1.0, 1.0, 1.0])
        affine[0, 0] = bad
        with pytest.raises(GeometryError, match="spacing or direction is damaged"):
            Volume(np.zeros(SHAPE), affine)

    def test_damaged_origin(self) -> None:
        affine = np.eye(4)
        affine[1, 3] = np.nan
        with pytest.raises(GeometryError, match="damaged"):
            Volume(np.zeros(SHAPE), affine)

    def test_sheared_axes(self) -> None:
        affine = np.eye(4)
        affine[0, 1] = 0.01
        with pytest.raises(GeometryError, match=r"not orthogonal \(largest cosine 0.0100\)"):
            Volume(np.zeros(SHAPE), affine)

    def test_rounded_axes_pass(self) -> None:
        affine = np.eye(4)
        affine[0, 1] = 0.0009
        assert Volume(np.zeros(SHAPE), affine).shape == SHAPE

    def test_values_of_another_shape(self) -> None:
        volume = oriented((0, 1, 2), (1.0, 1.0, 1.0))
        with pytest.raises(ValueError, match="on a grid of"):
            volume.with_voxels(np.zeros((3, 4, 6)))

    def test_labels_on_the_same_grid(self) -> None:
        volume = oriented((0, 1, 2), (1.0, 1.0, 1.0))
        labels = volume.with_voxels((volume.voxels > 30).astype(np.int8))
        assert labels.voxels.sum() == 29
        assert np.array_equal(labels.affine, volume.affine)
