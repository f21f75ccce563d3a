"""Weights of 2D networks, read under both namings, give 2D features on images alike along z."""

import re
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
)

from osteomet.config import BackboneConfig
from osteomet.errors import CheckpointError
from osteomet.models.backbones import Backbone, build_backbone
from osteomet.models.backbones.inflate import inflated

DEPTHS, DIMS = (1, 2, 1, 1), (8, 12, 16, 24)
_SHARED = {"depths": list(DEPTHS), "hidden_sizes": list(DIMS)}
NAMES = ["convnext_tiny", "convnextv2_atto", "resnet18", "resnet50"]


def backbone(name: str, **more: object) -> Backbone:
    settings = {"depths": DEPTHS, "dims": DIMS, "normalisation": "batch", **more}
    return build_backbone(BackboneConfig(name=name, **settings), deepest_level=5).eval()


def flat_network(name: str) -> PreTrainedModel:
    """Return a network of three colours, at random, with a classifier."""
    torch.manual_seed(0)
    if name.startswith("convnextv2"):
        network = ConvNextV2ForImageClassification(ConvNextV2Config(**_SHARED))
    elif name.startswith("convnext"):
        network = ConvNextForImageClassification(ConvNextConfig(**_SHARED))
    else:
        kind, embedding = ("basic", DIMS[0]) if name == "resnet18" else ("bottleneck", 2)
        config = ResNetConfig(**_SHARED, layer_type=kind, embedding_size=embedding)
        network = ResNetForImageClassification(config)
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if value.is_floating_point():
                value.normal_(std=0.5 if value.squeeze().ndim < 2 else value[0].numel() ** -0.5)
                if key.endswith(("running_var", "normalization.weight")):
                    value.abs_().add_(0.5)
    return network.eval()


