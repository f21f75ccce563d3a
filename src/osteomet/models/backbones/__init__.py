"""Backbones by name: the one place where a string chooses a network.

All give feature levels through one interface, ``Backbone``, so that neck and heads do not know
which one it is.
"""

from collections.abc import Callable

from osteomet.config import BackboneConfig
from osteomet.models.backbones import convnext, convnextv2, resnet, yolov8
from osteomet.models.backbones.feature_levels import Backbone

Build = Callable[[BackboneConfig, int], Backbone]

BACKBONES: dict[str, Build] = {
    **dict.fromkeys(resnet.SIZES, resnet.resnet),
    **dict.fromkeys(convnext.SIZES, convnext.convnext),
    **dict.fromkeys(convnextv2.SIZES, convnextv2.convnextv2),
    **dict.fromkeys(yolov8.SIZES, yolov8.yolov8),
}


def build_backbone(config: BackboneConfig, deepest_level: int) -> Backbone:
    """Build the backbone that ``config.name`` says, down to ``deepest_level``."""
    return BACKBONES[config.name](config, deepest_level)
