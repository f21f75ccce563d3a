"""Weights of 2D networks, in the naming of timm or transformers, as weights of a 3D backbone.

A kernel is repeated along z and divided by its depth, so that an image that does not change
along z gives the features that it gave in 2D (Carreira and Zisserman, "Quo Vadis, Action
Recognition?", arXiv:1705.07750, Sec. 2.4). The first convolution is summed over its colours: a
grey image has the same value in all three.
"""

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

from osteomet.errors import CheckpointError

COLOURS = 3

NON_COMMERCIAL = (
    "the published ImageNet weights of ConvNeXt-V2 are CC-BY-NC 4.0: what is trained from them may "
    "not be used commercially"
)

Rules = Mapping[str, str]
"""A pattern of the 2D name -> our name; groups are kept."""

_TENSOR = r"\.(weight|bias)"
_BLOCK = r"stages\.(\d+)\.blocks\.(\d+)\."
_LAYER = r"encoder\.stages\.(\d+)\.layers\.(\d+)\."
_OURS = r"stages.\1.\2."

CONVNEXT_RULES: Rules = {
    # timm
    rf"stem\.([01]){_TENSOR}": r"entries.0.\1.\2",
    rf"stages\.(\d+)\.downsample\.([01]){_TENSOR}": r"entries.\1.\2.\3",
    rf"{_BLOCK}conv_dw{_TENSOR}": rf"{_OURS}depthwise.\3",
    rf"{_BLOCK}norm{_TENSOR}": rf"{_OURS}norm.\3",
    rf"{_BLOCK}mlp\.fc1{_TENSOR}": rf"{_OURS}expand.\3",
    rf"{_BLOCK}mlp\.fc2{_TENSOR}": rf"{_OURS}project.\3",
    rf"{_BLOCK}mlp\.grn\.weight": rf"{_OURS}grn.gamma",
    rf"{_BLOCK}mlp\.grn\.bias": rf"{_OURS}grn.beta",
    rf"{_BLOCK}gamma": rf"{_OURS}gamma",
    # transformers
    rf"embeddings\.patch_embeddings{_TENSOR}": r"entries.0.0.\1",
    rf"embeddings\.layernorm{_TENSOR}": r"entries.0.1.\1",
    rf"encoder\.stages\.(\d+)\.downsampling_layer\.([01]){_TENSOR}": r"entries.\1.\2.\3",
    rf"{_LAYER}dwconv{_TENSOR}": rf"{_OURS}depthwise.\3",
    rf"{_LAYER}layernorm{_TENSOR}": rf"{_OURS}norm.\3",
    rf"{_LAYER}pwconv1{_TENSOR}": rf"{_OURS}expand.\3",
    rf"{_LAYER}pwconv2{_TENSOR}": rf"{_OURS}project.\3",
    rf"{_LAYER}grn\.weight": rf"{_OURS}grn.gamma",
    rf"{_LAYER}grn\.bias": rf"{_OURS}grn.beta",
    rf"{_LAYER}layer_scale_parameter": rf"{_OURS}gamma",
}


def _resnet_rules() -> Rules:
    rules = {
        r"conv1\.(weight)": r"entries.0.0.0.\1",
        r"bn1\.(\w+)": r"entries.0.0.1.\1",
        r"embedder\.embedder\.convolution\.(weight)": r"entries.0.0.0.\1",
        r"embedder\.embedder\.normalization\.(\w+)": r"entries.0.0.1.\1",
        rf"{_LAYER}shortcut\.convolution\.(weight)": rf"{_OURS}shortcut.0.\3",
        rf"{_LAYER}shortcut\.normalization\.(\w+)": rf"{_OURS}shortcut.1.\3",
    }
    for k in range(3):  # each convolution of ours is followed by a ReLU, which takes a number
        rules[rf"{_LAYER}layer\.{k}\.convolution\.(weight)"] = rf"{_OURS}branch.{2 * k}.0.\3"
        rules[rf"{_LAYER}layer\.{k}\.normalization\.(\w+)"] = rf"{_OURS}branch.{2 * k}.1.\3"
    for stage in range(4):  # timm counts stages and convolutions from 1
        layer = rf"layer{stage + 1}\.(\d+)\."
        ours = rf"stages.{stage}.\1."
        rules[rf"{layer}downsample\.([01])\.(\w+)"] = rf"{ours}shortcut.\2.\3"
        for k in range(3):
            rules[rf"{layer}conv{k + 1}\.(weight)"] = rf"{ours}branch.{2 * k}.0.\2"
            rules[rf"{layer}bn{k + 1}\.(\w+)"] = rf"{ours}branch.{2 * k}.1.\2"
    return rules


RESNET_RULES = _resnet_rules()

_PREFIX = re.compile(r"^(convnextv2|convnext|resnet)\.(?=embeddings|embedder|encoder)")
"""Before the names of a transformers model that has a classifier."""


def inflated(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], backbone: str, where: str
) -> dict[str, Tensor]:
    """Return the tensors of a 2D network that fit a backbone, by the backbone's names.

    Tensors that have another shape there are left out, and so are those of the classifier.

    Args:
        state: of the 2D network.
        own: the backbone's state, for its shapes.
        backbone: its name in the configuration.
        where: the file, for messages.

    Raises:
        CheckpointError: no tensor fits, or no published 2D weights exist for this backbone.
    """
    fitting = {}
    for name, value in renamed(state, backbone, where):
        if name in own:
            value_3d = _in_3d(value, own[name])
            if value_3d.shape == own[name].shape:
                fitting[name] = value_3d
    if not fitting:
        raise CheckpointError(
            f"{where}: none of its {len(state)} tensors, such as {next(iter(state), 'none')!r}, "
            f"fits {backbone}; expected osteomet weights, or those of a 2D network of the same "
            "size in the naming of timm or transformers"
        )
    return fitting


def renamed(state: Mapping[str, Tensor], backbone: str, where: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a 2D network by our names, as they are.

    Raises:
        CheckpointError: no rules are known for the backbone's family.
    """
    rules = _rules(backbone, where)
    for name, value in state.items():
        bare = _PREFIX.sub("", name)
        for pattern, ours in rules.items():
            found = re.fullmatch(pattern, bare)
            if found is not None:
                yield found.expand(ours), value
                break


def _rules(backbone: str, where: str) -> Rules:
    if backbone.startswith("convnext"):
        return CONVNEXT_RULES
    if backbone.startswith("resnet"):
        return RESNET_RULES
    raise CheckpointError(
        f"{where}: 2D weights cannot start {backbone}; expected a backbone of the families "
        "resnet, convnext or convnextv2, or osteomet weights"
    )


def _in_3d(value: Tensor, own: Tensor) -> Tensor:
    """Return a 2D network's tensor with the rank, and perhaps not the shape, of ``own``."""
    if own.ndim == 5 and value.ndim == 4:
        if value.shape[1] == COLOURS and own.shape[1] == 1:
            value = value.sum(dim=1, keepdim=True)
        depth = own.shape[2]
        return value[:, :, None].expand(-1, -1, depth, -1, -1) / depth
    # 1x1 convolutions are linear layers here, and GRN's numbers have no empty axes
    return value.reshape(own.shape) if value.numel() == own.numel() else value
