"""What a run learns: the loop is the same for detecting lesions and for pretraining."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from lightning_fabric import Fabric
from torch import Tensor, nn

from osteomet.config import Config
from osteomet.data.patches import Patch
from osteomet.models.mask_rcnn import MaskRCNN
from osteomet.structures import Targets
from osteomet.training.validation import validate


@runtime_checkable
class Measurement(Protocol):
    """How well the averaged weights do on the validation patches."""

    @property
    def loss(self) -> float: ...

    def row(self) -> dict[str, float]:
        """Return what the logs show."""
        ...


@dataclass(frozen=True)
class Task:
    """A network and how it learns.

    Attributes:
        build: the network of a configuration; it has ``multiple_of``.
        losses: the weighted terms of one batch, whose sum is to be minimised.
        measure: of the averaged network, on at least one patch, by batch size and seed.
    """

    build: Callable[[Config], nn.Module]
    losses: Callable[[nn.Module, Tensor, list[Targets]], dict[str, Tensor]]
    measure: Callable[[Fabric, nn.Module, Sequence[Patch], int, int], Measurement]


def _build_detector(config: Config) -> MaskRCNN:
    return MaskRCNN(config.model, config.preprocess.spacing_mm)


def _detection_losses(
    model: nn.Module, images: Tensor, targets: list[Targets]
) -> dict[str, Tensor]:
    losses: dict[str, Tensor] = model(images, targets)[1]
    return losses


DETECTION = Task(_build_detector, _detection_losses, validate)
