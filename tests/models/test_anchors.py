import pytest
import torch

from osteomet.config import AnchorConfig, Config
from osteomet.models.anchors import AnchorGenerator, anchor_shapes


def test_ratio_is_dz_to_dxy_at_constant_volume() -> None:
    shapes = anchor_shapes((8.0,), (0.5, 1.0, 2.0))
    torch.testing.assert_close(shapes[:, 0] / shapes[:, 1], torch.tensor([0.5, 1.0, 2.0]))
    torch.testing.assert_close(shapes.prod(dim=1), torch.full((3,), 512.0))


def test_literal_table() -> None:
    config = AnchorConfig(sizes_mm=((4.0,), (12.0,)), ratios=(1.0,))
    boxes, levels = AnchorGenerator(config, (2, 3), spacing_mm=2.0)(
        [(1, 1, 2), (1, 1, 1)], torch.device("cpu")
    )
    assert boxes.tolist() == [
        [1, 1, 1, 3, 3, 3],  # 4 mm are 2 voxels, about the centre (2, 2, 2) of the first cell
        [1, 1, 5, 3, 3, 7],
        [1, 1, 1, 7, 7, 7],  # stride 8: centre (4, 4, 4), 6 voxels
    ]
    assert levels.tolist() == [0, 0, 1]


def test_uneven_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="as many sizes"):
        AnchorConfig(sizes_mm=((4.0,), (8.0, 12.0)))


def test_anchors_first_made_in_inference_can_be_trained_with() -> None:
    generator = AnchorGenerator(Config().model.anchors, (2, 3, 4), 1.0)
    maps = [(4, 4, 4), (2, 2, 2), (1, 1, 1)]
    with torch.inference_mode():
        first, _ = generator(maps, torch.device("cpu"))
    anchors, _ = generator(maps, torch.device("cpu"))
    assert torch.equal(anchors, first)
    moved = torch.ones_like(anchors).requires_grad_()
    (moved * anchors).sum().backward()
    assert torch.equal(moved.grad, anchors)
    other, _ = generator([(8, 8, 8), (4, 4, 4), (2, 2, 2)], torch.device("cpu"))
    assert len(other) == 8 * len(anchors)
