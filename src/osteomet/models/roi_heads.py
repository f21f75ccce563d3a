"""The second stage: class, box and mask of each proposal.

Source: He et al., "Mask R-CNN", arXiv:1703.06870; the paper's Sec. 2.3 and Fig. 3: RoIAlign,
then two fully connected layers with ReLU for class and box beside a convolutional mask head.
"""

import math
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from osteomet.config import ModelConfig
from osteomet.models.layers import (
    DenseConv3d,
    GELU3d,
    LayerNorm3d,
    PointwiseConv3d,
    initialise,
)
from osteomet.models.matching import ignore_inside, match_by_iou, sample
from osteomet.models.processes import PartialLoss, partial_mean
from osteomet.ops.binary_losses import entropy_and_overlap
from osteomet.ops.boxes import clip_boxes, decode_boxes, encode_boxes, scale_boxes
from osteomet.ops.masks import crop_instances
from osteomet.ops.nms import nms
from osteomet.ops.roi_align import roi_align, roi_align_levels
from osteomet.ops.space_to_depth import depth_to_space, space_to_depth
from osteomet.structures import (
    ATTRIBUTES,
    BACKGROUND,
    METASTASIS,
    NUM_CLASSES,
    UNKNOWN,
    Detections,
    Proposals,
    Targets,
)

SMOOTH_L1_BETA = 1 / 9

REGIONS, MASKS = 2, 3
"""Purposes for which ``Targets.generator`` draws: the RoIs that train, and those with a mask."""

DETAIL_CHANNELS = 24
"""Width of the box head's look at the image itself."""


