"""The region proposal network: where in the image could a lesion be?

Source: Ren et al., "Faster R-CNN", arXiv:1506.01497; the paper's Sec. 2.3. A small network
slides over each level and gives, for every anchor, an objectness and six box offsets. It learns
from some dozens of them an image, so what a cell's own features are turned into has a gradient
only there: proposals, which have none, come from all.
"""

import math
from typing import TypeGuard

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from osteomet.config import ModelConfig
from osteomet.models.anchors import AnchorGenerator
from osteomet.models.fpn import convolution
from osteomet.models.layers import (
    Features,
    LayerNorm3d,
    PointwiseConv3d,
    SeparableConv3d,
    initialise,
)
from osteomet.models.matching import (
    Matches,
    ignore_inside,
    match_by_atss,
    match_by_iou,
    sample,
)
from osteomet.models.processes import PartialLoss, partial_mean
from osteomet.ops.boxes import clip_boxes, decode_boxes, encode_boxes
from osteomet.ops.nms import batched_nms
from osteomet.structures import Proposals, Targets

SMOOTH_L1_BETA = 1 / 9

ANCHORS = 1
"""Purpose for which ``Targets.generator`` draws: the anchors that train."""


class RegionProposalNetwork(nn.Module):
    def __init__(self, config: ModelConfig, spacing_mm: float) -> None:
        super().__init__()
        self.config = config.rpn
        self.atss_candidates = config.rpn.atss_candidates
        self.min_size_vox = config.rpn.min_size_mm / spacing_mm
        self.anchors = AnchorGenerator(config.anchors, config.neck.levels, spacing_mm)
        width, per_cell = config.neck.channels, self.anchors.per_cell
        self.slide = nn.Sequential(
            convolution(config.neck.convolution, width, width), LayerNorm3d(width), nn.ReLU()
        )
        self.objectness = PointwiseConv3d(width, per_cell)
        self.deltas = PointwiseConv3d(width, 6 * per_cell)
        initialise(self)
        for layer in (self.objectness, self.deltas):
            nn.init.normal_(layer.weight, std=0.03)
        # Nearly every anchor is background: start from there.
        nn.init.constant_(self.objectness.bias, -3.0)

    def forward(
        self,
        features: list[Tensor],
        image_shape: tuple[int, int, int],
        targets: list[Targets] | None,
    ) -> tuple[list[Proposals], dict[str, PartialLoss]]:
        """Return the proposals of each image and, given targets, the two losses.

        Args:
            features: ``(B, C, Z, Y, X)`` per level.
            image_shape: voxels of the images, to clip proposals.
            targets: what is true in each image; None makes no losses.
        """
        shapes = [(f.shape[2], f.shape[3], f.shape[4]) for f in features]
        anchors, levels = self.anchors(shapes, features[0].device)
        cells = torch.cat([self._mix(f).movedim(1, -1).flatten(1, 3) for f in features], dim=1)
        with torch.no_grad():
            objectness, deltas = (told.flatten(1, 2) for told in self._tell(cells))
            objectness = objectness.squeeze(-1)
        losses = {}
        if targets is not None:
            losses = self._losses(anchors, levels, cells, objectness, targets)
        with torch.no_grad():
            counts = [self.anchors.per_cell * math.prod(shape) for shape in shapes]
            proposals = self._propose(anchors, levels, counts, objectness, deltas, image_shape)
        return proposals, losses

    def _mix(self, features: Features) -> Features:
        """Let the cells of a level see their neighbours."""
        first = self.slide[0]
        mixed: Tensor = first.depthwise(features) if _is_separable(first) else first(features)
        return mixed

    def _tell(
        self, cells: Float[Tensor, "b n c"]
    ) -> tuple[Float[Tensor, "b n a 1"], Float[Tensor, "b n a 6"]]:
        """Return objectness and deltas of each cell's anchors, from what it saw."""
        hidden = cells.movedim(-1, 1)[..., None, None]
        first, *others = self.slide
        if _is_separable(first):
            hidden = first.combine(hidden)
        for layer in others:
            hidden = layer(hidden)
        told = (head(hidden).flatten(2).mT.float() for head in (self.objectness, self.deltas))
        objectness, deltas = (values.unflatten(-1, (self.anchors.per_cell, -1)) for values in told)
        return objectness, deltas

    def _propose(
        self,
        anchors: Float[Tensor, "n 6"],
        levels: Int[Tensor, " n"],
        counts: list[int],
        objectness: Float[Tensor, "b n"],
        deltas: Float[Tensor, "b n 6"],
        image_shape: tuple[int, int, int],
    ) -> list[Proposals]:
        """Choose the proposals of all images at once; ``counts`` are the anchors of each level."""
        best, start = [], 0
        for count in counts:
            here = objectness[:, start : start + count]
            best.append(here.topk(min(self.config.pre_nms_per_level, count)).indices + start)
            start += count
        kept = torch.cat(best, dim=1)
        rows = torch.arange(len(kept), device=kept.device)[:, None]
        image, anchor = rows.expand_as(kept).flatten(), kept.flatten()
        boxes = clip_boxes(decode_boxes(deltas[image, anchor], anchors[anchor]), image_shape)
        scores = objectness[image, anchor]
        large = ((boxes[:, 3:] - boxes[:, :3]) >= self.min_size_vox).all(dim=1)
        boxes, scores, image, anchor = boxes[large], scores[large], image[large], anchor[large]
        groups = image * len(counts) + levels[anchor]
        keep = batched_nms(boxes, scores, groups, self.config.nms_iou)
        boxes, scores, image = boxes[keep], scores[keep], image[keep]
        most = self.config.proposals_train if self.training else self.config.proposals_test
        chosen = [torch.nonzero(image == i).squeeze(1)[:most] for i in range(len(objectness))]
        return [Proposals(boxes[mine], scores[mine]) for mine in chosen]

    def _losses(
        self,
        anchors: Float[Tensor, "n 6"],
        levels: Int[Tensor, " n"],
        cells: Float[Tensor, "b n_cells c"],
        scores: Float[Tensor, "b n"],
        targets: list[Targets],
    ) -> dict[str, PartialLoss]:
        rows, which, labels, wanted = [], [], [], []
        for i, target in enumerate(targets):
            matches = self._match(anchors, levels, target)
            positive, negative = sample(
                matches,
                scores[i],
                self.config.anchors_per_image,
                self.config.positive_fraction,
                self.config.hard_negative_pool,
                target.generator(ANCHORS),
            )
            chosen = torch.cat([positive, negative])
            rows.append(cells[i, chosen // self.anchors.per_cell])
            which.append(chosen % self.anchors.per_cell)
            labels.append(torch.arange(len(chosen), device=chosen.device) < len(positive))
            wanted.append(encode_boxes(target.boxes[matches[positive]], anchors[positive]))
        objectness, deltas = (told[0] for told in self._tell(torch.cat(rows)[None]))
        number, anchor = torch.arange(len(objectness), device=cells.device), torch.cat(which)
        logits, found = objectness[number, anchor, 0], torch.cat(labels)
        box = F.smooth_l1_loss(
            deltas[number, anchor][found], torch.cat(wanted), reduction="sum", beta=SMOOTH_L1_BETA
        )
        entropy = F.binary_cross_entropy_with_logits(logits, found.float(), reduction="sum")
        return {
            "rpn_objectness": partial_mean(entropy, len(logits)),
            "rpn_box": partial_mean(box / 6, sum(len(w) for w in wanted)),
        }

    def _match(
        self, anchors: Float[Tensor, "n 6"], levels: Int[Tensor, " n"], target: Targets
    ) -> Matches:
        if self.config.matcher == "atss":
            matches = match_by_atss(
                anchors, levels, target.boxes, self._candidates, self.config.atss_ignored_share
            )
        else:
            matches = match_by_iou(
                anchors,
                target.boxes,
                self.config.positive_iou,
                self.config.negative_iou,
                self.config.force_best,
            )
        return ignore_inside(matches, anchors, target.ignore_boxes)

    @property
    def _candidates(self) -> int:
        return self.atss_candidates * self.anchors.per_cell


def _is_separable(layer: nn.Module) -> TypeGuard[SeparableConv3d]:
    return isinstance(layer, SeparableConv3d)
