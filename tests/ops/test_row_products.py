"""Products of many rows against torch's own in double."""

import pytest
import torch
from torch.nn import functional as F

from osteomet.ops import row_products
from osteomet.ops.acceleration import NUMBA_ENABLED
from osteomet.ops.lanes import WIDTH
from osteomet.ops.row_products import linear, multiply_rows, sum_of_products


@pytest.fixture(autouse=True, params=["loops", "library"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let few rows go the way of many, on any processor, and the other."""
    monkeypatch.setattr(row_products, "LIBRARY_IS_FAST", request.param == "library")
    monkeypatch.setattr(row_products, "LEAST", 0)
    monkeypatch.setattr(row_products, "FEWEST", 0)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


SIZES = [(37, 3, 6), (300, 8, 3), (4500, 1, 1), (3, 2, 5), (0, 1, 3)]
"""Rows, and registers of inputs and of outputs: of one block, of several, and with some left."""


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
@pytest.mark.parametrize("with_bias", [True, False])
def test_linear_and_gradients_equal_torch_in_double(
    rows: int, inputs: int, outputs: int, with_bias: bool
) -> None:
    x = drawn(2, rows, inputs * WIDTH)
    weight, bias = drawn(outputs * WIDTH, inputs * WIDTH, seed=1), drawn(outputs * WIDTH, seed=2)
    leaves = [t.requires_grad_() for t in (x, weight, bias)[: 2 + with_bias]]
    doubles = [t.detach().double().requires_grad_() for t in leaves]
    y = linear(*leaves[:2], leaves[2] if with_bias else None)
    expected = F.linear(*doubles)
    assert y.shape == expected.shape
    torch.testing.assert_close(y.double(), expected, atol=1e-4, rtol=1e-5)
    grad = drawn(*y.shape, seed=3)
    got = torch.autograd.grad(y, leaves, grad)
    for one, want in zip(got, torch.autograd.grad(expected, doubles, grad.double()), strict=True):
        torch.testing.assert_close(one.double(), want, atol=2e-3, rtol=1e-4)


@pytest.mark.usefixtures("path")
def test_each_image_has_a_matrix_of_its_own() -> None:
    x, matrices = drawn(3, 21, 2 * WIDTH), drawn(3, 2 * WIDTH, WIDTH, seed=1)
    bias = drawn(WIDTH, seed=2)
    product = multiply_rows(x, matrices, bias)
    torch.testing.assert_close(product, x @ matrices + bias, atol=1e-4, rtol=1e-5)
    sums = sum_of_products(product, x)
    torch.testing.assert_close(sums, product.mT @ x, atol=1e-3, rtol=1e-5)


@pytest.mark.usefixtures("path")
def test_rows_of_another_layout() -> None:
    x = drawn(2 * WIDTH, 50).T.unflatten(0, (2, 25))  # columns lie side by side
    matrix = drawn(WIDTH, 2 * WIDTH, seed=1).T[None]
    torch.testing.assert_close(multiply_rows(x, matrix), x @ matrix, atol=1e-4, rtol=1e-5)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("shape", [(40, 7), (40, 2 * WIDTH)])
def test_other_widths_and_dtypes_are_torchs(shape: tuple[int, int]) -> None:
    x, weight = drawn(*shape).double(), drawn(5, shape[1], seed=1).double()
    assert torch.equal(linear(x, weight, None), F.linear(x, weight))


@pytest.mark.usefixtures("path")
def test_autocast_computes_in_half() -> None:
    x, weight = drawn(40, 2 * WIDTH), drawn(WIDTH, 2 * WIDTH, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x, weight, None).dtype == torch.bfloat16


@pytest.mark.usefixtures("path")
def test_only_the_gradients_asked_for() -> None:
    x, weight = drawn(40, 2 * WIDTH), drawn(WIDTH, 2 * WIDTH, seed=1).requires_grad_()
    linear(x, weight, None).sum().backward()
    assert weight.grad is not None
    assert x.grad is None


@pytest.mark.skipif(not NUMBA_ENABLED, reason="numba is not installed or off")
def test_threads_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_products, "LIBRARY_IS_FAST", False)
    x, weight = drawn(1, 5001, 3 * WIDTH), drawn(1, 3 * WIDTH, 2 * WIDTH, seed=1)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            product = multiply_rows(x, weight)
            results.append((product, sum_of_products(product, x)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, three) for one, three in zip(*results, strict=True))
