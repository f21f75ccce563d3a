"""The depthwise convolution and its gradients against torch's own, and against loops."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from osteomet.ops import depthwise_conv
from osteomet.ops.acceleration import NUMBA_ENABLED
from osteomet.ops.depthwise_conv import depthwise_conv3d, weight_gradient
from osteomet.ops.depthwise_sparse import cells_with_gradient

needs_numba = pytest.mark.skipif(not NUMBA_ENABLED, reason="numba is not installed or off")

ROUNDING = 1e-5
"""Of the largest number: the least that the loops promise."""

FORMATS = [torch.contiguous_format, torch.channels_last_3d]


@pytest.fixture(params=[False, True], ids=["loops convolve", "torch convolves"])
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test as on either kind of processor."""
    monkeypatch.setattr(depthwise_conv, "TORCH_CONVOLVES", request.param)


def tensors(
    *shape: int, side: int = 7, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, grad = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    weight = torch.randn(shape[1], 1, side, side, side, generator=generator)
    return x, weight, torch.randn(shape[1], generator=generator), grad


@pytest.mark.usefixtures("path", "processor")
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(
    "shape",
    [
        (2, 16, 3, 3, 3),
        (1, 20, 5, 8, 13),
        (2, 3, 12, 2, 6),
        (1, 10, 23, 17, 9),
        (1, 33, 1, 1, 1),
        (3, 1, 4, 9, 7),
        (2, 16, 2, 5, 4),
        (1, 7, 3, 3, 16),
        (3, 32, 4, 4, 4),
        (1, 16, 1, 3, 4),
        (2, 16, 4, 1, 2),
        (2, 16, 2, 3, 1),
        (9, 16, 4, 4, 4),
    ],
)
def test_output_and_gradients_equal_torch_in_double(
    shape: tuple[int, ...], memory_format: torch.memory_format
) -> None:
    x, weight, bias, grad = tensors(*shape)
    x = x.to(memory_format=memory_format)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    y = depthwise_conv3d(*leaves)
    doubles = [t.detach().double().requires_grad_() for t in leaves]
    expected = F.conv3d(*doubles, padding=3, groups=shape[1])
    assert (y - expected).abs().max() <= ROUNDING * expected.abs().max()
    for got, want in zip(
        torch.autograd.grad(y, leaves, grad),
        torch.autograd.grad(expected, doubles, grad.double()),
        strict=True,
    ):
        assert (got - want).abs().max() <= ROUNDING * want.abs().max()


@pytest.mark.usefixtures("path", "processor")
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(
    ("shape", "cells"),
    [((2, 16, 5, 8, 13), 20), ((1, 48, 8, 8, 8), 64), ((1, 48, 8, 8, 8), 65), ((2, 8, 3, 9, 6), 0)],
)
def test_gradients_of_few_cells_equal_torch_in_double(
    shape: tuple[int, ...], cells: int, memory_format: torch.memory_format
) -> None:
    x, weight, bias, grad = tensors(*shape)
    voxels = grad.movedim(1, -1).reshape(-1, shape[1])
    order = torch.randperm(len(voxels), generator=torch.Generator().manual_seed(0))
    voxels[order[cells:]] = 0
    grad = voxels.view(shape[0], *shape[2:], shape[1]).movedim(-1, 1)
    leaves = [t.requires_grad_() for t in (x.to(memory_format=memory_format), weight, bias)]
    doubles = [t.detach().double().requires_grad_() for t in leaves]
    y = depthwise_conv3d(*leaves)
    expected = F.conv3d(*doubles, padding=3, groups=shape[1])
    for got, want in zip(
        torch.autograd.grad(y, leaves, grad),
        torch.autograd.grad(expected, doubles, grad.double()),
        strict=True,
    ):
        assert (got - want).abs().max() <= ROUNDING * want.abs().max()


@needs_numba
def test_few_cells_are_found_in_their_order() -> None:
    grads = np.zeros((2, 4, 4, 4, 16), np.float32)
    places = [(0, 1, 2, 3), (0, 3, 0, 0), (1, 0, 0, 1)]
    for place in places:
        grads[*place, 15] = -1e-30
    assert cells_with_gradient(grads).tolist() == [list(place) for place in places]
    grads[1, :, 0] = 1
    assert cells_with_gradient(grads) is None  # 18 of 128 are more than an eighth
    assert cells_with_gradient(np.zeros((1, 4, 4, 4, 20), np.float32)) is None  # no whole registers


@needs_numba
def test_a_gradient_that_is_not_a_number_is_passed_on() -> None:
    x, weight, bias, _ = tensors(1, 16, 6, 6, 6)
    grad = torch.zeros(1, 16, 6, 6, 6)
    grad[0, 5, 1, 2, 3] = float("nan")
    (due,) = torch.autograd.grad(depthwise_conv3d(x.requires_grad_(), weight, bias), [x], grad)
    assert due[0, 5].isnan().any()
    assert not due[0, 4].any()


@needs_numba
def test_rounding_is_some_times_that_of_plain_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depthwise_conv, "TORCH_CONVOLVES", False)
    x, weight, bias, _ = tensors(1, 16, 12, 12, 12)
    exact = F.conv3d(x.double(), weight.double(), bias.double(), padding=3, groups=16)
    apart = (depthwise_conv3d(x, weight, bias) - exact).square().mean().sqrt() / exact.std()
    assert apart < 3e-6  # 3e-7 of plain sums, 2e-3 of TF32's on a GPU


