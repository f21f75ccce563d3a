"""The dense convolution and its gradients against torch's own in double."""

import pytest
import torch
from torch.nn import functional as F

from osteomet.ops import dense_conv
from osteomet.ops.acceleration import NUMBA_ENABLED
from osteomet.ops.dense_conv import dense_conv3d
from osteomet.ops.winograd import weight_gradient


@pytest.fixture(params=[False, True], ids=["loops convolve", "torch convolves"])
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test as on either kind of processor."""
    monkeypatch.setattr(dense_conv, "TORCH_CONVOLVES", request.param)


def tensors(shape: tuple[int, ...], outputs: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = [shape, (outputs, shape[1], 3, 3, 3), (outputs,), (shape[0], outputs, *shape[2:])]
    return [torch.randn(size, generator=generator) for size in sizes]


@pytest.mark.usefixtures("path", "processor")
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize(
    ("shape", "outputs"),
    [
        ((2, 5, 3, 4, 8), 24),
        ((1, 3, 1, 1, 1), 16),
        ((3, 2, 4, 2, 5), 3),
        ((2, 4, 3, 3, 3), 30),
        ((1, 40, 12, 12, 12), 24),
        ((1, 16, 9, 8, 10), 64),
    ],
)
def test_output_and_gradients_equal_torch_in_double(
    shape: tuple[int, ...], outputs: int, last: bool
) -> None:
    x, weight, bias, grad = tensors(shape, outputs)
    x = x.to(memory_format=torch.channels_last_3d if last else torch.contiguous_format)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    doubles = [t.detach().double().requires_grad_() for t in leaves]
    y, expected = dense_conv3d(*leaves), F.conv3d(*doubles, padding=1)
    assert (y - expected).abs().max() <= 2e-6 * expected.abs().max()
    for got, want in zip(
        torch.autograd.grad(y, leaves, grad),
        torch.autograd.grad(expected, doubles, grad.double()),
        strict=True,
    ):
        assert got.shape == want.shape
        assert (got - want).abs().max() <= 2e-6 * want.abs().max()


@pytest.mark.usefixtures("path", "processor")
@pytest.mark.parametrize("outputs", [5, 30])
def test_channels_beside_take_part_and_get_no_gradient(outputs: int) -> None:
    x, weight, bias, grad = tensors((2, 6, 3, 4, 5), outputs)
    joined = x.clone().requires_grad_()
    leaves = [t.requires_grad_() for t in (x[:, :4].clone(), weight, bias)]
    y = dense_conv3d(*leaves, beside=x[:, 4:])
    expected = F.conv3d(joined, weight, bias, padding=1)
    torch.testing.assert_close(y, expected)
    got = torch.autograd.grad(y, leaves, grad)
    want = torch.autograd.grad(expected, [joined, weight, bias], grad)
    torch.testing.assert_close(got[0], want[0][:, :4], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got[1:], want[1:], atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("path")
def test_no_region_has_no_gradient() -> None:
    x, weight, bias, _ = tensors((0, 4, 6, 6, 6), 24)
    dense_conv3d(x, weight.requires_grad_(), bias).sum().backward()
    assert weight.grad is not None
    assert not weight.grad.any()


@pytest.mark.skipif(not NUMBA_ENABLED, reason="numba is not installed or off")
def test_threads_do_not_change_a_bit() -> None:
    x, _, _, grad = tensors((3, 7, 5, 6, 9), 24)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = weight_gradient(x, grad)
        torch.set_num_threads(3)
        three = weight_gradient(x, grad)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one, three)


@pytest.mark.usefixtures("path")
def test_autocast_computes_in_half() -> None:
    x, weight, bias, _ = tensors((1, 4, 6, 6, 6), 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert dense_conv3d(x, weight, bias).dtype == torch.bfloat16
