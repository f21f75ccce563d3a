"""Body and bone are found where a phantom has them."""

import numpy as np
import pytest
import trunk_phantom as phantom
from scipy import ndimage

from osteomet.data.body import BODY_MARGIN_MM, Body, _holes, body_window, cell_means, find_body
from osteomet.volume import Volume


def shares(body: Body, ball: phantom.Ball) -> tuple[float, float]:
    return body.shares(np.argwhere(phantom.balls(ball) == 1))


@pytest.fixture(scope="module")
def body() -> Body:
    return find_body(phantom.trunk())


def test_the_body_is_as_large_as_it_is(body: Body) -> None:
    true_ml = phantom.skin().sum() * phantom.SPACING_MM**3 / 1000
    assert body.measures.body_ml == pytest.approx(true_ml, rel=0.06)
    assert body.measures.lung_share == 0
    assert body.measures.air_at_sides > 0.95


def test_bone_is_what_its_cortex_crosses(body: Body) -> None:
    ring = (phantom.distance_mm(phantom.SPINE) <= 18) & (phantom.distance_mm(phantom.SPINE) > 14)
    true_ml = ring.sum() * phantom.SPACING_MM**3 / 1000
    # Cells that a thin cortex crosses count whole.
    assert true_ml < body.measures.bone_ml < 2 * true_ml


@pytest.mark.parametrize(
    ("ball", "in_body", "in_bone"),
    [(phantom.IN_SPINE, 1, 1), (phantom.IN_MUSCLE, 1, 0), (phantom.IN_AIR, 0, 0)],
)
def test_where_a_lesion_lies(
    body: Body, ball: phantom.Ball, in_body: float, in_bone: float
) -> None:
    assert shares(body, ball) == (in_body, in_bone)


def test_a_lytic_lesion_that_breaks_the_cortex_is_still_in_bone() -> None:
    volume = phantom.trunk()
    hole = phantom.balls(((20, 42, 40), 9.0)) > 0
    volume.voxels[hole] = phantom.MUSCLE
    _, bone_share = find_body(volume).shares(np.argwhere(hole))
    assert bone_share > 0.8


def test_lungs_belong_to_the_body() -> None:
    measures = find_body(phantom.trunk(lungs=True)).measures
    assert measures.region == "chest"
    true_share = 2 * np.pi * 22**2 / (phantom.skin()[0].sum() * phantom.SPACING_MM**2)
    assert measures.lung_share == pytest.approx(true_share, rel=0.3)
    assert find_body(phantom.trunk()).measures.region != "chest"


def test_a_cut_out_is_called_one() -> None:
    whole = phantom.trunk(lungs=True)
    cut = Volume(whole.voxels[:, 18:50, 15:65], whole.affine)
    measures = find_body(cut).measures
    assert measures.region == "cut-out with lung"
    assert measures.body_ml == pytest.approx(cut.voxels.size * cut.voxel_ml, rel=0.01)


def test_two_parts_of_one_size_are_legs() -> None:
    volume = phantom.trunk()
    volume.voxels[...] = phantom.AIR
    for side in (20, 60):
        volume.voxels[phantom.distance_mm((35, side)) <= 26] = phantom.MUSCLE
    assert find_body(volume).measures.region == "legs"


@pytest.mark.parametrize("value", [phantom.AIR, phantom.CORTEX])
def test_a_scan_of_one_value_is_no_patient_or_nothing_else(value: int) -> None:
    volume = phantom.trunk()
    volume.voxels[...] = value
    found = find_body(volume)
    assert (found.measures.region == "no body") == (value == phantom.AIR)
    assert found.bone.all() == found.inside.all() == (value == phantom.CORTEX)