class BoxHead(nn.Module):
    """Two fully connected layers, then class logits, box deltas and an embedding.

    A lesion of 8 mm is two cells of a stride-4 level: with ``detail`` the region's image and
    dense segmentation, at twice the pooled resolution, are added to its features.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        head = config.box_head
        inputs = config.neck.channels * head.pool_size**3
        crops = 8 * (config.mask_head.image_crop + (config.losses.segmentation > 0))
        self.detail: nn.Sequential | None = None
        if head.detail and crops:
            self.detail = nn.Sequential(
                PointwiseConv3d(crops, DETAIL_CHANNELS),
                LayerNorm3d(DETAIL_CHANNELS),
                GELU3d(),
                PointwiseConv3d(DETAIL_CHANNELS, config.neck.channels),
            )
        # Without the normalisation the first layer saw features of any scale and died.
        self.layers = nn.Sequential(
            nn.Linear(inputs, head.hidden),
            nn.LayerNorm(head.hidden),
            nn.ReLU(),
            nn.Linear(head.hidden, head.hidden),
            nn.LayerNorm(head.hidden),
            nn.ReLU(),
        )
        self.embedding = nn.Linear(head.hidden, head.embedding)
        self.classes = nn.Linear(head.embedding, NUM_CLASSES)
        self.attributes: nn.Linear | None = None
        if config.losses.attributes > 0:
            self.attributes = nn.Linear(head.embedding, len(ATTRIBUTES))
        self.deltas = nn.Linear(head.hidden, 6)
        initialise(self)
        nn.init.normal_(self.classes.weight, std=0.05)
        nn.init.normal_(self.deltas.weight, std=0.01)
        if self.detail is not None:
            # It starts by adding nothing: features lead, detail follows.
            nn.init.zeros_(cast("Tensor", self.detail[-1].weight))

    def forward(
        self, pooled: Float[Tensor, "n c p p p"], crops: Float[Tensor, "n k r r r"] | None = None
    ) -> tuple[Float[Tensor, "n classes"], Float[Tensor, "n 6"], Float[Tensor, "n d"]]:
        """Return class logits, deltas and embeddings, in float32.

        Args:
            pooled: features of each region.
            crops: image and segmentation logits of it at twice the resolution of ``pooled``,
                if the head has ``detail``.
        """
        if self.detail is not None and crops is not None:
            pooled = pooled + self.detail(space_to_depth(crops, 2).to(pooled.dtype))
        # Flattened as one cube a region, whose gradient is again laid out by channels last.
        hidden = self.layers(space_to_depth(pooled, pooled.shape[-1]).flatten(1))
        embedding = self.embedding(hidden)
        return self.classes(embedding).float(), self.deltas(hidden).float(), embedding.float()

    def describe(self, embedding: Float[Tensor, "n d"]) -> Float[Tensor, "n a"]:
        """Return logits of ``ATTRIBUTES``, in float32; none where the head does not tell them."""
        if self.attributes is None:
            return embedding.new_zeros(len(embedding), 0)
        logits: Tensor = self.attributes(embedding)
        return logits.float()


class MaskHead(nn.Module):
    """Convolutions on features, image crop and dense segmentation of each RoI.

    They run at half the mask's resolution: the crops at full resolution enter, and the mask
    leaves, as cubes of 2 voxels a side moved into channels, which keeps every voxel at an
    eighth of the products.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.mask_head.channels
        crops = 8 * (config.mask_head.image_crop + (config.losses.segmentation > 0))
        self.reduce = PointwiseConv3d(config.neck.channels, width)
        layers: list[nn.Module] = []
        for i in range(config.mask_head.convolutions):
            inputs = width + crops if i == 0 else width
            layers += [DenseConv3d(inputs, width), LayerNorm3d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.logits = PointwiseConv3d(width, 8)
        initialise(self)
        nn.init.normal_(self.logits.weight, std=0.05)

    def forward(
        self, pooled: Float[Tensor, "n c h h h"], crops: Float[Tensor, "n k m m m"]
    ) -> Float[Tensor, "n m m m"]:
        """Return mask logits, in float32.

        Args:
            pooled: features at half the mask's resolution.
            crops: image and segmentation logits at the mask's resolution; ``k`` may be 0.
        """
        x = self.reduce(pooled)
        beside = space_to_depth(crops.detach(), 2).to(x.dtype) if crops.shape[1] else None
        x = self.layers[1:](self.layers[0](x, beside))
        return depth_to_space(self.logits(x), 2).squeeze(1).float()


class RoIHeads(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.strides = [2**level for level in config.neck.levels]
        self.box_head = BoxHead(config)
        self.mask_head = MaskHead(config)

    def losses(
        self,
        features: list[Tensor],
        crops: Float[Tensor, "b k z y x"],
        proposals: list[Proposals],
        targets: list[Targets],
    ) -> dict[str, PartialLoss]:
        """Return the losses of class, box, mask and attributes.

        Args:
            features: ``(B, C, Z, Y, X)`` per level.
            crops: image and dense segmentation logits, for the mask head.
            proposals: of the RPN, per image.
            targets: what is true, per image.
        """
        boxes, labels, gt_boxes, image, lesion = self._sample(proposals, targets)
        logits, deltas, embeddings = self._classify(features, crops, boxes, image)
        positive = labels != BACKGROUND
        described = self.box_head.describe(embeddings[positive])
        noted = _noted(targets, image[positive], lesion[positive])
        masks = self._mask_losses(
            features, crops, boxes[positive], image[positive], lesion[positive], targets
        )
        wanted = encode_boxes(gt_boxes[positive], boxes[positive])
        box = F.smooth_l1_loss(deltas[positive], wanted, reduction="sum", beta=SMOOTH_L1_BETA)
        return {
            "classes": class_loss(logits, labels),
            "box": partial_mean(box / 6, len(wanted)),
            "attributes": attribute_loss(described, noted[:, : described.shape[1]]),
            **masks,
        }

    def detect(
        self,
        features: list[Tensor],
        crops: Float[Tensor, "b k z y x"],
        proposals: list[Proposals],
    ) -> list[Detections]:
        """Return the detections of each image, best first."""
        shape = (crops.shape[2], crops.shape[3], crops.shape[4])
        boxes = torch.cat([p.boxes for p in proposals])
        image = _image_index([p.boxes for p in proposals])
        logits, deltas, embeddings = self._classify(features, crops, boxes, image)
        probabilities = logits.softmax(dim=1)
        scores = 1 - probabilities[:, BACKGROUND]
        p_lung = probabilities[:, 1] / probabilities[:, 1:].sum(dim=1).clamp(min=1e-12)
        boxes = clip_boxes(decode_boxes(deltas, boxes), shape)
        attributes = self.box_head.describe(embeddings).sigmoid()
        return [
            self._finish(
                features, crops, i, boxes[image == i], scores[image == i],
                p_lung[image == i], embeddings[image == i], attributes[image == i],
            )
            for i in range(len(proposals))
        ]  # fmt: skip

    def _finish(
        self,
        features: list[Tensor],
        crops: Float[Tensor, "b k z y x"],
        number: int,
        boxes: Float[Tensor, "n 6"],
        scores: Float[Tensor, " n"],
        p_lung: Float[Tensor, " n"],
        embeddings: Float[Tensor, "n d"],
        attributes: Float[Tensor, "n a"],
    ) -> Detections:
        sound = (scores >= self.config.min_score) & ((boxes[:, 3:] - boxes[:, :3]) > 0).all(dim=1)
        kept = torch.nonzero(sound).squeeze(1)
        best = nms(boxes[kept], scores[kept], self.config.detection_nms_iou)
        kept = kept[best[: self.config.detections_per_image]]
        mask_boxes = scale_boxes(boxes[kept], self.config.mask_head.margin)
        image = torch.full((len(kept),), number, device=boxes.device)
        masks = self._mask_logits(features, crops, mask_boxes, image).sigmoid()
        return Detections(
            boxes[kept], scores[kept], p_lung[kept], embeddings[kept], attributes[kept],
            mask_boxes, masks,
        )  # fmt: skip

    def _classify(
        self,
        features: list[Tensor],
        crops: Float[Tensor, "b k z y x"],
        boxes: Float[Tensor, "n 6"],
        image: Int[Tensor, " n"],
    ) -> tuple[Float[Tensor, "n classes"], Float[Tensor, "n 6"], Float[Tensor, "n d"]]:
        head = self.config.box_head
        regions = scale_boxes(boxes, head.context)
        level = assign_levels(regions, head.pool_size, self.strides)
        pooled = roi_align_levels(
            features, self.strides, regions, image, level, head.pool_size, head.sampling_ratio
        )
        detail = None
        if self.box_head.detail is not None:
            detail = roi_align(crops, regions, image, 2 * head.pool_size)
        result: tuple[Tensor, Tensor, Tensor] = self.box_head(pooled, detail)
        return result

    def _mask_logits(
        self,
        features: list[Tensor],
        crops: Float[Tensor, "b k z y x"],
        mask_boxes: Float[Tensor, "n 6"],
        image: Int[Tensor, " n"],
    ) -> Float[Tensor, "n m m m"]:
        size = self.config.mask_head.size
        level = assign_levels(mask_boxes, size // 2, self.strides)
        pooled = roi_align_levels(features, self.strides, mask_boxes, image, level, size // 2)
        logits: Tensor = self.mask_head(pooled, roi_align(crops, mask_boxes, image, size))
        return logits

    def _sample(
        self, proposals: list[Proposals], targets: list[Targets]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Choose the RoIs that train.

        Returns:
            Boxes ``(n, 6)``, labels ``(n,)``, true boxes ``(n, 6)`` (zeros for background),
            image ``(n,)`` and lesion within the image ``(n,)`` (-1 for background).
        """
        head = self.config.box_head
        boxes, labels, gt_boxes, lesions = [], [], [], []
        for proposal, target in zip(proposals, targets, strict=True):
            generator = target.generator(REGIONS)
            noisy = _jitter(target.boxes, head.jittered_truth, generator)
            candidates = torch.cat([proposal.boxes, target.boxes, noisy])
            matches = match_by_iou(
                candidates, target.boxes, head.positive_iou, head.negative_iou, force_best=False
            )
            matches = ignore_inside(matches, candidates, target.ignore_boxes)
            # Proposals come hardest first, and true boxes cannot be negatives.
            hardness = -torch.arange(len(candidates), device=candidates.device).float()
            positive, negative = sample(
                matches, hardness, head.rois_per_image, head.positive_fraction, 2, generator
            )
            chosen = torch.cat([positive, negative])
            lesion = matches[chosen].clamp(min=-1)
            boxes.append(candidates[chosen])
            lesions.append(lesion)
            found = lesion >= 0
            label = torch.full_like(lesion, BACKGROUND)
            label[found] = target.labels[lesion[found]]
            labels.append(label)
            truth = torch.zeros_like(boxes[-1])
            truth[found] = target.boxes[lesion[found]]
            gt_boxes.append(truth)
        return (
            torch.cat(boxes), torch.cat(labels), torch.cat(gt_boxes),
            _image_index(boxes), torch.cat(lesions),
        )  # fmt: skip

    def _mask_losses(
        self,
        features: list[Tensor],
        crops: Float[Tensor, "b k z y x"],
        boxes: Float[Tensor, "p 6"],
        image: Int[Tensor, " p"],
        lesion: Int[Tensor, " p"],
        targets: list[Targets],
    ) -> dict[str, PartialLoss]:
        """Cross-entropy and Dice of the masks of positives whose lesion has one."""
        kept, wanted = [], []
        for i, target in enumerate(targets):
            rows = torch.nonzero(image == i).squeeze(1)
            rows = rows[target.has_mask[lesion[rows]]]
            shuffled = torch.randperm(len(rows), generator=target.generator(MASKS))
            rows = rows[shuffled[: self.config.mask_head.rois_per_image].to(rows.device)]
            kept.append(rows)
            regions = scale_boxes(boxes[rows], self.config.mask_head.margin)
            ids = target.instance_ids[lesion[rows]]
            size = self.config.mask_head.size
            wanted.append(crop_instances(target.instances, ids, regions, size))
        rows, truth = torch.cat(kept), torch.cat(wanted)
        regions = scale_boxes(boxes[rows], self.config.mask_head.margin)
        logits = self._mask_logits(features, crops, regions, image[rows])
        return mask_losses(logits, truth)


def class_loss(logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> PartialLoss:
    """Cross-entropy; a lesion of unknown primary trains ``-log(p_lung + p_other)``.

    No RoI gives 0, not NaN.
    """
    log_p = logits.log_softmax(dim=1)
    unknown = labels == METASTASIS
    known = log_p.gather(1, labels.masked_fill(unknown, BACKGROUND)[:, None]).squeeze(1)
    chosen = torch.where(unknown, log_p[:, 1:].logsumexp(dim=1), known)
    return partial_mean(-chosen.sum(), len(labels))


def attribute_loss(logits: Float[Tensor, "n a"], noted: Int[Tensor, "n a"]) -> PartialLoss:
    """Binary cross-entropy over the attributes that somebody noted; 0 where nobody did."""
    known = noted != UNKNOWN
    losses = F.binary_cross_entropy_with_logits(
        logits, noted.clamp(min=0).float(), reduction="none"
    )
    return partial_mean((losses * known).sum(), known.sum())


def mask_losses(
    logits: Float[Tensor, "n m m m"], truth: Float[Tensor, "n m m m"]
) -> dict[str, PartialLoss]:
    """Cross-entropy, and one minus the soft Dice, of each mask, averaged; no mask gives 0.

    ``truth`` may be fractions.
    """
    sums = entropy_and_overlap(logits.flatten(1), truth.flatten(1))
    _, entropy, overlap, predicted = sums.unbind(dim=1)
    lesion = truth.sum(dim=(1, 2, 3))
    dice = (2 * overlap + 1) / (predicted + lesion + 1)
    voxels = math.prod(truth.shape[1:])
    return {
        "mask": partial_mean(entropy.sum() / voxels, len(dice)),
        "mask_dice": partial_mean((1 - dice).sum(), len(dice)),
    }


def assign_levels(
    regions: Float[Tensor, "n 6"], cells: int, strides: list[int]
) -> Int[Tensor, " n"]:
    """Give each region the level on which one of its ``cells`` bins is closest to one cell."""
    side = (regions[:, 3:] - regions[:, :3]).clamp(min=1e-3).log2().mean(dim=1)
    per_bin = side - torch.tensor(float(cells)).log2()
    exponents = torch.tensor(strides, device=regions.device).log2()
    return (per_bin[:, None] - exponents).abs().argmin(dim=1)


def _jitter(
    boxes: Float[Tensor, "n 6"], copies: int, generator: torch.Generator
) -> Float[Tensor, "more 6"]:
    """Return ``copies`` noisy versions of each box: moved by a tenth, scaled by a fifth."""
    boxes = boxes.repeat_interleave(copies, dim=0)
    noise = torch.randn(2, len(boxes), 3, generator=generator).to(boxes)
    size = boxes[:, 3:] - boxes[:, :3]
    center = (boxes[:, 3:] + boxes[:, :3]) / 2 + 0.1 * size * noise[0]
    half = size / 2 * (0.2 * noise[1]).exp()
    return torch.cat([center - half, center + half], dim=1)


def _noted(
    targets: list[Targets], image: Int[Tensor, " p"], lesion: Int[Tensor, " p"]
) -> Int[Tensor, "p a"]:
    """Return the attributes of the lesion of each positive."""
    first = torch.tensor([0, *(len(t.boxes) for t in targets)], device=image.device).cumsum(0)
    return torch.cat([t.attributes for t in targets])[first[image] + lesion]


def _image_index(boxes: list[Float[Tensor, "_ 6"]]) -> Int[Tensor, " n"]:
    return torch.cat(
        [torch.full((len(b),), i, device=b.device, dtype=torch.long) for i, b in enumerate(boxes)]
    )
