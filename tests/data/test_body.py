"""Body and bone are found where a phantom has them."""

import numpy as np
import pytest
import trunk_phantom as phantom
from scipy import ndimage

from osteomet.data.body import Body, _holes, cell_means, find_body
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
