"""How well the averaged weights do on the fixed validation patches."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from osteomet.data.patches import Patch
from osteomet.ops.boxes import box_centers, box_iou
from osteomet.ops.masks import paste_mask
from osteomet.structures import Detections, Targets

HIT_IOU = 0.1
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
    """Run ``model``, in eval mode, over the patches; always with the same random numbers.

    With several processes each one runs over all patches, so that all of them take the same
    decision about stopping.
    """
    totals: dict[str, float] = {}
    candidates = _Candidates()
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
            candidates.add(found.cpu(), patch.targets)
    count = max(1, len(patches))
    sensitivity, dice = candidates.at_false_positives(FALSE_POSITIVES_PER_PATCH * count)
    return Validation({name: total / count for name, total in totals.items()}, sensitivity, dice)


def seed_torch(*key: object) -> None:
    """Seed torch by ``key``, so that what is drawn depends on nothing that came before."""
    text = "/".join(map(str, key)).encode()
    digest = hashlib.blake2b(text, digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest) >> 1)


@dataclass
class _Candidates:
    """Detections of all patches, each with what it hit.

    Attributes:
        scored: ``(score, hit a lesion, Dice)``; Dice is None for a lesion without a mask.
        lesions: lesions in all patches.
    """

    scored: list[tuple[float, bool, float | None]] = field(default_factory=list)
    lesions: int = 0

    def add(self, found: Detections, truth: Targets) -> None:
        """Match the detections of one patch, best first, each lesion once."""
        self.lesions += len(truth.boxes)
        iou = box_iou(found.boxes, truth.boxes)
        ignored = _centre_inside(found.boxes, truth.ignore_boxes)
        for index, score in enumerate(found.scores.tolist()):
            overlap, lesion = iou[index].max(dim=0) if len(truth.boxes) else (0.0, -1)
            if overlap >= HIT_IOU:
                iou[:, lesion] = 0.0  # a second box on it is a false positive
                self.scored.append((score, True, _dice(found, index, truth, int(lesion))))
            elif not ignored[index]:
                self.scored.append((score, False, None))

    def at_false_positives(self, allowed: float) -> tuple[float, float]:
        """Return sensitivity and mean Dice at the lowest threshold with so few of them."""
        threshold = float("inf")
        false_positives = 0
        for score in sorted({score for score, _, _ in self.scored}, reverse=True):
            false_positives += sum(1 for s, hit, _ in self.scored if s == score and not hit)
            if false_positives > allowed:
                break
            threshold = score
        hits = [dice for score, hit, dice in self.scored if hit and score >= threshold]
        dices = [dice for dice in hits if dice is not None]
        return (
            len(hits) / self.lesions if self.lesions else float("nan"),
            sum(dices) / len(dices) if dices else float("nan"),
        )


def _centre_inside(boxes: Tensor, regions: Tensor) -> Tensor:
    """Return ``(n,)``: whether the centre of each box lies in any of the regions."""
    centers = box_centers(boxes)[:, None]
    inside = (centers >= regions[None, :, :3]) & (centers < regions[None, :, 3:])
    return inside.all(dim=-1).any(dim=-1)


def _dice(found: Detections, index: int, truth: Targets, lesion: int) -> float | None:
    instance_id = int(truth.instance_ids[lesion])
    if instance_id == 0:
        return None
    z, y, x = (torch.arange(size) + 0.5 for size in truth.instances.shape)
    predicted = paste_mask(found.masks[index], found.mask_boxes[index], z, y, x) >= 0.5
    actual = truth.instances == instance_id
    overlap = int((predicted & actual).sum())
    return 2 * overlap / max(1, int(predicted.sum()) + int(actual.sum()))
