"""Backbones by name: the one place where a string chooses a class."""

from osteomet.config import BackboneConfig
from osteomet.errors import ConfigError
from osteomet.models.backbones.convnextv2 import SIZES, ConvNeXtV2

BACKBONES = dict.fromkeys(SIZES, ConvNeXtV2)


def build_backbone(config: BackboneConfig, deepest_level: int) -> ConvNeXtV2:
    """Build the backbone that ``config.name`` says, down to ``deepest_level``.

    Raises:
        ConfigError: there is no backbone of that name.
    """
    if config.name not in BACKBONES:
        raise ConfigError(
            f"model.backbone.name is {config.name!r}; expected one of {', '.join(BACKBONES)}"
        )
    return BACKBONES[config.name](config, deepest_level)