def test_cells_are_means_of_their_voxels() -> None:
    voxels = np.random.default_rng(0).integers(-1000, 1000, (7, 9, 10)).astype(np.int16)
    cells = cell_means(voxels, (2, 4, 3))
    assert cells.shape == (4, 3, 4)
    for z, y, x in np.ndindex(cells.shape):
        block = voxels[2 * z : 2 * z + 2, 4 * y : 4 * y + 4, 3 * x : 3 * x + 3]
        assert cells[z, y, x] == pytest.approx(block.mean(), abs=1e-3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_holes_are_what_filling_each_plane_adds(axis: int) -> None:
    cells = np.random.default_rng(1).random((12, 13, 14)) < 0.6
    planes = np.moveaxis(cells, axis, 0)
    filled = np.stack([ndimage.binary_fill_holes(plane) & ~plane for plane in planes])
    assert filled.any()
    assert np.array_equal(_holes(cells, axis), np.moveaxis(filled, 0, axis))


def extents(window: tuple[slice, slice, slice]) -> list[tuple[int, int]]:
    return [(part.start, part.stop) for part in window]


def box_of(there: np.ndarray) -> list[tuple[int, int]]:
    return [(part.start, part.stop) for part in ndimage.find_objects(there.astype(np.uint8))[0]]


def assert_holds(volume: Volume, there: np.ndarray) -> None:
    """The window holds all that is there, and not much more than the margin."""
    margin = BODY_MARGIN_MM / phantom.SPACING_MM
    sides = zip(extents(body_window(volume)), box_of(there), volume.shape, strict=True)
    for (low, high), (first, last), n in sides:
        assert max(0, first - margin - 2) <= low <= first
        assert last <= high <= min(n, last + margin + 2)


def in_air(spacing: float = phantom.SPACING_MM) -> Volume:
    voxels = np.random.default_rng(0).normal(phantom.AIR, 15, (40, 90, 100))
    return Volume.from_spacing(np.rint(voxels).astype(np.int16), (spacing,) * 3)


def rod(centre: tuple[int, int], radius_mm: float) -> np.ndarray:
    return phantom.distance_mm(centre, (40, 90, 100)) <= radius_mm


@pytest.mark.parametrize(
    "parts",
    [
        {"trunk": ((45, 50), 60.0)},
        {"leg": ((45, 30), 40.0), "other leg": ((45, 72), 35.0)},
        {"trunk": ((45, 40), 50.0), "arm": ((50, 80), 12.0)},
        {"finger": ((20, 70), 8.0)},
    ],
    ids=" and ".join,
)
def test_the_window_holds_every_part_of_the_patient(
    parts: dict[str, tuple[tuple[int, int], float]],
) -> None:
    volume, there = in_air(), np.zeros((40, 90, 100), dtype=bool)
    for centre, radius_mm in parts.values():
        part = rod(centre, radius_mm)
        volume.voxels[part] = phantom.MUSCLE
        there |= part
    assert_holds(volume, there)


def test_the_window_of_a_head_and_of_a_chest() -> None:
    head = in_air()
    z, y, x = np.ogrid[:40, :90, :100]
    ball = (z - 10) ** 2 + (y - 45) ** 2 + (x - 50) ** 2 <= 22**2
    head.voxels[ball] = phantom.MUSCLE
    assert_holds(head, ball)
    assert_holds(phantom.trunk(lungs=True), phantom.skin())


def test_a_bone_too_thin_for_cells_of_tissue_is_held() -> None:
    volume = in_air()
    volume.voxels[rod((12, 85), 3.0)] = phantom.CORTEX
    assert_holds(volume, rod((12, 85), 3.0))


def test_dust_is_not_the_patient() -> None:
    volume = in_air()
    volume.voxels[rod((45, 30), 30.0)] = phantom.MUSCLE
    volume.voxels[3:5, 80:82, 90:92] = phantom.MUSCLE
    assert_holds(volume, rod((45, 30), 30.0))


@pytest.mark.parametrize("value", [phantom.AIR, phantom.MUSCLE])
def test_all_of_a_scan_of_one_value_is_kept(value: int) -> None:
    volume = in_air()
    volume.voxels[...] = value
    assert extents(body_window(volume)) == [(0, 40), (0, 90), (0, 100)]


def test_three_slices_are_enough() -> None:
    volume = phantom.trunk()
    thin = Volume(volume.voxels[:3], volume.affine)
    assert_holds(thin, phantom.skin()[:3])
