"""How well the averaged weights do on the fixed validation patches."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import nn

from osteomet.data.patches import Patch
from osteomet.evaluation.detection import ScanMatches, froc, match_candidates
from osteomet.ops.masks import paste_mask
from osteomet.structures import Detections, Targets

FALSE_POSITIVES_PER_PATCH = 1.0


@dataclass(frozen=True)
class Validation:
    """Figures over all validation patches.

    Attributes:
        losses: mean of each weighted term; their sum is the loss.
        sensitivity: share of lesions found at 1 false positive a patch; NaN without a lesion.
        dice: mean over the lesions found then that have a mask; NaN if there is none.
    """

    losses: dict[str, float]
    sensitivity: float
    dice: float

    @property
    def loss(self) -> float:
        return sum(self.losses.values())

    def row(self) -> dict[str, float]:
        """Return what the logs show."""
        return {
            "loss": self.loss,
            "sensitivity": self.sensitivity,
            "dice": self.dice,
            **self.losses,
        }


@torch.no_grad()
def validate(
    fabric: Fabric, model: nn.Module, patches: Sequence[Patch], batch_size: int, seed: int
) -> Validation:
    """Run ``model``, in eval mode, over at least one patch; always with the same random numbers.

    With several processes each one runs over all patches, so that all of them take the same
    decision about stopping.
    """
    totals: dict[str, float] = {}
    matched: list[tuple[ScanMatches, list[float | None]]] = []
    for start in range(0, len(patches), batch_size):
        batch = patches[start : start + batch_size]
        images = torch.stack([patch.image for patch in batch]).to(fabric.device)
        targets = [patch.targets.to(fabric.device) for patch in batch]
        seed_torch(seed, "validation", start)
        with fabric.autocast():
            detections, losses = model(images, targets)
        for name, value in losses.items():
            totals[name] = totals.get(name, 0.0) + float(value) * len(batch)
        for patch, found in zip(batch, detections, strict=True):
            matched.append(_matched(found.cpu(), patch.targets))
    means = {name: total / len(patches) for name, total in totals.items()}
    return Validation(means, *_summary(matched))


def seed_torch(*key: object) -> None:
    """Seed torch by ``key``, so that what is drawn depends on nothing that came before."""
    text = "/".join(map(str, key)).encode()
    digest = hashlib.blake2b(text, digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest) >> 1)


def _matched(found: Detections, truth: Targets) -> tuple[ScanMatches, list[float | None]]:
    """Match the detections of one patch; with each match comes its Dice, if it has a mask."""
    matches = match_candidates(
        found.boxes.numpy(), found.scores.numpy(), truth.boxes.numpy(), truth.ignore_boxes.numpy()
    )
    dice = [
        _dice(found, candidate, truth, lesion) if lesion >= 0 else None
        for candidate, lesion in zip(
            matches.candidate.tolist(), matches.lesion.tolist(), strict=True
        )
    ]
    return matches, dice


def _summary(
    matched: Sequence[tuple[ScanMatches, list[float | None]]],
) -> tuple[float, float]:
    """Return sensitivity and mean Dice where there is one false positive a patch."""
    curve = froc([matches for matches, _ in matched])
    threshold, sensitivity, _ = curve.at(FALSE_POSITIVES_PER_PATCH)
    kept = [
        value
        for matches, dice in matched
        for score, value in zip(matches.scores, dice, strict=True)
        if score >= threshold and value is not None
    ]
    return sensitivity, sum(kept) / len(kept) if kept else float("nan")


def _dice(found: Detections, index: int, truth: Targets, lesion: int) -> float | None:
    instance_id = int(truth.instance_ids[lesion])
    if instance_id == 0:
        return None
    z, y, x = (torch.arange(size) + 0.5 for size in truth.instances.shape)
    predicted = paste_mask(found.masks[index], found.mask_boxes[index], z, y, x) >= 0.5
    actual = truth.instances == instance_id
    overlap = int((predicted & actual).sum())
    return 2 * overlap / max(1, int(predicted.sum()) + int(actual.sum()))
