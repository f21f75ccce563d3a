import numpy as np
import pytest

from osteomet.simulate.anatomy import Region
from osteomet.simulate.bones import Part
from osteomet.simulate.fractures import break_bone, collapse_body
from osteomet.simulate.lesions import Blob
from osteomet.simulate.phantom import Phantom

MIDDLE = np.array([30, 30, 30])


def spine():
    """Return three boxes of bone, 24 mm high with discs of 8 mm, on a grid of 1 mm."""
    shape = (92, 60, 60)
    z = np.arange(92)
    body = ((z % 32) < 24) & (z >= 0)
    bone = np.full(shape, 4.0, np.float32)
    bone[np.ix_(body, range(15, 45), range(12, 48))] = -4.0
    part = np.where(bone < 0, Part.BODY, Part.NONE).astype(np.uint8)
    hu = np.where(bone < 0, 200.0, 50.0).astype(np.float32)
    # A value that tells where bone came from.
    hu += np.where(bone < 0, z[:, None, None] % 32, 0)
    return Phantom(hu, bone, part, np.zeros(shape, np.float32), 200.0, np.ones(3), Region.LUMBAR)


def heights(phantom):
    return (phantom.bone[:, 15:45, 12:48] < 0).sum(axis=0)


@pytest.mark.parametrize("seed", range(6))
def test_body_loses_height_and_its_neighbours_do_not(seed):
    phantom = spine()
    centre = np.array([44, 30, 30])
    before = heights(phantom)

    assert collapse_body(np.random.default_rng(seed), phantom, centre, 0.4, [], fresh=False)

    lost = (before - heights(phantom))[2:-2, 2:-2]
    assert 5 <= lost.max() <= 13
    assert lost.min() >= -1
    np.testing.assert_array_equal(phantom.bone[:24], spine().bone[:24])
    np.testing.assert_array_equal(phantom.bone[66:], spine().bone[66:])


def test_lesion_moves_with_the_bone_it_is_in():
    phantom = spine()
    lesion = np.zeros(phantom.hu.shape, bool)
    lesion[46:54, 22:38, 20:40] = True
    phantom.hu[lesion] = -500.0
    window = (slice(44, 56), slice(20, 40), slice(18, 42))
    inward = np.where(lesion[window], 1.0, -1.0).astype(np.float32)
    blob = Blob(window, inward, np.array([50, 30, 30]), 14.0, Part.BODY)

    collapse_body(
        np.random.default_rng(1), phantom, np.array([40, 30, 30]), 0.4, [blob], fresh=False
    )

    mask = np.zeros(phantom.hu.shape, bool)
    mask[blob.window] = blob.inward > 0
    there = phantom.hu < -250
    assert mask.sum() < lesion.sum()
    assert (mask ^ there).sum() < 0.12 * lesion.sum()
    assert np.argwhere(mask)[:, 0].mean() < np.argwhere(lesion)[:, 0].mean()


@pytest.mark.parametrize("centre", [(10, 30, 30), (27, 30, 30), (44, 5, 5)])
def test_nothing_collapses_at_the_border_in_a_disc_or_outside_bone(centre):
    phantom, before = spine(), spine()

    assert not collapse_body(
        np.random.default_rng(0), phantom, np.array(centre), 0.4, [], fresh=True
    )
    np.testing.assert_array_equal(phantom.hu, before.hu)


def rod():
    _, y, x = np.mgrid[:60, :40, :40].astype(np.float32)
    bone = np.hypot(y - 20, x - 20) - 6
    hu = np.where(bone < 0, 600.0, 50.0).astype(np.float32)
    part = np.where(bone < 0, Part.RIB, Part.NONE).astype(np.uint8)
    cortex = np.zeros_like(hu)
    return Phantom(hu, bone, part, cortex, 200.0, np.ones(3), Region.THORACIC)


def test_fresh_fracture_parts_the_bone_and_a_healed_one_thickens_it():
    fresh, healed = rod(), rod()

    break_bone(np.random.default_rng(0), fresh, np.array([30, 20, 20]), 14.0, age="fresh")
    break_bone(np.random.default_rng(0), healed, np.array([30, 20, 20]), 14.0, age="healed")

    # Every line along the bone meets the gap.
    inside = rod().bone[30] < -1
    assert (fresh.hu[:, inside].min(axis=0) < 350).mean() > 0.9
    dense = (healed.hu > 200).sum(axis=(1, 2))
    assert dense[30] > dense[5]
    np.testing.assert_array_equal(healed.hu[:8], rod().hu[:8])
