import pytest
import torch
from torch import nn
from torch.nn import functional as F

from osteomet.config import Normalisation
from osteomet.models.layers import (
    PatchifyConv3d,
    keep_visible,
    normalisation3d,
)


def test_patchify_equals_the_strided_convolution() -> None:
    layer, x = PatchifyConv3d(3, 5, 2), torch.randn(2, 3, 4, 6, 8)
    expected = F.conv3d(x, layer.weight, layer.bias, stride=2)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (2, 1), (12, 6), (16, 8), (64, 32), (96, 32), (48, 24)]
)
def test_groups_divide_the_channels_and_hold_two(channels: int, groups: int) -> None:
    layer = normalisation3d("group", channels)
    assert isinstance(layer, nn.GroupNorm)
    assert layer.num_groups == groups


@pytest.mark.parametrize(
    ("kind", "over"), [("batch", (0, 2, 3, 4)), ("instance", (2, 3, 4)), ("group", None)]
)
def test_norms_take_their_statistics_where_they_say(
    kind: Normalisation, over: tuple[int, ...] | None
) -> None:
    x = 3 + 2 * torch.randn(2, 4, 3, 3, 3)
    values, axes = (x.reshape(2, 2, 2, 27), (2, 3)) if over is None else (x, over)
    mean = values.mean(dim=axes, keepdim=True)
    deviation = values.var(dim=axes, keepdim=True, correction=0).add(1e-5).sqrt()
    expected = ((values - mean) / deviation).reshape(x.shape)
    torch.testing.assert_close(normalisation3d(kind, 4)(x), expected, atol=1e-5, rtol=1e-4)


def test_hidden_cells_become_zeros() -> None:
    x, visible = torch.randn(1, 3, 2, 2, 2), torch.rand(1, 1, 2, 2, 2) > 0.5
    assert keep_visible(x, None) is x
    assert torch.equal(keep_visible(x, visible), torch.where(visible, x, 0))
