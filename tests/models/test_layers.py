import torch
from torch.nn import functional as F

from osteomet.models.layers import PatchifyConv3d, depth_to_space, space_to_depth


def test_patchify_equals_the_strided_convolution() -> None:
    layer, x = PatchifyConv3d(3, 5, 2), torch.randn(2, 3, 4, 6, 8)
    expected = F.conv3d(x, layer.weight, layer.bias, stride=2)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


def test_depth_to_space_undoes_space_to_depth() -> None:
    x = torch.randn(2, 3, 4, 6, 8)
    assert torch.equal(depth_to_space(space_to_depth(x, 2), 2), x)


def test_cubes_keep_their_voxels() -> None:
    x = torch.arange(64.0).reshape(1, 1, 4, 4, 4)
    cubes = space_to_depth(x, 2)
    assert cubes[0, :, 0, 0, 1].tolist() == x[0, 0, :2, :2, 2:].flatten().tolist()
