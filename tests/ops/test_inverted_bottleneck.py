"""The inverted bottleneck, by its own loops and by the layers it is made of, against the formula."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from osteomet.ops import inverted_bottleneck as module
from osteomet.ops import row_products
from osteomet.ops.acceleration import NUMBA_ENABLED
from osteomet.ops.inverted_bottleneck import COLUMNS, inverted_bottleneck

SHAPES = [(2, 300, 1), (1, 4100, 1), (3, 7, 1), (1, 1, 2)]
"""Images, voxels of each, and blocks of columns: of several tasks, and with some rows left."""


@pytest.fixture(autouse=True)
def few_rows_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let any number of rows go the way of many, on any processor."""
    monkeypatch.setattr(row_products, "LIBRARY_IS_FAST", False)
    monkeypatch.setattr(module, "LEAST", 0)
    monkeypatch.setattr(module, "FEWEST", 0)


def operands(images: int, voxels: int, blocks: int, wider: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    channels, wide = blocks * COLUMNS, wider * blocks * COLUMNS
    sizes = [
        (images, voxels, channels), (wide, channels), (wide,), (wide,), (wide,),
        (channels, wide), (channels,),
    ]  # fmt: skip
    drawn = [torch.randn(size, generator=generator) for size in sizes]
    drawn[1] /= channels**0.5
    drawn[5] /= wide**0.5
    return drawn


def by_operator(leaves: list[Tensor]) -> Tensor:
    x, weight, bias, gamma, beta, back, back_bias = leaves
    return inverted_bottleneck(x, (weight, bias), gamma, beta, (back, back_bias))


def by_the_formula(leaves: list[Tensor]) -> Tensor:
    x, weight, bias, gamma, beta, back, back_bias = leaves
    a = F.gelu(F.linear(x, weight, bias))
    norms = a.square().sum(dim=1, keepdim=True).sqrt()
    share = norms / (norms.mean(dim=2, keepdim=True) + 1e-6)
    return F.linear(a + gamma * (a * share) + beta, back, back_bias)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("shape", SHAPES)
def test_output_and_gradients_follow_the_formula_in_double(shape: tuple[int, int, int]) -> None:
    single = [t.requires_grad_() for t in operands(*shape)]
    double = [t.detach().double().requires_grad_() for t in single]
    got, expected = by_operator(single), by_the_formula(double)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=2e-5)
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(4))
    for mine, true in zip(
        torch.autograd.grad(got, single, grad),
        torch.autograd.grad(expected, double, grad.double()),
        strict=True,
    ):
        assert (mine - true).abs().max() <= 3e-6 * true.abs().max()


def test_loops_are_taken(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Or the tests here would compare layers with layers."""
    calls = []
    ours = module._InvertedBottleneck.apply
    monkeypatch.setattr(module._InvertedBottleneck, "apply", lambda *a: calls.append(1) or ours(*a))
    by_operator(operands(2, 300, 1))
    assert bool(calls) == (path == "numba")


@pytest.mark.usefixtures("path")
def test_without_a_gradient_the_output_is_the_same() -> None:
    leaves = operands(2, 300, 1)
    with torch.no_grad():
        alone = by_operator(leaves)
    learned = by_operator([t.requires_grad_() for t in leaves])
    assert torch.equal(alone, learned)


@pytest.mark.usefixtures("path")
def test_a_channel_of_zeros_has_a_finite_gradient() -> None:
    leaves = operands(2, 40, 1)
    leaves[1][3], leaves[2][3] = 0, 0
    leaves[0][1] = 0  # and an image of zeros
    leaves = [t.requires_grad_() for t in leaves]
    gradients = torch.autograd.grad(by_operator(leaves).sum(), leaves)
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.usefixtures("path")
def test_what_is_no_number_stays_so_and_spoils_its_own_image_alone() -> None:
    leaves = operands(2, 40, 1)
    leaves[0][1, 7, 0] = torch.nan
    y = by_operator(leaves)
    assert y[0].isfinite().all()
    assert y[1].isnan().all()


@pytest.mark.skipif(not NUMBA_ENABLED, reason="needs the compiled loops")
def test_threads_do_not_change_a_bit() -> None:
    leaves = [t.requires_grad_() for t in operands(2, 5000, 1)]
    grad = torch.randn(leaves[0].shape, generator=torch.Generator().manual_seed(4))
    before = torch.get_num_threads()
    found = []
    try:
        for threads in 1, 3:
            torch.set_num_threads(threads)
            y = by_operator(leaves)
            found.append([y, *torch.autograd.grad(y, leaves, grad)])
    finally:
        torch.set_num_threads(before)
    for one, three in zip(*found, strict=True):
        torch.testing.assert_close(one, three, rtol=0, atol=0)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("wider", [1, 3])
def test_any_widths_that_are_whole_blocks(wider: int) -> None:
    leaves = operands(1, 65, 1, wider)
    torch.testing.assert_close(
        by_operator(leaves), by_the_formula([t.double() for t in leaves]).float(),
        rtol=1e-5, atol=2e-5,
    )  # fmt: skip


@pytest.mark.usefixtures("path")
def test_half_precision_goes_by_the_layers() -> None:
    leaves = operands(2, 300, 1)
    with torch.autocast("cpu", torch.bfloat16):
        got = by_operator(leaves)
    assert got.dtype == torch.bfloat16
    expected = by_the_formula(leaves)
    assert (got - expected).abs().max() < 0.02 * expected.abs().max()