@needs_numba
def test_gradient_of_weights_equals_loops() -> None:
    x, _, _, grad = tensors(2, 2, 2, 3, 4)
    padded = F.pad(x, (3,) * 6)
    expected = torch.empty(2, 1, 7, 7, 7)
    for c, kz, ky, kx in itertools.product(range(2), range(7), range(7), range(7)):
        window = padded[:, c, kz : kz + 2, ky : ky + 3, kx : kx + 4]
        expected[c, 0, kz, ky, kx] = (window * grad[:, c]).sum()
    torch.testing.assert_close(weight_gradient(x, grad), expected, atol=1e-5, rtol=1e-5)


@needs_numba
def test_sums_over_many_voxels_stay_exact() -> None:
    """All products are positive, so a running float32 sum would lose digits as it grows."""
    ones = torch.ones(1, 1, 40, 96, 96)
    grad = torch.rand(ones.shape, generator=torch.Generator().manual_seed(0))
    middle = weight_gradient(ones, grad)[0, 0, 3, 3, 3]
    assert middle.item() == pytest.approx(grad.double().sum().item(), rel=1e-6)


@needs_numba
def test_threads_do_not_change_a_bit() -> None:
    x, weight, bias, grad = tensors(2, 40, 12, 25, 10)  # large enough for several threads
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = weight_gradient(x, grad), depthwise_conv3d(x, weight, bias)
        torch.set_num_threads(3)
        three = weight_gradient(x, grad), depthwise_conv3d(x, weight, bias)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one[0], three[0])
    assert torch.equal(one[1], three[1])


@pytest.mark.usefixtures("path", "processor")
@pytest.mark.parametrize("memory_format", FORMATS)
def test_memory_format_is_kept(memory_format: torch.memory_format) -> None:
    x, weight, bias, _ = tensors(2, 16, 4, 5, 6)
    x = x.to(memory_format=memory_format).requires_grad_()
    y = depthwise_conv3d(x, weight, bias)
    y.square().sum().backward()
    assert y.is_contiguous(memory_format=memory_format)
    assert x.grad is not None
    assert x.grad.is_contiguous(memory_format=memory_format)


