"""Mask crops against counting voxels, and pasting against grid_sample."""

import pytest
import torch
from torch.nn import functional as F

from osteomet.ops.masks import crop_instances, paste_mask

pytestmark = pytest.mark.usefixtures("path")


def ball_map(size: int = 24, radius: float = 7.0) -> torch.Tensor:
    axis = torch.arange(size) + 0.5 - size / 2
    distance = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
    return torch.where(distance <= radius**2, 5, 0).to(torch.int16)


def centers(n: int) -> torch.Tensor:
    return torch.arange(n) + 0.5


def test_cells_of_whole_voxels_hold_the_fraction_inside() -> None:
    instances = ball_map()
    box = torch.tensor([[3.0, 3, 3, 21, 21, 21]])
    crop = crop_instances(instances, torch.tensor([5]), box, output_size=6)
    inside = (instances[3:21, 3:21, 3:21] == 5).float()[None, None]
    torch.testing.assert_close(crop, F.avg_pool3d(inside, 3)[0])


def test_cells_of_one_voxel_are_the_mask() -> None:
    instances = ball_map()
    box = torch.tensor([[4.0, 5, 6, 14, 15, 16]])
    crop = crop_instances(instances, torch.tensor([5]), box, output_size=10)
    assert torch.equal(crop[0], (instances[4:14, 5:15, 6:16] == 5).float())


@pytest.mark.parametrize("size", [5, 11, 28])
def test_fractional_cells_agree_with_fine_counting(size: int) -> None:
    instances, box = ball_map(), torch.tensor([[4.3, 3.9, 5.1, 19.7, 20.2, 18.4]])
    crop = crop_instances(instances, torch.tensor([5]), box, size)[0]
    fine = size * 12
    index = [
        (box[0, a] + (box[0, a + 3] - box[0, a]) * (torch.arange(fine) + 0.5) / fine).long()
        for a in range(3)
    ]
    counted = (instances[index[0]][:, index[1]][:, :, index[2]] == 5).float()
    counted = F.avg_pool3d(counted[None, None], 12)[0, 0]
    assert (crop - counted).abs().mean() < 0.06  # trilinear sampling blurs the rim alone
    assert crop.mean().item() == pytest.approx(counted.mean().item(), rel=0.03)


def test_only_the_instance_asked_for() -> None:
    instances = ball_map()
    instances[12:] = torch.where(instances[12:] == 5, 6, 0)
    box = torch.tensor([[4.0, 4, 4, 20, 20, 20]]).repeat(2, 1)
    both = crop_instances(instances, torch.tensor([5, 6]), box, 8)
    assert not both[0, 4:].any()
    assert not both[1, :4].any()
    assert both[0].max() == both[1].max() == 1


def test_no_box_no_mask_and_boxes_beyond_the_map() -> None:
    instances = ball_map()
    assert crop_instances(instances, torch.zeros(0).long(), torch.zeros(0, 6), 4).shape == (
        0, 4, 4, 4,
    )  # fmt: skip
    boxes = torch.tensor([[-9.0, -9, -9, 40, 40, 40], [50, 50, 50, 60, 60, 60], [9] * 6])
    crops = crop_instances(instances, torch.tensor([0, 5, 5]), boxes, 4)
    assert not crops[0].any()
    assert not crops[1].any()
    assert (crops[2] == 1).all()  # a box of no size, inside the ball


def test_paste_equals_grid_sample_inside_and_is_zero_outside() -> None:
    crop = torch.rand(6, 6, 6, generator=torch.Generator().manual_seed(0))
    box = torch.tensor([2.3, 1.0, 4.7, 12.9, 15.0, 11.2])
    axes = centers(16), centers(17), centers(13)
    pasted = paste_mask(crop, box, *axes)
    z, y, x = (2 * (axis - box[a]) / (box[a + 3] - box[a]) - 1 for a, axis in enumerate(axes))
    grid = torch.stack(torch.meshgrid(z, y, x, indexing="ij")[::-1], dim=-1)
    expected = F.grid_sample(
        crop[None, None], grid[None], padding_mode="border", align_corners=False
    )[0, 0]
    inside = (grid.abs() <= 1).all(dim=-1)
    assert inside.any()
    torch.testing.assert_close(pasted, torch.where(inside, expected, 0.0))


def test_paste_undoes_crop() -> None:
    instances, box = ball_map(), torch.tensor([[4.0, 4, 4, 20, 20, 20]])
    for size in (16, 32):
        crop = crop_instances(instances, torch.tensor([5]), box, size)[0]
        pasted = paste_mask(crop, box[0], centers(24), centers(24), centers(24)) > 0.5
        truth = instances == 5
        assert 2 * (pasted & truth).sum() / (pasted.sum() + truth.sum()) > 0.97


def test_paste_onto_a_finer_grid_keeps_the_volume() -> None:
    crop = crop_instances(
        ball_map(), torch.tensor([5]), torch.tensor([[3.0, 3, 3, 21, 21, 21]]), 18
    )
    fine = (torch.arange(48) + 0.5) / 2
    pasted = paste_mask(crop[0], torch.tensor([3.0, 3, 3, 21, 21, 21]), fine, fine, fine) > 0.5
    assert pasted.sum().item() / 8 == pytest.approx((ball_map() == 5).sum().item(), rel=0.03)


def test_paste_of_no_points_and_into_no_box() -> None:
    crop, none = torch.ones(4, 4, 4), torch.zeros(0)
    assert paste_mask(crop, torch.tensor([0.0, 0, 0, 4, 4, 4]), none, centers(3), none).shape == (
        0, 3, 0,
    )  # fmt: skip
    assert not paste_mask(crop, torch.full((6,), 2.0), centers(4), centers(4), centers(4)).any()
