"""A label map in pieces is the label map."""

import numpy as np
import pytest
from jaxtyping import Integer

from osteomet.label_map import InstanceMask, LabelMap
from osteomet.volume import Volume


def random_labels(seed: int, shape: tuple[int, int, int] = (14, 17, 19)) -> Volume:
    """Return boxes with holes on a grid whose axes are permuted and flipped."""
    rng = np.random.default_rng(seed)
    voxels = np.zeros(shape, np.int16)
    for label in range(1, 8):
        corner = rng.integers(0, 10, 3)
        part = tuple(slice(c, c + n) for c, n in zip(corner, rng.integers(1, 6, 3), strict=True))
        voxels[part][rng.random(voxels[part].shape) < 0.7] = label * 3
    affine = np.eye(4)
    axes = np.zeros((3, 3))
    axes[rng.permutation(3), np.arange(3)] = rng.choice([-1, 1], 3) * rng.uniform(0.5, 2, 3)
    affine[:3, :3] = axes
    affine[:3, 3] = rng.normal(size=3) * 50
    return Volume(voxels, affine)


def inside(values: Integer[np.ndarray, "z y x"], seed: int) -> tuple[slice, slice, slice]:
    rng = np.random.default_rng(seed)
    low = [int(rng.integers(0, n)) for n in values.shape]
    z, y, x = (
        slice(a, int(rng.integers(a, n)) + 1) for a, n in zip(low, values.shape, strict=True)
    )
    return z, y, x


@pytest.mark.parametrize("seed", range(8))
def test_windows_and_the_whole_are_those_of_the_array(seed: int) -> None:
    labels = random_labels(seed)
    found = LabelMap.of(labels)
    assert found.shape == labels.shape
    assert np.array_equal(found.whole().voxels, labels.voxels)
    assert np.array_equal(found.whole().affine, labels.affine)
    for place in range(5):
        window = inside(labels.voxels, place)
        assert np.array_equal(found.window(window), labels.voxels[window])


@pytest.mark.parametrize("seed", range(8))
def test_axes_turn_as_those_of_the_scan(seed: int) -> None:
    labels = random_labels(seed)
    turned, expected = LabelMap.of(labels).closest_lps(), labels.closest_lps()
    assert np.array_equal(turned.whole().voxels, expected.voxels)
    np.testing.assert_allclose(turned.affine, expected.affine)


def test_no_instance_is_all_background() -> None:
    empty = LabelMap.of(Volume.from_spacing(np.zeros((4, 5, 6), np.int16), (1.0, 1.0, 1.0)))
    assert empty.instances == ()
    assert empty.dtype == np.uint8
    assert not empty.whole().voxels.any()
    assert empty.closest_lps().shape == (4, 5, 6)


@pytest.mark.parametrize(
    ("label", "kind"), [(255, np.uint8), (256, np.int16), (32768, np.uint16), (70000, np.int32)]
)
def test_the_type_is_the_narrowest_that_holds_every_label(label: int, kind: type) -> None:
    voxels = np.zeros((3, 4, 5), np.int32)
    voxels[1, 2, 3] = label
    found = LabelMap.of(Volume(voxels, np.eye(4)))
    assert found.dtype == kind
    assert [one.corner for one in found.instances] == [(1, 2, 3)]
    assert np.array_equal(found.whole().voxels, voxels)


def test_the_values_of_the_scan_are_let_go() -> None:
    scan = Volume(np.ones((3, 4, 5), np.int16), np.eye(4))
    found = LabelMap.on(scan, (InstanceMask(1, (0, 0, 0), np.ones((1, 1, 1), bool)),))
    assert not np.shares_memory(found.grid.voxels, scan.voxels)
    assert found.grid.voxels.strides == (0, 0, 0)
