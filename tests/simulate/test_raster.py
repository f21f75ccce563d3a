import numpy as np
import pytest

from osteomet.simulate.bones import Part
from osteomet.simulate.noise import draw_tile
from osteomet.simulate.raster import AIR_HU, FAR_MM, Slab
from osteomet.simulate.shapes import Bone, Drawing, Hollow, Load, Soft, Tissue

SHAPE = (22, 26, 30)
SPACING = np.array([1.2, 0.9, 0.9])
ORIGIN = np.array([-13.0, -11.0, -13.0])
BONE = Bone(Part.RIB, 1.0, 0.7)


@pytest.fixture(scope="module")
def tile():
    return draw_tile(np.random.default_rng(0))


def drawn(drawing, tile, first=0, last=SHAPE[0]):
    warp = np.zeros((3, last - first, *SHAPE[1:]), np.float32)
    slab = Slab.blank(warp, ORIGIN + SPACING * (first, 0, 0), SPACING)
    slab.draw(drawing, tile)
    return slab


def places():
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), axis=-1)
    return ORIGIN + SPACING * grid


def to_segment(p, a, b):
    t = np.clip((p - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
    return np.linalg.norm(p - a - t[..., None] * (b - a), axis=-1), t


def test_nothing_drawn_is_air(tile):
    slab = drawn(Drawing(), tile)

    assert (slab.bone == FAR_MM).all()
    assert (slab.soft == AIR_HU).all()
    assert not slab.part.any()


def test_tube_is_as_far_as_its_axis_less_its_radius(tile):
    a, b = np.array([-8.0, -5.0, -7.0]), np.array([6.0, 4.0, 8.0])
    drawing = Drawing()
    drawing.tube([a, b], [2.0, 4.0], BONE, walls_mm=[1.0, 3.0])

    slab = drawn(drawing, tile)

    away, t = to_segment(places(), a, b)
    expected = away - (2.0 + 2.0 * t)
    near = expected < 3.5
    np.testing.assert_allclose(slab.bone[near], expected[near], atol=1e-3)
    assert slab.wall[near] == pytest.approx(1.0 + 2.0 * t[near], abs=1e-4)
    assert set(slab.part[near]) == {Part.RIB}
    assert (slab.bone[expected > 9] == FAR_MM).all()


def test_strands_are_tubes(tile):
    rng = np.random.default_rng(1)
    ends, radii = rng.uniform(-9, 9, (5, 2, 3)), rng.uniform(1, 3, (5, 2))
    one, many = Drawing(), Drawing()
    for line, wide in zip(ends, radii, strict=True):
        one.tube(line, wide, BONE)
    many.strands(ends, radii, BONE)

    np.testing.assert_array_equal(drawn(one, tile).bone, drawn(many, tile).bone)


def test_flat_tube_has_its_radii_along_and_across(tile):
    drawing = Drawing()
    drawing.tube([(-30, 0, 0), (30, 0, 0)], [(3.0, 7.0)] * 2, BONE, (0, 1, 0))

    inside = drawn(drawing, tile).bone < 0

    _, y, x = places()[inside].T
    assert np.abs(y).max() == pytest.approx(3.0, abs=0.6)
    assert np.abs(x).max() == pytest.approx(7.0, abs=0.6)


def test_sheet_is_as_far_as_its_nearest_point(tile):
    corners = np.array([[(-6.0, -3, -6), (-6, 2, 6)], [(7, 3, -7), (7, -2, 7)]])
    drawing = Drawing()
    drawing.sheet(corners, np.full((2, 2), 1.5), BONE)

    slab = drawn(drawing, tile)

    # Brute force: points strewn over the two triangles.
    u, v = np.meshgrid(np.linspace(0, 1, 90), np.linspace(0, 1, 90))
    u, v = u[u + v <= 1], v[u + v <= 1]
    (a, b), (c, d) = corners
    strewn = [p + u[:, None] * (q - p) + v[:, None] * (r - p) for p, q, r in ((a, c, b), (d, c, b))]
    points = np.concatenate(strewn)
    some = places()[::3, ::3, ::3].reshape(-1, 3)
    away = np.linalg.norm(some[:, None] - points[None], axis=-1).min(axis=1) - 1.5
    found = slab.bone[::3, ::3, ::3].ravel()
    np.testing.assert_allclose(found[away < 3], away[away < 3], atol=0.15)


def test_ball_and_ellipsoid(tile):
    ball, egg = Drawing(), Drawing()
    ball.ellipsoid((0, 0, 0), 7.0, BONE)
    egg.ellipsoid((0, 0, 0), (9, 6, 4), BONE)

    away = np.linalg.norm(places(), axis=-1) - 7.0
    found = drawn(ball, tile).bone
    np.testing.assert_allclose(found[away < 3], away[away < 3], atol=2e-2)
    inside = drawn(egg, tile).bone < 0
    np.testing.assert_array_equal(inside, (places() ** 2 / (81, 36, 16)).sum(axis=-1) < 1)


def test_body_of_a_vertebra_has_its_size_and_end_plates(tile):
    drawing = Drawing()
    drawing.vertebral_body(
        (0, 0, 0), (8, 7, 9), np.eye(3), Bone(Part.BODY, 0.5), waist=0.1, concavity=1.0,
        end_wall_mm=2.0,
    )  # fmt: skip

    slab = drawn(drawing, tile)

    z, y, x = places()[slab.bone < 0].T
    assert np.abs(z).max() == pytest.approx(8, abs=1.0)
    assert np.abs(x).max() == pytest.approx(9, abs=0.9)
    assert y.min() == pytest.approx(-7, abs=0.9)
    middle = np.abs(places()[..., 1:]).max(axis=-1) < 2
    height = np.abs(places()[..., 0])
    assert slab.wall[middle & (height > 6) & (height < 9)] == pytest.approx(2.0)


def test_later_shapes_take_away_and_replace(tile):
    drawing = Drawing()
    drawing.ellipsoid((0, 0, 0), 9.0, BONE)
    drawing.ellipsoid((0, 0, 0), 4.0, Hollow())
    drawing.ellipsoid((0, 0, 0), 9.0, Soft(Tissue.FAT, -100.0))
    drawing.ellipsoid((0, 0, 0), 5.0, Soft(Tissue.MUSCLE, 50.0, (Tissue.FAT,)))
    drawing.ellipsoid((0, 0, 0), 30.0, Soft(Tissue.LUNG, -800.0, (Tissue.AIR,)))

    slab = drawn(drawing, tile)

    away = np.linalg.norm(places(), axis=-1)
    assert (slab.bone[away < 3.8] > 0).all()
    assert (slab.bone[(away > 4.4) & (away < 8.5)] < 0).all()
    assert slab.soft[away < 4] == pytest.approx(50)
    assert slab.soft[(away > 6) & (away < 8)] == pytest.approx(-100)
    assert set(slab.tissue[away > 10]) == {Tissue.LUNG}


def test_load_multiplies_density(tile):
    drawing = Drawing()
    drawing.ellipsoid((0, 0, 0), 12.0, BONE)
    drawing.ellipsoid((0, 0, 0), 5.0, Load(2.0, 2.0))

    slab = drawn(drawing, tile)

    away = np.linalg.norm(places(), axis=-1)
    assert slab.density[away < 3.5] == pytest.approx(1.4)
    assert slab.density[(away > 7) & (away < 11)] == pytest.approx(0.7)


def test_slabs_are_windows_of_the_whole(tile):
    rng = np.random.default_rng(4)
    drawing = Drawing()
    for _ in range(12):
        drawing.tube(rng.uniform(-12, 12, (3, 3)), rng.uniform(1, 5, (3, 2)), BONE, (0, 1, 0))
        drawing.ellipsoid(
            rng.uniform(-12, 12, 3), rng.uniform(2, 9, 3),
            Soft(Tissue.MUSCLE, 50.0, rough_mm=1.0),
        )  # fmt: skip

    whole, low, high = (drawn(drawing, tile, *span) for span in ((0, 22), (0, 9), (9, 22)))

    felt = whole.bone < 3
    for name in ("soft", "tissue", "part", "wall"):
        parts = np.concatenate([getattr(low, name), getattr(high, name)])
        where = felt if name in {"part", "wall"} else np.ones(SHAPE, bool)
        np.testing.assert_array_equal(parts[where], getattr(whole, name)[where])
