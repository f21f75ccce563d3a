"""Each family against an independent 2D network.

With weights in one plane of each kernel, and an image repeated along z, a 3D network has to give
the features of the 2D network in every plane: transformers' for ConvNeXt, ConvNeXt V2 and ResNet,
and for YOLOv8 its published list of layers.
"""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    ConvNextConfig,
    ConvNextModel,
    ConvNextV2Config,
    ConvNextV2Model,
    PreTrainedModel,
    ResNetConfig,
    ResNetModel,
)

from osteomet.config import BackboneConfig, Normalisation
from osteomet.models.backbones import Backbone, build_backbone
from osteomet.models.backbones.inflate import renamed

DEPTHS, DIMS, LEVELS = (1, 2, 1, 1), (8, 12, 16, 24), (2, 3, 4, 5)
SIDE, PLANES = 64, 32


def backbone(name: str, normalisation: Normalisation = "batch") -> Backbone:
    config = BackboneConfig(name=name, depths=DEPTHS, dims=DIMS, normalisation=normalisation)
    return build_backbone(config, deepest_level=5).eval()


def in_one_plane(value: Tensor, own: Tensor) -> Tensor:
    """Put a 2D kernel into the central plane, or plane 0 of a kernel that cuts patches."""
    if own.ndim < 5:
        return value.reshape(own.shape)
    depth = own.shape[2]
    kernel = torch.zeros_like(own)
    kernel[:, :, depth // 2 if depth % 2 else 0] = value
    return kernel


def load_in_one_plane(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    own = module.state_dict()
    assert state.keys() == own.keys()
    module.load_state_dict({name: in_one_plane(state[name], own[name]) for name in own})


@torch.no_grad()
def randomise(module: nn.Module) -> None:
    """Give every number a value, those too that start at 0 or 1, at which layers do nothing."""
    torch.manual_seed(0)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            spread = 0.5 if value.squeeze().ndim < 2 else value[0].numel() ** -0.5
            value.normal_(std=spread)
            if name.endswith(("running_var", "weight")) and value.ndim == 1:
                value.abs_().add_(0.5)


@torch.no_grad()
def largest_difference(flat: list[Tensor], features: dict[int, Tensor]) -> float:
    """Return the largest difference in any plane, over the spread of the level's features."""
    assert len(flat) == len(features)
    worst = []
    for expected, level in zip(flat, features.values(), strict=True):
        assert level.shape == (*expected.shape[:2], level.shape[2], *expected.shape[2:])
        worst.append((level - expected[:, :, None]).abs().max() / expected.std())
    return float(torch.stack(worst).max())  # not a number where one of them is none


def images() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    flat = torch.randn(2, 1, SIDE, SIDE)
    return flat, flat[:, :, None].expand(-1, -1, PLANES, -1, -1)


def reference(name: str) -> PreTrainedModel:
    if name.startswith("convnextv2"):
        return ConvNextV2Model(ConvNextV2Config(**_SHARED))
    if name.startswith("convnext"):
        return ConvNextModel(ConvNextConfig(**_SHARED))
    kind, embedding = ("basic", DIMS[0]) if name == "resnet18" else ("bottleneck", DIMS[0] // 4)
    return ResNetModel(ResNetConfig(**_SHARED, layer_type=kind, embedding_size=embedding))


_SHARED = {"num_channels": 1, "depths": list(DEPTHS), "hidden_sizes": list(DIMS)}


@pytest.mark.parametrize("name", ["convnext_tiny", "convnextv2_atto", "resnet18", "resnet50"])
def test_features_are_those_of_transformers(name: str) -> None:
    flat_network, network = reference(name).eval(), backbone(name)
    randomise(flat_network)
    ours = dict(renamed(flat_network.state_dict(), name, "transformers"))
    load_in_one_plane(network, ours)
    flat_image, image = images()
    with torch.no_grad():
        hidden = flat_network(flat_image, output_hidden_states=True).hidden_states
        difference = largest_difference(list(hidden[1:]), network(image))
    assert difference < 2e-5


def norm_2d(kind: Normalisation) -> Callable[[int], nn.Module]:
    return {
        "batch": nn.BatchNorm2d,
        "group": lambda channels: nn.GroupNorm(channels // 2, channels),
        "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    }[kind]


class FlatConv(nn.Sequential):
    def __init__(self, channels: int, out: int, side: int, stride: int, norm: Normalisation):
        conv = nn.Conv2d(channels, out, side, stride, side // 2, bias=False)
        super().__init__(conv, norm_2d(norm)(out), nn.SiLU())


class FlatC2f(nn.Module):
    def __init__(self, channels: int, depth: int, norm: Normalisation):
        super().__init__()
        half = channels // 2
        self.first = FlatConv(channels, channels, 1, 1, norm)
        self.pairs = nn.ModuleList(
            nn.Sequential(FlatConv(half, half, 3, 1, norm), FlatConv(half, half, 3, 1, norm))
            for _ in range(depth)
        )
        self.last = FlatConv((2 + depth) * half, channels, 1, 1, norm)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        half = x.shape[1] // 2
        joined, tail = x, x[:, half:]
        for pair in self.pairs:
            tail = tail + pair(tail)
            joined = torch.cat([joined, tail], dim=1)
        return self.last(joined)


class FlatSPPF(nn.Module):
    def __init__(self, channels: int, norm: Normalisation):
        super().__init__()
        self.first = FlatConv(channels, channels // 2, 1, 1, norm)
        self.last = FlatConv(2 * channels, channels, 1, 1, norm)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        pools = [nn.functional.max_pool2d(x, side, 1, side // 2) for side in (5, 9, 13)]
        return self.last(torch.cat([x, *pools], dim=1))


def flat_yolov8(norm: Normalisation) -> nn.ModuleList:
    """Layers 0 to 9 of the published list, at the width of these tests."""
    return nn.ModuleList(
        [
            FlatConv(1, 4, 3, 2, norm),  # 0
            FlatConv(4, 8, 3, 2, norm),  # 1
            FlatC2f(8, 1, norm),  # 2: level 2
            FlatConv(8, 12, 3, 2, norm),  # 3
            FlatC2f(12, 2, norm),  # 4: level 3
            FlatConv(12, 16, 3, 2, norm),  # 5
            FlatC2f(16, 1, norm),  # 6: level 4
            FlatConv(16, 24, 3, 2, norm),  # 7
            FlatC2f(24, 1, norm),  # 8
            FlatSPPF(24, norm),  # 9: level 5
        ]
    )


def yolov8_layers(network: Backbone) -> list[nn.Module]:
    """Return our layers in the order of the published list."""
    stem, first = network.entries[0]
    (stage2,), (stage3,), (stage4,), (stage5, pool) = network.stages
    return [stem, first, stage2, network.entries[1], stage3, network.entries[2], stage4,
            network.entries[3], stage5, pool]  # fmt: skip


@pytest.mark.parametrize("norm", ["batch", "group", "instance"])
def test_features_are_those_of_yolov8_layer_by_layer(norm: Normalisation) -> None:
    flat_layers, network = flat_yolov8(norm).eval(), backbone("yolov8n", norm)
    randomise(flat_layers)
    for flat_layer, layer in zip(flat_layers, yolov8_layers(network), strict=True):
        names, values = layer.state_dict().keys(), flat_layer.state_dict().values()
        load_in_one_plane(layer, dict(zip(names, values, strict=True)))
    x, image = images()
    flat_features = []
    with torch.no_grad():
        for number, layer in enumerate(flat_layers):
            x = layer(x)
            if number in (2, 4, 6, 9):
                flat_features.append(x)
        difference = largest_difference(flat_features, network(image))
    assert difference < 2e-5


# Layers 0 to 9 as the published training logs of YOLOv8 print their parameters.
YOLOV8_PARAMETERS = {
    "yolov8n": [464, 4672, 7360, 18560, 49664, 73984, 197632, 295424, 460288, 164608],
    "yolov8s": [928, 18560, 29056, 73984, 197632, 295424, 788480, 1180672, 1838080, 656896],
    "yolov8m": [1392, 41664, 111360, 166272, 813312, 664320, 3248640, 1991808, 3985920, 831168],
    "yolov8l": [1856, 73984, 279808, 295424, 2101248, 1180672, 8396800, 2360320, 4461568, 656896],
    "yolov8x": [2320, 115520, 436800, 461440, 3281920, 1844480, 13117440, 3687680, 6969600, 1025920],
}  # fmt: skip


@pytest.mark.parametrize("name", YOLOV8_PARAMETERS)
def test_layers_of_yolov8_have_the_published_parameters(name: str) -> None:
    with torch.device("meta"):
        network = build_backbone(BackboneConfig(name=name), deepest_level=5)
    counts = [
        sum(_flat_count(value) for value in layer.parameters()) for layer in yolov8_layers(network)
    ]
    counts[0] += 2 * 9 * network.channels[2] // 2  # the published one sees three colours
    assert counts == YOLOV8_PARAMETERS[name]


def _flat_count(value: Tensor) -> int:
    return value.numel() // value.shape[2] if value.ndim == 5 else value.numel()


# Parameters of the 2D networks without their classifiers: the papers' 11.7, 21.8, 25.6 and 44.5
# million (ResNet, Table 1 of timm's and torchvision's lists) and 28.6, 50.2, 88.6 and 197.8
# (ConvNeXt, Table 1) less 1000 x (width + 1), and ConvNeXt's last norm.
PUBLISHED_MILLIONS = {
    "resnet18": 11.689512 - 0.513,
    "resnet34": 21.797672 - 0.513,
    "resnet50": 25.557032 - 2.049,
    "resnet101": 44.549160 - 2.049,
    "convnext_tiny": 28.589128 - 0.769 - 0.001536,
    "convnext_small": 50.223688 - 0.769 - 0.001536,
    "convnext_base": 88.591464 - 1.025 - 0.002048,
    "convnext_large": 197.767336 - 1.537 - 0.003072,
}


@pytest.mark.parametrize("name", PUBLISHED_MILLIONS)
def test_flat_parameters_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        network = build_backbone(BackboneConfig(name=name), deepest_level=5)
    count = sum(_flat_count(value) for value in network.parameters())
    first = next(network.entries.parameters())
    count += 2 * _flat_count(first)  # the published ones see three colours
    assert count == round(PUBLISHED_MILLIONS[name] * 1e6)
