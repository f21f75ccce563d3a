"""RoIAlign against slicing, a loop over samples and autograd through grid_sample."""

import itertools

import pytest
import torch
from box_samples import float_boxes
from torch.nn import functional as F

from osteomet.ops.acceleration import NUMBA_ENABLED
from osteomet.ops.roi_align import roi_align, roi_align_levels

pytestmark = pytest.mark.usefixtures("path")

INDEX = torch.tensor([1, 0, 1, 1, 0])


def image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def read(volume: torch.Tensor, position: tuple[float, ...]) -> torch.Tensor:
    """Interpolate ``volume (c, z, y, x)`` at a position in edges: the rule, point by point."""
    corners = []
    for edge, length in zip(position, volume.shape[1:], strict=True):
        index = min(max(edge - 0.5, 0.0), length - 1.0)
        low = min(int(index), max(length - 2, 0))
        corners.append([(low, 1 - (index - low)), (min(low + 1, length - 1), index - low)])
    return sum(
        volume[:, z, y, x] * (wz * wy * wx)
        for (z, wz), (y, wy), (x, wx) in itertools.product(*corners)
    )


def loop_roi_align(volume: torch.Tensor, box: list[float], size: int, ratio: int) -> torch.Tensor:
    out = torch.zeros(len(volume), size, size, size)
    samples = size * ratio
    for at in itertools.product(range(samples), repeat=3):
        position = tuple(
            box[axis] + (box[axis + 3] - box[axis]) * (i + 0.5) / samples
            for axis, i in enumerate(at)
        )
        out[:, at[0] // ratio, at[1] // ratio, at[2] // ratio] += read(volume, position)
    return out / ratio**3


def test_a_box_of_whole_voxels_is_a_slice() -> None:
    features = image(2, 3, 6, 7, 8)
    box = torch.tensor([[1.0, 2, 3, 4, 5, 6]])
    pooled = roi_align(features, box, torch.tensor([1]), output_size=3)
    torch.testing.assert_close(pooled[0], features[1, :, 1:4, 2:5, 3:6])


@pytest.mark.parametrize("ratio", [1, 2, 3])
@pytest.mark.parametrize("shape", [(3, 6, 7, 8), (6, 6, 7, 8), (3, 1, 5, 1)])
def test_pooling_equals_a_loop_over_samples(shape: tuple[int, int, int, int], ratio: int) -> None:
    features = image(2, *shape)
    boxes = float_boxes(5, 0, 6, 5) - 2  # some reach beyond the map on either side
    pooled = roi_align(features, boxes, INDEX, output_size=2, sampling_ratio=ratio)
    for i, box in enumerate(boxes.tolist()):
        expected = loop_roi_align(features[INDEX[i]], box, 2, ratio)
        torch.testing.assert_close(pooled[i], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("channels", [2, 20])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_output_and_gradient_equal_grid_sample(
    memory_format: torch.memory_format, channels: int
) -> None:
    features = image(2, channels, 9, 8, 7).to(memory_format=memory_format).requires_grad_()
    boxes, grad = float_boxes(5, 1, 7, 6) - 1, image(5, channels, 4, 4, 4, seed=1)
    pooled = roi_align(features, boxes, INDEX, output_size=4)
    (gradient,) = torch.autograd.grad(pooled, features, grad)

    expected = torch.stack([_grid_sample(features[i], box) for i, box in zip(INDEX, boxes)])  # noqa: B905  # a tensor and a tensor
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)
    (expected_gradient,) = torch.autograd.grad(expected, features, grad)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-4, rtol=1e-4)


