"""Lesions of a whole body are sorted by the share of them in bone."""

import numpy as np

from osteomet.data.adapters.bone import lesions_in_bone
from osteomet.volume import Volume

SHAPE = (40, 48, 48)


def body() -> Volume:
    """Soft tissue with a bone: a cortex of 3 voxels around marrow, along z."""
    y, x = np.mgrid[: SHAPE[1], : SHAPE[2]]
    radius = np.hypot(y - 24, x - 24)
    plane = np.select([radius < 9, radius < 12], [30, 700], 50)
    voxels = np.broadcast_to(plane, SHAPE).astype(np.int16)
    return Volume.from_spacing(voxels.copy(), (1.0, 1.0, 1.0))


def ball(centre: tuple[float, float, float], radius: float) -> np.ndarray:
    index = np.indices(SHAPE) - np.array(centre).reshape(3, 1, 1, 1)
    inside: np.ndarray = np.linalg.norm(index, axis=0) < radius
    return inside


def test_marrow_counts_as_bone_and_soft_tissue_does_not() -> None:
    marrow, muscle = ball((20, 24, 24), 5), ball((20, 8, 8), 4)
    found = lesions_in_bone(body(), marrow | muscle)
    np.testing.assert_array_equal(found.mask, marrow)
    assert (found.of_bone, found.elsewhere) == (1, 1)
    assert not found.doubtful.any()


def test_a_lesion_that_grows_out_of_bone_keeps_what_lies_in_it() -> None:
    lesion = ball((20, 24, 33), 5)
    found = lesions_in_bone(body(), lesion)
    assert found.of_bone == 1
    assert found.mask.any()
    assert not (found.mask & ~lesion).any()
    y, x = np.mgrid[: SHAPE[1], : SHAPE[2]]
    assert not found.mask[:, np.hypot(y - 24, x - 24) >= 12].any()


def test_one_that_only_touches_bone_is_doubtful() -> None:
    lesion = ball((20, 24, 37), 6)
    found = lesions_in_bone(body(), lesion)
    assert found.of_bone == 0
    np.testing.assert_array_equal(found.doubtful, lesion)


def test_a_calcification_is_no_bone() -> None:
    scan = body()
    scan.voxels[ball((20, 8, 8), 3)] = 800
    found = lesions_in_bone(scan, ball((20, 8, 8), 3))
    assert (found.of_bone, found.elsewhere) == (0, 1)


def test_nothing() -> None:
    found = lesions_in_bone(body(), np.zeros(SHAPE, dtype=bool))
    assert not found.mask.any()
    assert (found.of_bone, found.elsewhere) == (0, 0)
