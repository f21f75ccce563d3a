"""Moving cubes into channels and back, on both paths, against the definition."""

import itertools

import pytest
import torch
from torch import Tensor

from osteomet.ops.space_to_depth import depth_to_space, space_to_depth

CASES = [
    ((2, 3, 4, 6, 8), 2),
    ((1, 1, 6, 3, 9), 3),
    ((3, 20, 5, 5, 5), 5),
    ((2, 33, 2, 4, 2), 1),
    ((2, 1, 8, 4, 12), 4),
]

pytestmark = pytest.mark.usefixtures("path")


def features(shape: tuple[int, ...], *, channels_last: bool) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=torch.channels_last_3d) if channels_last else x


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("shape", "factor"), CASES)
def test_every_number_goes_where_it_belongs(
    shape: tuple[int, ...], factor: int, *, channels_last: bool
) -> None:
    x = features(shape, channels_last=channels_last)
    cubes = space_to_depth(x, factor)
    assert cubes.shape == (shape[0], shape[1] * factor**3, *(n // factor for n in shape[2:]))
    steps = list(itertools.product(range(factor), repeat=3))
    for number, (dz, dy, dx) in enumerate(steps):
        expected = x[:, :, dz::factor, dy::factor, dx::factor]
        assert torch.equal(cubes[:, number :: factor**3], expected)
    assert torch.equal(depth_to_space(cubes, factor), x)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("shape", "factor"), CASES)
def test_gradients_go_the_way_back(
    shape: tuple[int, ...], factor: int, *, channels_last: bool
) -> None:
    x = features(shape, channels_last=channels_last).requires_grad_()
    cubes = space_to_depth(x, factor)
    grad = torch.randn(cubes.shape)
    (back,) = torch.autograd.grad(cubes, x, grad)
    assert torch.equal(back, depth_to_space(grad, factor))
    leaf = grad.requires_grad_()
    (there,) = torch.autograd.grad(depth_to_space(leaf, factor), leaf, x.detach())
    assert torch.equal(there, space_to_depth(x, factor))


def test_whole_images_are_flattened_as_torch_does() -> None:
    x = features((3, 20, 5, 5, 5), channels_last=True)
    assert torch.equal(space_to_depth(x, 5).flatten(1), x.flatten(1))


def test_nothing_gives_nothing() -> None:
    assert space_to_depth(torch.zeros(0, 2, 4, 4, 4), 2).shape == (0, 16, 2, 2, 2)
    assert depth_to_space(torch.zeros(0, 16, 2, 2, 2), 2).shape == (0, 2, 4, 4, 4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_numbers_are_moved_too(dtype: torch.dtype) -> None:
    x = torch.arange(64).reshape(1, 1, 4, 4, 4).to(dtype)
    cubes = space_to_depth(x, 2)
    assert cubes.dtype == dtype
    assert torch.equal(cubes[0, :, 0, 0, 1], x[0, 0, :2, :2, 2:].flatten())