def in_timm_names(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the same weights as timm names them, written by hand from its published files."""
    return {_timm_name(key): value for key, value in _timm_shapes(state, name)}


def _timm_shapes(state: dict[str, Tensor], name: str) -> Iterator[tuple[str, Tensor]]:
    for key, value in state.items():
        if "grn" in key:
            yield key, value.flatten()
        elif "pwconv" in key and key.endswith("weight") and name == "convnextv2_atto":
            yield key, value[:, :, None, None]  # its small sizes have 1x1 convolutions here
        else:
            yield key, value


def _timm_name(key: str) -> str:
    key = re.sub(r"^(convnextv2|convnext|resnet)\.", "", key)
    key = re.sub(r"^classifier(\.1)?\.", "head.fc.", key)
    key = re.sub(r"^layernorm\.", "head.norm.", key)
    if "embedder" in key or ".layer." in key or "shortcut" in key:
        key = key.replace("embedder.embedder.convolution", "conv1")
        key = key.replace("embedder.embedder.normalization", "bn1")
        found = re.match(r"encoder\.stages\.(\d)\.layers\.(\d+)\.(.*)", key)
        if found is None:
            return key
        stage, block, rest = int(found[1]), found[2], found[3]
        rest = rest.replace("shortcut.convolution", "downsample.0")
        rest = rest.replace("shortcut.normalization", "downsample.1")
        for k in range(3):
            rest = rest.replace(f"layer.{k}.convolution", f"conv{k + 1}")
            rest = rest.replace(f"layer.{k}.normalization", f"bn{k + 1}")
        return f"layer{stage + 1}.{block}.{rest}"
    key = key.replace("embeddings.patch_embeddings", "stem.0")
    key = key.replace("embeddings.layernorm", "stem.1")
    key = re.sub(r"encoder\.stages\.(\d)\.downsampling_layer", r"stages.\1.downsample", key)
    key = re.sub(r"encoder\.stages\.(\d)\.layers", r"stages.\1.blocks", key)
    for theirs, timms in (
        ("dwconv", "conv_dw"),
        (".layernorm.", ".norm."),
        ("pwconv1", "mlp.fc1"),
        ("pwconv2", "mlp.fc2"),
        (".grn.", ".mlp.grn."),
        ("layer_scale_parameter", "gamma"),
    ):
        key = key.replace(theirs, timms)
    return key


@pytest.mark.parametrize("naming", ["transformers", "timm"])
@pytest.mark.parametrize("name", NAMES)
def test_inside_a_grey_image_alike_along_z_features_are_the_2d_ones(name: str, naming: str) -> None:
    flat, network = flat_network(name), backbone(name)
    state = flat.state_dict()
    for key, value in state.items():
        if key.endswith("grn.weight"):
            value.zero_()  # its norm is over all planes, and those at the ends differ
    if naming == "timm":
        state = in_timm_names(state, name)
        assert not any("encoder" in key for key in state)
    own = network.state_dict()
    loaded = inflated(state, own, name, "file")
    assert loaded.keys() == own.keys()
    network.load_state_dict(loaded)
    grey = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        hidden = flat.base_model(grey.expand(-1, 3, -1, -1), output_hidden_states=True)
        level = network(grey[:, :, None].expand(-1, -1, 256, -1, -1))[2]
    expected = hidden.hidden_states[1]
    # zeros beyond the ends reach ever fewer planes inwards; level 2 in the middle sees none
    difference = (level[:, :, 28:36] - expected[:, :, None]).abs().max() / expected.std()
    assert difference < 1e-5


@pytest.mark.parametrize("naming", ["transformers", "timm"])
def test_numbers_of_grn_are_taken_over(naming: str) -> None:
    state = flat_network("convnextv2_atto").state_dict()
    given = in_timm_names(state, "convnextv2_atto") if naming == "timm" else state
    own = backbone("convnextv2_atto").state_dict()
    loaded = inflated(given, own, "convnextv2_atto", "file")
    for number, ours in (("weight", "gamma"), ("bias", "beta")):
        theirs = state[f"convnextv2.encoder.stages.1.layers.1.grn.{number}"].flatten()
        assert torch.equal(loaded[f"stages.1.1.grn.{ours}"], theirs)


def test_kernels_are_divided_by_their_depth_and_colours_summed() -> None:
    own = {"entries.0.0.weight": torch.zeros(5, 1, 4, 4, 4)}
    flat = torch.randn(5, 3, 4, 4)
    loaded = inflated({"stem.0.weight": flat}, own, "convnext_tiny", "file")["entries.0.0.weight"]
    torch.testing.assert_close(loaded.sum(dim=2)[:, 0], flat.sum(dim=1))
    assert torch.equal(loaded[:, :, 0], loaded[:, :, 3])


def test_what_has_another_shape_is_left_out() -> None:
    state = flat_network("convnext_tiny").state_dict()
    own = backbone("convnext_tiny", stem_stride=2).state_dict()
    loaded = inflated(state, own, "convnext_tiny", "file")
    assert own.keys() - loaded.keys() == {"entries.0.0.weight"}


def test_another_norm_takes_scale_and_offset_alone() -> None:
    state = flat_network("resnet18").state_dict()
    own = backbone("resnet18", normalisation="group").state_dict()
    assert inflated(state, own, "resnet18", "file").keys() == own.keys()


def test_foreign_tensors_and_families_without_2d_weights_are_refused() -> None:
    own = backbone("convnext_tiny").state_dict()
    with pytest.raises(
        CheckpointError, match=r"w.pt: none of its 1 tensors, such as 'patch', fits"
    ):
        inflated({"patch": torch.ones(3)}, own, "convnext_tiny", "w.pt")
    with pytest.raises(CheckpointError, match=r"none of its 0 tensors, such as 'none'"):
        inflated({}, own, "convnext_tiny", "w.pt")
    with pytest.raises(CheckpointError, match="2D weights cannot start yolov8n"):
        inflated({}, backbone("yolov8n").state_dict(), "yolov8n", "w.pt")
