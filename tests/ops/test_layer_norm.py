"""Layer normalisation and its gradients against torch's own in double."""

import pytest
import torch
from torch.nn import functional as F

from osteomet.ops import layer_norm as module
from osteomet.ops.acceleration import NUMBA_ENABLED
from osteomet.ops.layer_norm import layer_norm


@pytest.fixture(params=[0, 10**9], ids=["loops", "torch"])
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let few values go the way of many, and back."""
    monkeypatch.setattr(module, "LEAST", request.param)


@pytest.mark.usefixtures("path", "sizes")
@pytest.mark.parametrize("shape", [(2, 3, 5, 7, 48), (601, 16), (3, 12), (1, 192), (0, 16)])
def test_output_and_gradients_equal_torch_in_double(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(shape, generator=generator) for _ in range(2))
    weight, bias = torch.randn(2, shape[-1], generator=generator)
    leaves = [t.requires_grad_() for t in (3 * x + 5, weight, bias)]
    doubles = [t.detach().double().requires_grad_() for t in leaves]
    y = layer_norm(*leaves, 1e-6)
    expected = F.layer_norm(doubles[0], shape[-1:], *doubles[1:], eps=1e-6)
    torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)
    got = torch.autograd.grad(y, leaves, grad)
    for one, want in zip(got, torch.autograd.grad(expected, doubles, grad.double()), strict=True):
        torch.testing.assert_close(one.double(), want, atol=2e-5, rtol=1e-5)


@pytest.mark.usefixtures("path", "sizes")
def test_equal_channels_become_the_bias() -> None:
    x = torch.full((4, 16), 7.0).requires_grad_()
    y = layer_norm(x, torch.ones(16), torch.arange(16.0), 1e-6)
    torch.testing.assert_close(y, torch.arange(16.0).expand(4, 16), atol=1e-3, rtol=0)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.skipif(not NUMBA_ENABLED, reason="numba is not installed or off")
def test_threads_do_not_change_a_bit() -> None:
    before, results = torch.get_num_threads(), []
    x = torch.randn(9000, 48)
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            leaves = [t.requires_grad_() for t in (x.clone(), torch.ones(48), torch.zeros(48))]
            y = layer_norm(*leaves, 1e-6)
            results.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, three) for one, three in zip(*results, strict=True))
