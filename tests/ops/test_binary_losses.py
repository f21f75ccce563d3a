"""Sums of a segmentation's losses against those of torch's operators in double."""

import pytest
import torch
from torch.nn import functional as F

from osteomet.ops.binary_losses import BLOCK, entropy_and_overlap


def expected_sums(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    rows = []
    for row, true in zip(logits, truth, strict=True):
        kept, t = row[true >= 0], true[true >= 0]
        entropy = F.binary_cross_entropy_with_logits(kept, t, reduction="none")
        p = kept.sigmoid()
        rows.append(torch.stack([(entropy * t).sum(), entropy.sum(), (p * t).sum(), p.sum()]))
    return torch.stack(rows)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("voxels", [1, 77, 2 * BLOCK + 5])
def test_sums_and_gradient_equal_torch_in_double(voxels: int) -> None:
    generator = torch.Generator().manual_seed(voxels)
    logits = 8 * torch.randn(3, voxels, generator=generator)
    truth = torch.rand(3, voxels, generator=generator).round()
    truth[1] = torch.rand(voxels, generator=generator)  # fractions, as a resampled mask has
    truth[2, voxels // 2 :] = -1
    grad = torch.randn(3, 4, generator=generator)
    leaf, double = logits.clone().requires_grad_(), logits.double().requires_grad_()
    sums, expected = entropy_and_overlap(leaf, truth), expected_sums(double, truth.double())
    torch.testing.assert_close(sums.double(), expected, atol=1e-5, rtol=1e-6)
    (got,) = torch.autograd.grad(sums, leaf, grad)
    (want,) = torch.autograd.grad(expected, double, grad.double())
    torch.testing.assert_close(got.double(), want, atol=2e-6, rtol=1e-5)


@pytest.mark.usefixtures("path")
def test_far_logits_stay_finite_and_exact() -> None:
    logits = torch.tensor([[-1e30, -200.0, -88.0, 0.0, 88.0, 200.0, 1e30]]).requires_grad_()
    truth = torch.tensor([[0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0]])
    sums = entropy_and_overlap(logits, truth)
    torch.testing.assert_close(sums, torch.tensor([[200.6931, 400.6931, 2.5, 3.5]]))
    sums[0, 1].backward()
    assert logits.grad is not None
    torch.testing.assert_close(
        logits.grad, torch.tensor([[0.0, -1.0, 0.0, -0.5, 0.0, 1.0, 0.0]]), atol=1e-6, rtol=0
    )


@pytest.mark.usefixtures("path")
def test_divergence_shows() -> None:
    sums = entropy_and_overlap(torch.tensor([[float("nan"), 1.0]]), torch.zeros(1, 2))
    assert sums[0, 1].isnan()


@pytest.mark.usefixtures("path")
def test_no_row_and_nothing_counted() -> None:
    assert entropy_and_overlap(torch.zeros(0, 8), torch.zeros(0, 8)).shape == (0, 4)
    leaf = torch.randn(1, 8).requires_grad_()
    sums = entropy_and_overlap(leaf, torch.full((1, 8), -1.0))
    assert not sums.any()
    sums.sum().backward()
    assert leaf.grad is not None
    assert not leaf.grad.any()
