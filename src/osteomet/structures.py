"""The tensors that stages hand to each other, checked once where they are made.

Boxes are ``(z1, y1, x1, z2, y2, x2)`` in voxel edges of the model's grid. All tensors of
one object are on one device. ``n`` may be 0 everywhere: a patch without a lesion is the
most common input.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BACKGROUND, LUNG, OTHER = 0, 1, 2
METASTASIS = 3
"""Label of a lesion whose primary is unknown: it trains ``-log(p_lung + p_other)``."""

NUM_CLASSES = 3

ATTRIBUTES = ("lytic", "sclerotic", "expansile", "cortical")
"""What a lesion can look like: it loses bone, forms bone (a mixed one does both), blows the bone
up, sits in the cortex."""

UNKNOWN = -1
"""Of an attribute that nobody noted: it trains nothing."""


@dataclass(frozen=True, eq=False)
class Targets:
    """What is true in one patch.

    Attributes:
        boxes: ``(n, 6)`` of the lesions.
        labels: ``(n,)``, each LUNG, OTHER or METASTASIS.
        instances: ``(z, y, x)`` label map of the patch; 0 is background.
        instance_ids: ``(n,)`` value of each lesion in ``instances``; 0 where a lesion has a box
            but no mask, and then it trains class and box only.
        ignore_boxes: ``(m, 6)`` regions neither rewarded nor punished.
        attributes: ``(n, a)`` for each of ``ATTRIBUTES`` 1, 0 or UNKNOWN.
        seed: of all that is drawn while this patch trains, so that it depends neither on the
            patches beside it nor on the process that trains it.
    """

    boxes: Float[Tensor, "n 6"]
    labels: Int[Tensor, " n"]
    instances: Int[Tensor, "z y x"]
    instance_ids: Int[Tensor, " n"]
    ignore_boxes: Float[Tensor, "m 6"]
    attributes: Int[Tensor, "n a"]
    seed: int = 0

    def __post_init__(self) -> None:
        counts = {
            len(self.boxes), len(self.labels), len(self.instance_ids), len(self.attributes)
        }  # fmt: skip
        if len(counts) > 1:
            raise ValueError(
                f"{len(self.boxes)} boxes, {len(self.labels)} labels, {len(self.instance_ids)} "
                f"instance ids and {len(self.attributes)} rows of attributes; expected as many "
                "of each"
            )

    @property
    def has_mask(self) -> Bool[Tensor, " n"]:
        return self.instance_ids > 0

    def to(self, device: torch.device) -> "Targets":
        """Return the same targets on ``device``."""
        return Targets(
            self.boxes.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
            self.instances.to(device, non_blocking=True),
            self.instance_ids.to(device, non_blocking=True),
            self.ignore_boxes.to(device, non_blocking=True),
            self.attributes.to(device, non_blocking=True),
            self.seed,
        )

    def generator(self, purpose: int) -> torch.Generator:
        """Return the source of what is drawn for one purpose, on the CPU for every device."""
        return torch.Generator().manual_seed(self.seed ^ purpose)


@dataclass(frozen=True, eq=False)
class Proposals:
    """Boxes of one image that the RPN thinks hold a lesion, best first.

    Attributes:
        boxes: ``(n, 6)``, clipped to the image.
        objectness: ``(n,)`` logits.
    """

    boxes: Float[Tensor, "n 6"]
    objectness: Float[Tensor, " n"]


@dataclass(frozen=True, eq=False)
class Detections:
    """Lesions found in one image or, after merging, in one scan; best first.

    Attributes:
        boxes: ``(n, 6)``.
        scores: ``(n,)`` probability of a metastasis, ``1 - p(background)``.
        p_lung: ``(n,)`` ``p(lung) / (p(lung) + p(other))``.
        embeddings: ``(n, d)`` features of each lesion for the second stage.
        attributes: ``(n, a)`` probability of each of ``ATTRIBUTES``; ``a`` is 0 where the
            network was not trained to tell them.
        mask_boxes: ``(n, 6)`` region that each mask spans: the box and a margin.
        masks: ``(n, m, m, m)`` probabilities on a grid that spans ``mask_boxes``.
    """

    boxes: Float[Tensor, "n 6"]
    scores: Float[Tensor, " n"]
    p_lung: Float[Tensor, " n"]
    embeddings: Float[Tensor, "n d"]
    attributes: Float[Tensor, "n a"]
    mask_boxes: Float[Tensor, "n 6"]
    masks: Float[Tensor, "n m m m"]

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, keep: Tensor) -> "Detections":
        """Return the detections that ``keep``, a boolean mask or indices, selects."""
        return Detections(
            self.boxes[keep],
            self.scores[keep],
            self.p_lung[keep],
            self.embeddings[keep],
            self.attributes[keep],
            self.mask_boxes[keep],
            self.masks[keep],
        )

    def shifted(self, offset_zyx: tuple[float, float, float]) -> "Detections":
        """Return the detections of a tile in the coordinates of its scan."""
        offset = self.boxes.new_tensor([*offset_zyx, *offset_zyx])
        return Detections(
            self.boxes + offset,
            self.scores,
            self.p_lung,
            self.embeddings,
            self.attributes,
            self.mask_boxes + offset,
            self.masks,
        )

    def cpu(self) -> "Detections":
        """Return the detections in float32 on the CPU."""
        return Detections(
            self.boxes.float().cpu(),
            self.scores.float().cpu(),
            self.p_lung.float().cpu(),
            self.embeddings.float().cpu(),
            self.attributes.float().cpu(),
            self.mask_boxes.float().cpu(),
            self.masks.float().cpu(),
        )

    @classmethod
    def concatenate(cls, parts: "list[Detections]") -> "Detections":
        """Join detections; ``parts`` must not be empty, though each of them may be."""
        return cls(
            torch.cat([part.boxes for part in parts]),
            torch.cat([part.scores for part in parts]),
            torch.cat([part.p_lung for part in parts]),
            torch.cat([part.embeddings for part in parts]),
            torch.cat([part.attributes for part in parts]),
            torch.cat([part.mask_boxes for part in parts]),
            torch.cat([part.masks for part in parts]),
        )
