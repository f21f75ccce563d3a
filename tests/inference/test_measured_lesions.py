"""Masks land on the scan's voxels, and measures are those of simple shapes."""

import itertools

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from osteomet.config import InferenceConfig
from osteomet.data.preprocess import ModelGrid
from osteomet.inference.lesions import (
    MeasuredLesions,
    PlacedMask,
    _meeting,
    extreme_voxels,
    longest_diameter_mm,
    measure_lesions,
)
from osteomet.structures import Detections
from osteomet.volume import Volume

CONFIG = InferenceConfig()


def cubes(*rows: tuple[float, ...], scores: tuple[float, ...], value: float = 1.0) -> Detections:
    """Return detections whose masks fill their boxes."""
    boxes = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    n = len(boxes)
    return Detections(
        boxes,
        scores=torch.tensor(scores),
        p_lung=torch.full((n,), 0.3),
        embeddings=torch.zeros(n, 2),
        attributes=torch.tensor([0.9, 0.1, 0.3, 0.2]).expand(n, 4),
        mask_boxes=boxes,
        masks=torch.full((n, 4, 4, 4), value),
    )


def scan(spacing_zyx_mm: tuple[float, float, float] = (2.0, 1.0, 1.0)) -> Volume:
    hu = np.zeros((20, 30, 40), np.int16)
    return Volume.from_spacing(hu, spacing_zyx_mm, origin_xyz_mm=(-10.0, 5.0, 100.0))


def measure(found: Detections, volume: Volume, spacing_mm: float = 1.0) -> MeasuredLesions:
    return measure_lesions(found, volume, ModelGrid.of(volume, spacing_mm), CONFIG)


def test_no_detection_gives_an_empty_label_map() -> None:
    measured = measure(cubes(scores=()), scan())
    assert measured.candidates == measured.lesions == measured.warnings == ()
    assert measured.labels.shape == (20, 30, 40)
    assert not measured.labels.instances


def test_a_cube_is_measured_in_mm() -> None:
    volume = scan()
    volume.voxels[4:8] = 100
    volume.voxels[6:8] = 300
    # Model voxels of 1 mm: z 8-16 are slices 4-7 of 2 mm.
    measured = measure(cubes((8, 10, 20, 16, 16, 26), scores=(0.9,)), volume)
    (lesion,) = measured.lesions
    assert np.argwhere(measured.labels.whole().voxels == 1).min(axis=0).tolist() == [4, 10, 20]
    assert np.argwhere(measured.labels.whole().voxels == 1).max(axis=0).tolist() == [7, 15, 25]
    assert lesion.volume_ml == pytest.approx(8 * 6 * 6 / 1000)
    assert lesion.centroid_lps_mm == pytest.approx((-10 + 22.5, 5 + 12.5, 100 + 11.0))
    assert lesion.longest_diameter_mm == pytest.approx(np.sqrt(6**2 + 5**2 + 5**2))
    assert lesion.box_vox == pytest.approx((4, 10, 20, 8, 16, 26))
    assert lesion.box_lps_mm == pytest.approx((9.5, 14.5, 107, 15.5, 20.5, 115))
    assert (lesion.hu.mean, lesion.hu.std, lesion.hu.median) == pytest.approx((200, 100, 200))
    assert (lesion.id, lesion.label, lesion.candidate) == ("L1", 1, 0)


def test_the_candidates_mask_decodes_to_the_lesions_voxels() -> None:
    measured = measure(cubes((8, 10, 20, 16, 16, 26), scores=(0.9,)), scan())
    mask = measured.candidates[0].mask
    assert mask is not None
    again = np.zeros((20, 30, 40), dtype=bool)
    again[tuple(slice(o, o + n) for o, n in zip(mask.offset_zyx, mask.shape_zyx, strict=True))] = (
        mask.decode()
    )
    assert (again == (measured.labels.whole().voxels == 1)).all()


def test_only_candidates_above_the_threshold_are_lesions() -> None:
    found = cubes((0, 0, 0, 6, 6, 6), (10, 10, 10, 16, 16, 16), scores=(0.5, 0.49))
    measured = measure(found, scan())
    assert [c.score for c in measured.candidates] == pytest.approx([0.5, 0.49])
    assert [lesion.candidate for lesion in measured.lesions] == [0]


