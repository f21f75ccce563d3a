"""GELU, GRN and the linear map behind them, against the formula and torch's own gradients of it."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from osteomet.ops.response_norm import gelu_and_norms, linear_of_gelu_response_norm

MANY, FEW = (2, 40, 12), (3, 5, 12)
"""Voxels that are more, and fewer, than the map's 7 outputs."""


def operands(shape: tuple[int, int, int], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    channels = shape[2]
    sizes = [shape, (7, channels), (7,), (channels,), (channels,)]
    return [torch.randn(size, generator=generator, dtype=dtype) for size in sizes]


def by_the_formula(x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    a = F.gelu(x)
    norms = a.square().sum(dim=1, keepdim=True).sqrt()
    share = norms / (norms.mean(dim=2, keepdim=True) + 1e-6)
    return F.linear(a + gamma * (a * share) + beta, weight, bias)


@pytest.mark.parametrize("shape", [MANY, FEW])
def test_output_and_gradients_follow_the_formula(shape: tuple[int, int, int]) -> None:
    leaves = [t.requires_grad_() for t in operands(shape)]
    got, expected = linear_of_gelu_response_norm(*leaves), by_the_formula(*leaves)
    torch.testing.assert_close(got, expected)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(got, leaves, grad), torch.autograd.grad(expected, leaves, grad)
    )


@pytest.mark.parametrize("shape", [MANY, FEW])
def test_gradients_equal_finite_differences(shape: tuple[int, int, int]) -> None:
    leaves = [t.requires_grad_() for t in operands(shape)]
    torch.autograd.gradcheck(linear_of_gelu_response_norm, leaves)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("shape", [MANY, FEW, (1, 1000, 24)])
def test_single_precision_is_near_double(shape: tuple[int, int, int]) -> None:
    double = operands(shape)
    single = [t.float().requires_grad_() for t in double]
    double = [t.requires_grad_() for t in double]
    got, expected = linear_of_gelu_response_norm(*single), linear_of_gelu_response_norm(*double)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-4)
    grad = torch.randn_like(expected)
    for mine, true in zip(
        torch.autograd.grad(got, single, grad.float()),
        torch.autograd.grad(expected, double, grad),
        strict=True,
    ):
        assert (mine - true).abs().max() <= 2e-6 * true.abs().max()


@pytest.mark.parametrize("shape", [MANY, FEW])
def test_a_channel_of_zeros_has_a_finite_gradient(shape: tuple[int, int, int]) -> None:
    leaves = operands(shape)
    leaves[0][..., 3] = 0
    leaves[0][1] = 0  # and an image of zeros
    leaves = [t.requires_grad_() for t in leaves]
    got = torch.autograd.grad(linear_of_gelu_response_norm(*leaves).sum(), leaves)
    assert all(g.isfinite().all() for g in got)


def test_norms_of_many_voxels_stay_exact(path: str) -> None:
    """By the loops; torch adds up in float32."""
    x = torch.rand(2, 100_003, 3, generator=torch.Generator().manual_seed(0)) + 1
    activated, norms = gelu_and_norms(x)
    torch.testing.assert_close(activated, F.gelu(x))
    expected = activated.double().square().sum(dim=1).sqrt()
    rtol = 3e-7 if path == "numba" else 1e-5
    torch.testing.assert_close(norms.double(), expected, rtol=rtol, atol=0)


@pytest.mark.usefixtures("path")
def test_threads_do_not_change_a_bit() -> None:
    x = torch.randn(2, 5000, 48, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = gelu_and_norms(x)
        torch.set_num_threads(3)
        three = gelu_and_norms(x)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one[0], three[0])
    assert torch.equal(one[1], three[1])


@pytest.mark.parametrize("shape", [MANY, FEW])
def test_half_precision_comes_out_as_it_went_in(shape: tuple[int, int, int]) -> None:
    x, *rest = operands(shape, torch.float32)
    expected = linear_of_gelu_response_norm(x, *rest)
    half = x.bfloat16().requires_grad_()
    got = linear_of_gelu_response_norm(half, *rest)
    assert got.dtype == torch.bfloat16
    assert (got - expected).abs().max() < 0.02 * expected.abs().max()
    got.float().sum().backward()
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16
