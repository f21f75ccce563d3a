"""The auxiliary dense segmentation: lesion or not, at the image's own resolution.

Source: Jaeger et al., "Retina U-Net", arXiv:1811.08661: dense supervision makes a detector
learn from every voxel of few lesions. Here each cell of the finest level predicts all of
its voxels from its channels, which costs one matrix product instead of a decoder. The mask
head reads the result.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from osteomet.config import ModelConfig
from osteomet.models.layers import PointwiseConv3d, initialise
from osteomet.models.processes import PartialLoss
from osteomet.ops.binary_losses import entropy_and_overlap
from osteomet.ops.space_to_depth import depth_to_space, join_channels
from osteomet.structures import Targets

LESION_WEIGHT = 0.1
"""Cross-entropy of the lesions' voxels, as a mean of its own, beside that of all others."""


class SegmentationBranch(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.stride = 2 ** config.neck.levels[0]
        self.image_crop = config.mask_head.image_crop
        self.logits: PointwiseConv3d | None = None
        if config.losses.segmentation > 0:
            self.logits = PointwiseConv3d(config.neck.channels, self.stride**3)
            initialise(self)
            nn.init.normal_(self.logits.weight, std=0.05)
            nn.init.constant_(self.logits.bias, -3.0)

    def forward(
        self,
        finest: Float[Tensor, "b c z_cells y_cells x_cells"],
        images: Float[Tensor, "b 1 z y x"],
        targets: list[Targets] | None,
    ) -> tuple[Float[Tensor, "b k z y x"], dict[str, PartialLoss]]:
        """Return what the mask head crops, and the loss where there are targets.

        Returns:
            Image and segmentation logits as ``k`` channels, each only if the configuration
            has it (``k`` may be 0); the loss under ``segmentation``.
        """
        crops = [images] if self.image_crop else [images[:, :0]]
        losses = {}
        if self.logits is not None:
            logits = depth_to_space(self.logits(finest), self.stride)
            crops.append(logits.detach().to(images.dtype))
            if targets is not None:
                losses["segmentation"] = segmentation_loss(logits.squeeze(1).float(), targets)
        return join_channels(crops), losses


def segmentation_loss(logits: Float[Tensor, "b z y x"], targets: list[Targets]) -> PartialLoss:
    """Cross-entropy plus soft Dice over the batch.

    Voxels inside a box whose lesion has no mask, or inside an ignored region, do not count.
    Without a lesion voxel in the batch the Dice term is 0.
    """
    truth = torch.empty_like(logits)
    for voxels, target in zip(truth, targets, strict=True):
        torch.gt(target.instances, 0, out=voxels)
    lesion = truth.sum()
    _ignore(truth, targets)
    sums = entropy_and_overlap(logits.flatten(1), truth.flatten(1)).sum(dim=0)
    counts = torch.stack([lesion, truth.numel() - lesion])
    return PartialLoss(torch.cat([sums, counts]), _segmentation_loss)


def _segmentation_loss(sums: Float[Tensor, "6"]) -> Float[Tensor, ""]:
    inside, everywhere, overlap, predicted, lesion, background = sums
    # A mean over all voxels hardly feels the lesions, a thousandth of them: it would stand
    # still until the Dice term moves.
    outside = (everywhere - inside) / background.clamp(min=1)
    dice = 2 * overlap / (predicted + lesion).clamp(min=1)
    entropy = LESION_WEIGHT * inside / lesion.clamp(min=1) + outside
    return torch.where(lesion > 0, entropy + 1 - dice, entropy)


def _ignore(truth: Float[Tensor, "b z y x"], targets: list[Targets]) -> None:
    """Set to -1 what does not count."""
    for i, target in enumerate(targets):
        for box in torch.cat([target.boxes[~target.has_mask], target.ignore_boxes]).tolist():
            z1, y1, x1 = (max(0, int(low)) for low in box[:3])
            z2, y2, x2 = (int(-(-high // 1)) for high in box[3:])
            truth[i, z1:z2, y1:y2, x1:x2] = -1
