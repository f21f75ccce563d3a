import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from osteomet.simulate import phantom as module
from osteomet.simulate.anatomy import Region, draw_anatomy
from osteomet.simulate.bones import Part, point
from osteomet.simulate.noise import draw_tile, noise
from osteomet.simulate.phantom import draw_phantom
from osteomet.simulate.scanner import draw_protocol
from osteomet.simulate.settings import SimulationConfig
from osteomet.simulate.spine import draw_curve

PROTOCOL = draw_protocol(np.random.default_rng(0), SimulationConfig())


def view(shape, spacing, *, seed=3, age=60, region=Region.TRUNK, contrast=100.0):
    protocol = dataclasses.replace(
        PROTOCOL, shape_zyx=shape, spacing_zyx_mm=spacing, substeps=1, contrast_hu=contrast
    )
    return draw_phantom(np.random.default_rng(seed), SimulationConfig(), protocol, age, region)


@pytest.fixture(scope="module")
def trunk():
    return view((175, 100, 103), (4.0, 4.0, 4.0))


def test_trunk_has_every_kind_of_bone(trunk):
    present = np.unique(trunk.part[trunk.inside])

    assert set(present) == set(Part) - {Part.NONE}
    assert 0.02 < trunk.inside.mean() < 0.12


def test_trunk_is_a_body_on_a_table_in_air(trunk):
    solid = ndimage.binary_fill_holes(trunk.hu[87] > -700)
    pieces, _ = ndimage.label(solid)
    body = pieces == pieces[50, 51]
    table = np.argwhere(solid & ~body)

    assert (trunk.hu[:, 0] < -900).mean() > 0.9
    assert trunk.hu.min() >= -1000
    assert 250 < body.any(axis=0).sum() * 4 < 410
    assert table[:, 0].min() > 50
    assert np.ptp(table[:, 1]) > 80
    # Lungs: large, and above the middle.
    lung = ndimage.binary_opening((trunk.hu > -950) & (trunk.hu < -700), iterations=2)
    assert lung.sum() * 0.064 > 1500
    assert np.argwhere(lung)[:, 0].mean() > 87


def test_left_and_right_are_drawn(trunk):
    half = trunk.inside.sum(axis=(0, 1))

    assert half[:50].sum() == pytest.approx(half[53:].sum(), rel=0.1)


def test_region_is_a_window_of_the_trunk(monkeypatch):
    monkeypatch.setattr(module, "SLAB_VOXELS", 20_000)
    small, large = (view(n, (1.5, 1.0, 1.0)) for n in ((12, 40, 44), (24, 60, 60)))

    crop = (slice(8, 16), slice(14, 46), slice(12, 48))
    inner = (slice(2, -2), slice(4, -4), slice(4, -4))
    np.testing.assert_allclose(small.hu[inner], large.hu[crop], atol=0.05)
    np.testing.assert_array_equal(small.inside[inner], large.inside[crop])


@pytest.mark.parametrize("region", list(Region))
def test_every_region_shows_bone(region):
    drawn = view((30, 60, 60), (2.0, 2.0, 2.0), region=region)

    assert drawn.region is region
    assert drawn.inside.mean() > 0.02


def test_config_draws_the_region():
    config = SimulationConfig(thoracic_share=0.0, lumbar_share=0.0)
    protocol = dataclasses.replace(PROTOCOL, shape_zyx=(8, 9, 10), substeps=1)

    drawn = draw_phantom(np.random.default_rng(0), config, protocol, 60)

    assert drawn.region is Region.PELVIS


def body_of_l3(age, seed):
    found = view((20, 44, 50), (1.0, 1.0, 1.0), seed=seed, age=age, region=Region.LUMBAR)
    inner = (found.part == Part.BODY) & (found.bone < -4)
    return found, inner


def test_marrow_loses_density_with_age(monkeypatch):
    monkeypatch.setattr(module, "draw_middle", lambda *_: point(72, -45, 0))
    young, old = ([body_of_l3(age, seed) for seed in range(2)] for age in (35, 85))

    means = [np.mean([one.hu[inner].mean() for one, inner in group]) for group in (young, old)]

    assert means[0] > means[1] + 60


def test_trabeculae_of_a_body_are_upright(monkeypatch):
    monkeypatch.setattr(module, "draw_middle", lambda *_: point(72, -45, 0))
    found, inner = body_of_l3(60, 1)
    fine = found.hu - ndimage.gaussian_filter(found.hu, 3)
    fine[~inner] = np.nan

    def alike(axis):
        a, b = (np.take(fine, range(s, fine.shape[axis] - 2 + s), axis) for s in (0, 2))
        both = ~np.isnan(a + b)
        return np.corrcoef(a[both], b[both])[0, 1]

    assert alike(0) > alike(2) + 0.1


def test_contrast_medium_is_in_arteries(monkeypatch):
    monkeypatch.setattr(module, "draw_middle", lambda *_: point(120, -64, 12))
    plain, enhanced = (
        view((5, 9, 9), (1.0, 1.0, 1.0), region=Region.LUMBAR, contrast=c) for c in (0.0, 150.0)
    )

    difference = enhanced.hu[2, 4, 4] - plain.hu[2, 4, 4]

    assert difference == pytest.approx(150, abs=5)


def test_vertebrae_stand_apart():
    for seed in range(20):
        spine = draw_curve(np.random.default_rng(seed), 40 + 2 * seed)
        assert [v.name for v in spine.vertebrae[:6]] == ["L5", "L4", "L3", "L2", "L1", "T12"]
        for low, high in zip(spine.vertebrae[:-1], spine.vertebrae[1:], strict=True):
            apart = np.linalg.norm(high.middle - low.middle)
            assert apart > low.half[0] + high.half[0]
            np.testing.assert_allclose(low.frame @ low.frame.T, np.eye(3), atol=1e-9)


def test_anatomy_is_the_seeds():
    one, two, other = (draw_anatomy(np.random.default_rng(s), 60.0, 60) for s in (1, 1, 2))

    np.testing.assert_array_equal(one.drawing.table()[0], two.drawing.table()[0])
    assert one.build == two.build
    assert one.build != other.build


def test_tile_of_noise():
    tile = draw_tile(np.random.default_rng(5))

    assert tile.std() == pytest.approx(1.0, abs=1e-3)
    assert noise(tile, 3.0, 60.0, 9.0) == pytest.approx(tile[3, 60, 9])
    assert noise(tile, -61.0, 60.0, 73.0) == pytest.approx(tile[3, 60, 9])
    assert noise(tile, 3.5, 60.0, 9.0) == pytest.approx((tile[3, 60, 9] + tile[4, 60, 9]) / 2)
