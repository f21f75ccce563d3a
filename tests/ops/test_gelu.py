"""GELU by quotients of polynomials against torch's in double."""

import pytest
import torch
from torch.nn import functional as F

from osteomet.ops.gelu import gelu

ROUNDING = 1e-6
"""A few units in the last place of the values here."""


@pytest.mark.usefixtures("path")
def test_value_and_gradient_are_those_of_torch() -> None:
    x = torch.linspace(-12, 12, 120_001).requires_grad_()
    double = x.detach().double().requires_grad_()
    y, expected = gelu(x), F.gelu(double)
    assert (y - expected).abs().max() < ROUNDING
    (grad,) = torch.autograd.grad(y.sum(), x)
    (wanted,) = torch.autograd.grad(expected.sum(), double)
    assert (grad - wanted).abs().max() < ROUNDING


@pytest.mark.usefixtures("path")
def test_any_layout() -> None:
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).transpose(0, 2)
    x.requires_grad_()
    y = gelu(x)
    torch.testing.assert_close(y, F.gelu(x))
    grad = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(1)).permute(1, 0, 2)
    got, want = (torch.autograd.grad(out, x, grad)[0] for out in (y, F.gelu(x)))
    torch.testing.assert_close(got, want, atol=ROUNDING, rtol=1e-5)


@pytest.mark.usefixtures("path")
def test_what_is_not_finite_shows() -> None:
    x = torch.tensor([torch.nan, torch.inf, 1.0]).requires_grad_()
    y = gelu(x)
    assert y.isnan().tolist() == [True, False, False]
    assert y[1] == torch.inf
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.isnan().tolist()[0]


@pytest.mark.usefixtures("path")
def test_empty_half_and_double() -> None:
    assert gelu(torch.empty(0, 3)).shape == (0, 3)
    for dtype in (torch.bfloat16, torch.float64):
        assert gelu(torch.ones(2, dtype=dtype)).dtype == dtype