def test_a_shared_voxel_goes_to_the_surer_mask() -> None:
    found = cubes((0, 0, 0, 10, 10, 10), (0, 0, 6, 10, 10, 16), scores=(0.9, 0.8))
    found.masks[0] = 0.6
    measured = measure(found, scan((1.0, 1.0, 1.0)))
    assert (measured.labels.whole().voxels[0, 0, :17] == [1] * 6 + [2] * 10 + [0]).all()
    assert sum(lesion.volume_ml for lesion in measured.lesions) == pytest.approx(1.6)


def test_a_voxel_of_which_both_are_as_good_as_sure_stays_with_the_better_candidate() -> None:
    found = cubes((0, 0, 0, 10, 10, 10), (0, 0, 6, 10, 10, 16), scores=(0.9, 0.8))
    found.masks[0] = 0.995
    measured = measure(found, scan((1.0, 1.0, 1.0)))
    assert (measured.labels.whole().voxels[0, 0, :17] == [1] * 10 + [2] * 6 + [0]).all()


def test_a_lesion_inside_surer_ones_stays_a_candidate_with_a_warning() -> None:
    found = cubes((0, 0, 0, 10, 10, 10), (2, 2, 2, 6, 6, 6), scores=(0.9, 0.8))
    found.masks[1] = 0.6
    measured = measure(found, scan((1.0, 1.0, 1.0)))
    assert len(measured.candidates) == 2
    assert [lesion.candidate for lesion in measured.lesions] == [0]
    assert "candidate 1" in measured.warnings[0]


@pytest.mark.parametrize("box", [(4, 4, 4, 14, 12, 12), (4.1, 4.1, 4.1, 4.2, 4.2, 4.2)])
def test_a_lesion_without_a_mask_gets_the_ellipsoid_in_its_box(box: tuple[float, ...]) -> None:
    measured = measure(cubes(box, scores=(0.9,), value=0.1), scan((1.0, 1.0, 1.0)))
    assert measured.candidates[0].mask is None
    (lesion,) = measured.lesions
    volume = 10 * 8 * 8 * np.pi / 6 / 1000
    assert lesion.volume_ml == pytest.approx(volume if box[3] == 14 else 0.001, rel=0.1)
    assert "mask threshold" in measured.warnings[0]


def test_a_box_beyond_the_scan_is_cut_to_it() -> None:
    measured = measure(cubes((-3, -3, -3, 6, 6, 6), scores=(0.9,)), scan((1.0, 1.0, 1.0)))
    assert measured.candidates[0].box_vox == (0, 0, 0, 6, 6, 6)
    assert measured.lesions[0].volume_ml == pytest.approx(0.216)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 40), (40, 1, 40), (12, 13, 14)])
def test_longest_diameter_equals_comparing_all_voxels(shape: tuple[int, int, int]) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.7
    mask[0, 0, 0] = True
    everything = np.argwhere(mask).astype(float) * (3.0, 0.7, 0.9)
    expected = pdist(everything).max(initial=0.0)
    ends = extreme_voxels(mask).astype(float) * (3.0, 0.7, 0.9)
    assert longest_diameter_mm(ends) == pytest.approx(expected)


def test_longest_diameter_of_a_large_ball() -> None:
    mask = (np.indices((50, 50, 50)) - 24.5).__pow__(2).sum(axis=0) < 24**2
    diameter = longest_diameter_mm(extreme_voxels(mask).astype(float))
    assert diameter == pytest.approx(48, abs=1.0)


def test_windows_that_meet_are_those_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    empty = np.zeros((0, 0, 0), np.float32)
    masks = {}
    for name in rng.permutation(60).tolist():
        z, y, x = (slice(int(a), int(a + n)) for a, n in rng.integers(0, [40, 16], (3, 2)))
        masks[name] = PlacedMask(empty, empty.astype(bool), (z, y, x))
    expected = [
        (first, second)
        for first, second in itertools.combinations(masks, 2)
        if all(
            set(range(p.start, p.stop)) & set(range(q.start, q.stop))
            for p, q in zip(masks[first].window, masks[second].window, strict=True)
        )
    ]
    assert len(expected) > 5
    assert list(_meeting(masks)) == expected
