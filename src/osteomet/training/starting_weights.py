"""``--init``: a detector's weights, a pretrained backbone, or a 2D network's weights."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from osteomet.checkpoint import (
    file_sha256,
    is_osteomet_file,
    load_foreign_tensors,
    load_weights,
)
from osteomet.config import Config, PreprocessConfig
from osteomet.models.backbones import build_backbone
from osteomet.models.backbones.inflate import NON_COMMERCIAL, inflated

BACKBONE = "backbone."


@dataclass(frozen=True, eq=False)
class StartingWeights:
    """What a run starts from.

    Attributes:
        state: by the names of ``MaskRCNN``; others are ignored.
        name: for messages.
        sha256: of the file's bytes.
        preprocess: by whose constants the first layer knows HU; None for a 2D network, which
            knows images of zero mean and unit variance.
        provenance: what the new weights tell about these.
        notes: what the user must know.
    """

    state: Mapping[str, Tensor]
    name: str
    sha256: str
    preprocess: PreprocessConfig | None
    provenance: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def told(self, fresh: Sequence[str], names: Collection[str]) -> str:
        """Return what to tell of them.

        Args:
            fresh: tensors of the model that they lack.
            names: all tensors of the model.
        """
        parts = f"; starting anew: {', '.join(summarised(fresh, names))}" if fresh else ""
        return "; ".join([f"starting from the weights {self.name}{parts}", *self.notes])


def starting_weights(name_or_path: str | Path, config: Config) -> StartingWeights:
    """Read weights to start from.

    Args:
        name_or_path: of bundled weights, or of a file.
        config: of the run; 2D weights are made to fit its backbone.

    Raises:
        CheckpointError: the file cannot be read, or nothing of a 2D network fits.
    """
    path = Path(name_or_path)
    if path.is_file() and not is_osteomet_file(path):
        return _inflated(path, config)
    weights = load_weights(name_or_path)
    return StartingWeights(
        state=weights.model_state,
        name=weights.name,
        sha256=weights.sha256,
        preprocess=weights.config.preprocess,
        provenance=weights.provenance,
    )


def summarised(some: Sequence[str], names: Collection[str]) -> list[str]:
    """Return names in order, with ``part.*`` for a part of the model of which all are there."""
    chosen, shown = set(some), []
    for name in some:
        part = name.partition(".")[0] + "."
        whole = all(other in chosen for other in names if other.startswith(part))
        shown.append(f"{part}*" if whole else name)
    return list(dict.fromkeys(shown))


def _inflated(path: Path, config: Config) -> StartingWeights:
    model = config.model
    with torch.device("meta"):
        own = build_backbone(model.backbone, max(model.neck.levels)).state_dict()
    state = inflated(load_foreign_tensors(path), own, model.backbone.name, str(path))
    notes = (NON_COMMERCIAL,) if model.backbone.name.startswith("convnextv2") else ()
    return StartingWeights(
        state={BACKBONE + name: value for name, value in state.items()},
        name=path.name,
        sha256=file_sha256(path),
        preprocess=None,
        provenance={
            "inflated_2d_weights": path.name,
            "tensors": len(state),
            "licence_note": " ".join(notes) or "that of the 2D weights",
        },
        notes=notes,
    )
