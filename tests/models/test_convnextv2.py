"""The backbone against the paper written as loops, and its published sizes."""

import itertools

import pytest
import torch
from torch import nn

from osteomet.config import BACKBONES as KNOWN_NAMES
from osteomet.config import BackboneConfig, parse_config
from osteomet.errors import ConfigError
from osteomet.models.backbones import BACKBONES, build_backbone
from osteomet.models.backbones.convnextv2 import ConvNeXtV2Block, GlobalResponseNorm


def test_grn_is_the_identity_at_initialisation() -> None:
    x = torch.randn(2, 3, 4, 5, 8)
    torch.testing.assert_close(GlobalResponseNorm(8)(x), x)


def test_grn_matches_the_paper_written_as_loops() -> None:
    x, grn = torch.randn(2, 3, 4, 5, 6), GlobalResponseNorm(6)
    nn.init.normal_(grn.gamma)
    nn.init.normal_(grn.beta)
    expected = torch.empty_like(x)
    for n in range(2):
        energy = torch.stack([x[n, ..., c].square().sum().sqrt() for c in range(6)])
        for c in range(6):
            share = energy[c] / (energy.mean() + 1e-6)
            expected[n, ..., c] = grn.gamma[c] * (x[n, ..., c] * share) + grn.beta[c] + x[n, ..., c]
    torch.testing.assert_close(grn(x), expected)


def test_block_equals_plain_torch_layers() -> None:
    torch.manual_seed(0)
    block, x = ConvNeXtV2Block(8), torch.randn(2, 8, 5, 6, 7)
    nn.init.normal_(block.grn.gamma)
    y = nn.functional.conv3d(x, block.depthwise.weight, block.depthwise.bias, padding=3, groups=8)
    y = nn.functional.layer_norm(y.movedim(1, -1), (8,), block.norm.weight, block.norm.bias, 1e-6)
    y = block.grn(nn.functional.gelu(y @ block.expand.weight.T + block.expand.bias))
    y = (y @ block.project.weight.T + block.project.bias).movedim(-1, 1)
    torch.testing.assert_close(block(x), x + y, atol=1e-5, rtol=1e-4)


def test_a_block_at_rest_equals_the_block_in_training() -> None:
    """At rest GRN goes into the weights of the projection; in training it passes over x."""
    torch.manual_seed(0)
    block, x = ConvNeXtV2Block(8), torch.randn(3, 8, 5, 6, 7)
    nn.init.normal_(block.grn.gamma)
    nn.init.normal_(block.grn.beta)
    for visible in (None, torch.rand(3, 1, 5, 6, 7) < 0.5):
        torch.testing.assert_close(block.eval()(x, visible), block.train()(x, visible))


def test_every_parameter_of_a_block_learns() -> None:
    block = ConvNeXtV2Block(8)
    nn.init.normal_(block.grn.gamma)
    block(torch.randn(2, 8, 6, 7, 9)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())


def test_drop_path_keeps_the_expectation_and_rests_in_eval() -> None:
    torch.manual_seed(0)
    block, x = ConvNeXtV2Block(4, drop_probability=0.5), torch.randn(1, 4, 3, 3, 3)
    with torch.no_grad():
        branch = block.eval()(x) - x
        block.train()
        mean = torch.stack([block(x) - x for _ in range(600)]).mean(dim=0)
    torch.testing.assert_close(mean, branch, atol=0.15 * branch.abs().max().item(), rtol=0)


def test_bad_drop_probability_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\), got 1.0"):
        ConvNeXtV2Block(2, drop_probability=1.0)


# Parameters of 2D ConvNeXt V2 without its classifier are public; in 3D each depthwise kernel
# has 7 times, each 2-strided convolution 2 times and the 4-strided stem 4 / 3 times as many.
@pytest.mark.parametrize(
    ("name", "depths", "dims"),
    [
        ("convnextv2_atto", (2, 2, 6, 2), (40, 80, 160, 320)),
        ("convnextv2_femto", (2, 2, 6, 2), (48, 96, 192, 384)),
        ("convnextv2_pico", (2, 2, 6, 2), (64, 128, 256, 512)),
        ("convnextv2_nano", (2, 2, 8, 2), (80, 160, 320, 640)),
        ("convnextv2_tiny", (3, 3, 9, 3), (96, 192, 384, 768)),
        ("convnextv2_base", (3, 3, 27, 3), (128, 256, 512, 1024)),
        ("convnextv2_large", (3, 3, 27, 3), (192, 384, 768, 1536)),
        ("convnextv2_huge", (3, 3, 27, 3), (352, 704, 1408, 2816)),
    ],
)
def test_published_sizes(name: str, depths: tuple[int, ...], dims: tuple[int, ...]) -> None:
    with torch.device("meta"):
        backbone = build_backbone(BackboneConfig(name=name), deepest_level=5)
    assert backbone.channels == dict(zip((2, 3, 4, 5), dims, strict=True))
    block = [343 * d + d + 2 * d + 4 * d * d + 4 * d + 8 * d + 4 * d * d + d for d in dims]
    entry = [64 * dims[0] + dims[0] + 2 * dims[0]]
    entry += [2 * a + 8 * a * b + b for a, b in itertools.pairwise(dims)]
    expected = sum(n * size for n, size in zip(depths, block, strict=True)) + sum(entry)
    assert sum(p.numel() for p in backbone.parameters()) == expected


@pytest.mark.parametrize(("stem", "levels"), [(4, (2, 3, 4)), (2, (1, 2, 3, 4))])
def test_levels_have_their_stride_and_none_below_the_deepest(
    stem: int, levels: tuple[int, ...]
) -> None:
    config = BackboneConfig(stem_stride=stem, dims=(8, 12, 16, 20), depths=(1, 1, 1, 1))
    features = build_backbone(config, deepest_level=4)(torch.randn(1, 1, 32, 48, 64))
    assert tuple(features) == levels
    for level, f in features.items():
        assert f.shape[2:] == (32 >> level, 48 >> level, 64 >> level)


def test_unknown_backbone_is_one_clear_error() -> None:
    content = {"model": {"backbone": {"name": "convnextv3"}}}
    expected = r"model\.backbone\.name: no backbone 'convnextv3': .*known: resnet18, .*, yolov8x"
    with pytest.raises(ConfigError, match=expected):
        parse_config(content, "test")


def test_every_known_name_is_built() -> None:
    assert set(BACKBONES) == set(KNOWN_NAMES)
