"""Boxes against counting voxels, and the edges of their contract."""

import itertools

import pytest
import torch
from box_samples import float_boxes, rasterise, whole_boxes

from osteomet.ops.boxes import (
    box_centers,
    box_giou,
    box_iou,
    box_volume,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    paired_giou,
    paired_iou,
)

POINT = torch.tensor([[3.0, 3, 3, 3, 3, 3]])

pytestmark = pytest.mark.usefixtures("path")


def test_iou_equals_voxel_counting() -> None:
    a, b = whole_boxes(7, seed=0), whole_boxes(5, seed=1)
    iou = box_iou(a, b)
    for i, j in itertools.product(range(7), range(5)):
        one, other = rasterise(a[i]), rasterise(b[j])
        assert iou[i, j].item() == pytest.approx(((one & other).sum() / (one | other).sum()).item())


def test_giou_equals_voxel_counting() -> None:
    a, b = whole_boxes(7, seed=2), whole_boxes(5, seed=3)
    giou = box_giou(a, b)
    for i, j in itertools.product(range(7), range(5)):
        one, other = rasterise(a[i]), rasterise(b[j])
        low, high = torch.minimum(a[i], b[j])[:3], torch.maximum(a[i], b[j])[3:]
        hull, union = rasterise(torch.cat([low, high])).sum(), (one | other).sum()
        expected = (one & other).sum() / union - (hull - union) / hull
        assert giou[i, j].item() == pytest.approx(expected.item(), abs=1e-6)


def test_pairs_are_the_diagonals() -> None:
    a, b = whole_boxes(6, seed=4), whole_boxes(6, seed=5)
    torch.testing.assert_close(paired_giou(a, b), box_giou(a, b).diagonal())
    torch.testing.assert_close(paired_iou(a, b), box_iou(a, b).diagonal())


def test_iou_with_and_without_a_gradient_is_the_same() -> None:
    a, b = float_boxes(150, 4, 20.0, 9.0), float_boxes(70, 5, 20.0, 9.0)
    assert torch.equal(box_iou(a, b), box_iou(a.requires_grad_(), b).detach())


def test_giou_pulls_boxes_together_that_do_not_touch() -> None:
    near = torch.tensor([[0.0, 0, 0, 2, 2, 2]], requires_grad=True)
    paired_giou(near, torch.tensor([[8.0, 0, 0, 10, 2, 2]])).sum().backward()
    assert near.grad is not None
    assert near.grad[0, 3] > 0


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0)])
def test_overlaps_keep_their_shape_when_empty(n: int, m: int) -> None:
    a, b = whole_boxes(n, 0), whole_boxes(m, 1)
    assert box_iou(a, b).shape == box_giou(a, b).shape == (n, m)


def test_no_box_at_all() -> None:
    none = torch.zeros(0, 6)
    assert box_volume(none).shape == paired_giou(none, none).shape == (0,)
    assert box_centers(none).shape == (0, 3)
    assert encode_boxes(none, none).shape == decode_boxes(none, none).shape == (0, 6)
    assert clip_boxes(none, (4, 4, 4)).shape == (0, 6)


def test_degenerate_boxes_overlap_by_zero_not_nan() -> None:
    assert box_iou(POINT, POINT).item() == 0.0
    assert box_giou(POINT, POINT).item() == 0.0
    assert box_volume(torch.tensor([[4.0, 0, 0, 2, 5, 5]])).item() == 0.0


def test_half_precision_does_not_overflow() -> None:
    cube = torch.tensor([[0, 0, 0, 96, 96, 96]], dtype=torch.float16)
    assert box_iou(cube, cube).item() == paired_giou(cube, cube).item() == 1.0
    assert box_volume(cube).item() == 96**3


def test_deltas_mean_what_they_say() -> None:
    anchor = torch.tensor([[0.0, 10, 20, 10, 20, 30]])
    moved = decode_boxes(torch.tensor([[1.0, 0, 0, 0, 0, 0]]), anchor)  # 0.1 of 10 voxels
    torch.testing.assert_close(moved, torch.tensor([[1.0, 10, 20, 11, 20, 30]]))
    twice = torch.tensor([[0.0, 0, 0, 0, 0, 2.0]]).log1p() / 0.2  # e^0.2d = 3 along x
    torch.testing.assert_close(
        decode_boxes(twice, anchor), torch.tensor([[0.0, 10, 10, 10, 20, 40]])
    )


def test_decoding_undoes_encoding() -> None:
    boxes, anchors = float_boxes(50, 0, 40, 20), float_boxes(50, 1, 40, 20)
    for scale in ((0.1, 0.2), (1.0, 1.0)):
        deltas = encode_boxes(boxes, anchors, scale)
        torch.testing.assert_close(
            decode_boxes(deltas, anchors, scale), boxes, atol=1e-4, rtol=1e-5
        )


def test_wild_deltas_and_points_stay_finite() -> None:
    assert decode_boxes(torch.full((1, 6), 1e4), POINT + torch.arange(6)).isfinite().all()
    assert encode_boxes(POINT, POINT).isfinite().all()


def test_clip_to_image() -> None:
    clipped = clip_boxes(torch.tensor([[-2.0, 1, 1, 99, 5, 5]]), (8, 16, 16))
    assert clipped.tolist() == [[0, 1, 1, 8, 5, 5]]
    assert box_volume(clip_boxes(torch.tensor([[20.0, 0, 0, 30, 5, 5]]), (8, 16, 16))).item() == 0


def test_center_is_in_voxel_edges() -> None:
    assert box_centers(torch.tensor([[2.0, 2, 2, 5, 6, 7]])).tolist() == [[3.5, 4, 4.5]]