def _grid_sample(volume: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
    steps = (torch.arange(4) + 0.5) / 4
    z, y, x = (
        2 * (box[a] + (box[a + 3] - box[a]) * steps) / volume.shape[a + 1] - 1 for a in range(3)
    )
    grid = torch.stack(torch.meshgrid(z, y, x, indexing="ij")[::-1], dim=-1)
    return F.grid_sample(volume[None], grid[None], padding_mode="border", align_corners=False)[0]


def test_gradient_equals_finite_differences() -> None:
    features = image(1, 1, 4, 4, 4)
    boxes, batch_index = torch.tensor([[0.3, 0.8, -1.0, 3.1, 3.9, 9.0]]), torch.tensor([0])
    weights = image(1, 1, 2, 2, 2, seed=3)

    def loss(values: torch.Tensor) -> torch.Tensor:
        return (roi_align(values, boxes, batch_index, 2, sampling_ratio=2) * weights).sum()

    leaf = features.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    for at in itertools.product(range(4), repeat=3):
        step = torch.zeros_like(features)
        step[(0, 0, *at)] = 0.5  # the loss is linear, so a large step is exact
        slope = loss(features + step) - loss(features - step)
        assert gradient[(0, 0, *at)].item() == pytest.approx(slope.item(), abs=1e-5)


def test_levels_equal_pooling_level_by_level() -> None:
    levels = [image(2, 4, 8, 8, 8).requires_grad_(), image(2, 4, 4, 4, 4).requires_grad_()]
    boxes, level_index = float_boxes(5, 2, 20, 10), torch.tensor([1, 0, 0, 1, 0])
    pooled = roi_align_levels(levels, [4, 8], boxes, INDEX, level_index, 3)
    for i, level in enumerate(level_index.tolist()):
        alone = roi_align(levels[level], boxes[i : i + 1] / (4 * 2**level), INDEX[i : i + 1], 3)
        torch.testing.assert_close(pooled[i], alone[0])
    pooled.sum().backward()
    assert all(level.grad is not None and level.grad.abs().sum() > 0 for level in levels)


def test_no_box_gives_no_features_and_a_gradient_of_zeros() -> None:
    features = image(2, 3, 4, 4, 4).requires_grad_()
    none = torch.zeros(0, dtype=torch.int64)
    pooled = roi_align(features, torch.zeros(0, 6), none, output_size=3)
    assert pooled.shape == (0, 3, 3, 3, 3)
    pooled.sum().backward()
    assert features.grad is not None
    assert not features.grad.any()
    levels = roi_align_levels([features, features], [4, 8], torch.zeros(0, 6), none, none, 3)
    assert levels.shape == (0, 3, 3, 3, 3)


def test_a_level_without_boxes_and_maps_without_channels() -> None:
    levels, zeros = [image(1, 3, 4, 4, 4), image(1, 3, 2, 2, 2)], torch.zeros(2, dtype=torch.int64)
    assert roi_align_levels(levels, [1, 2], float_boxes(2, 0, 3, 2), zeros, zeros, 3).shape[0] == 2
    assert roi_align(image(1, 0, 4, 4, 4), float_boxes(2, 0, 3, 2), zeros, 3).shape[1] == 0


def test_broken_boxes_read_the_border_and_crash_nothing() -> None:
    features, zeros = image(1, 2, 4, 4, 4), torch.zeros(2, dtype=torch.int64)
    boxes = torch.tensor([[3.0, 3, 3, 1, 1, 1], [2, 2, 2, 2, 2, 2]])
    pooled = roi_align(features, boxes, zeros, output_size=2)
    expected = read(features[0], (2.0, 2.0, 2.0))
    torch.testing.assert_close(pooled[1], expected[:, None, None, None].expand(2, 2, 2, 2))
    torch.testing.assert_close(
        pooled[0, :, 0, 0, 0], read(features[0], (3.0, 3.0, 3.0)), atol=1e-6, rtol=1e-6
    )


@pytest.mark.skipif(not NUMBA_ENABLED, reason="what torch does with NaN is its own affair")
def test_a_box_of_nan_stays_inside_the_map(path: str) -> None:
    if path == "numba":
        roi_align(image(1, 2, 4, 4, 4), torch.full((1, 6), torch.nan), torch.tensor([0]), 2)


def test_a_box_of_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="boxes of image 2 to 2; expected 0 to 1"):
        roi_align(image(2, 3, 4, 4, 4), float_boxes(1, 0, 2, 2), torch.tensor([2]), 3)


def test_half_precision_keeps_its_kind() -> None:
    features = image(1, 3, 4, 4, 4).bfloat16().requires_grad_()
    pooled = roi_align(features, torch.tensor([[0.0, 0, 0, 4, 4, 4]]), torch.tensor([0]), 4)
    torch.testing.assert_close(pooled[0], features[0])
    pooled.sum().backward()
    assert features.grad is not None
    assert features.grad.dtype == torch.bfloat16