@pytest.mark.usefixtures("path")
def test_autocast_computes_in_half_and_learns_in_full() -> None:
    x, weight, bias, _ = tensors(1, 16, 6, 6, 6)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = depthwise_conv3d(*leaves)
    assert y.dtype == torch.bfloat16
    expected = F.conv3d(*leaves, padding=3, groups=16)
    assert (y - expected).abs().max() < 0.02 * expected.abs().max()
    wanted = torch.autograd.grad(expected.square().sum(), leaves)
    for got, want in zip(
        torch.autograd.grad(y.float().square().sum(), leaves), wanted, strict=True
    ):
        assert got.dtype == torch.float32
        assert (got - want).abs().max() < 0.05 * want.abs().max()


@pytest.mark.parametrize("side", [1, 3, 5, 9])
def test_other_sides(side: int) -> None:
    x, weight, bias, _ = tensors(1, 4, 5, 5, 5, side=side)
    expected = F.conv3d(x, weight, bias, padding=side // 2, groups=4)
    torch.testing.assert_close(depthwise_conv3d(x, weight, bias), expected)


@pytest.mark.usefixtures("path", "processor")
def test_only_the_gradients_asked_for() -> None:
    x, weight, bias, _ = tensors(1, 4, 5, 5, 5)
    depthwise_conv3d(x, weight.requires_grad_(), bias).sum().backward()
    assert weight.grad is not None
    assert x.grad is None
    with torch.no_grad():
        assert not depthwise_conv3d(x, weight, bias).requires_grad


@pytest.mark.usefixtures("path", "processor")
def test_empty_batch() -> None:
    x, weight, bias, _ = tensors(0, 4, 5, 5, 5)
    y = depthwise_conv3d(x.requires_grad_(), weight.requires_grad_(), bias)
    assert y.shape == x.shape
    y.sum().backward()
    assert weight.grad is not None
    assert not weight.grad.any()


@pytest.mark.usefixtures("path", "processor")
def test_nan_shows_in_the_gradient() -> None:
    x, weight, bias, _ = tensors(1, 4, 5, 5, 5)
    x[0, 1, 2, 2, 2] = torch.nan
    depthwise_conv3d(x, weight.requires_grad_(), bias).sum().backward()
    assert weight.grad is not None
    assert weight.grad[1].isnan().any()
    assert weight.grad[[0, 2, 3]].isfinite().all()


@needs_numba
@pytest.mark.parametrize("memory_format", FORMATS)
def test_small_maps_take_loops_of_their_own(
    memory_format: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same results as the loops for all maps, within rounding."""
    x, weight, bias, grad = tensors(2, 32, 3, 4, 2)
    leaves = [t.requires_grad_() for t in (x.to(memory_format=memory_format), weight, bias)]
    y = depthwise_conv3d(*leaves)
    assert "Small" in type(y.grad_fn).__name__
    assert y.is_contiguous(memory_format=memory_format)
    gradients = torch.autograd.grad(y, leaves, grad)
    monkeypatch.setattr(depthwise_conv, "is_small", lambda shape: False)
    z = depthwise_conv3d(*leaves)
    assert "Small" not in type(z.grad_fn).__name__
    others = torch.autograd.grad(z, leaves, grad)
    for ours, theirs in zip((y, *gradients), (z, *others), strict=True):
        assert (ours - theirs).abs().max() <= ROUNDING * theirs.abs().max()


@needs_numba
def test_loops_of_small_maps_take_no_others() -> None:
    assert depthwise_conv.is_small((8, 16, 4, 4, 4))
    assert not depthwise_conv.is_small((9, 16, 4, 4, 4))  # too many to sum in float32
    assert not depthwise_conv.is_small((1, 16, 4, 5, 4))
    assert not depthwise_conv.is_small((1, 12, 4, 4, 4))
    assert not depthwise_conv.is_small((0, 16, 4, 4, 4))


def test_even_kernel_is_refused() -> None:
    x, weight, bias, _ = tensors(1, 4, 5, 5, 5, side=4)
    with pytest.raises(ValueError, match="side 4; expected an odd one"):
        depthwise_conv3d(x, weight, bias)
