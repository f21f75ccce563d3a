"""The 3D Mask R-CNN, one line for each box of the paper's Figure 3."""

from jaxtyping import Float
from torch import Tensor, nn

from osteomet.config import ModelConfig
from osteomet.models.backbones import build_backbone
from osteomet.models.fpn import FeaturePyramid
from osteomet.models.processes import losses_over_processes
from osteomet.models.roi_heads import RoIHeads
from osteomet.models.rpn import RegionProposalNetwork
from osteomet.models.segmentation import SegmentationBranch
from osteomet.structures import Detections, Targets

Images = Float[Tensor, "batch 1 z y x"]


class MaskRCNN(nn.Module):
    """Backbone, feature pyramid, region proposals, RoI heads.

    Args:
        config: the model's section of the configuration.
        spacing_mm: voxel size of the images, which turns anchors in mm into voxels.
    """

    def __init__(self, config: ModelConfig, spacing_mm: float) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone, max(config.neck.levels))
        self.neck = FeaturePyramid(config.neck, self.backbone.channels)
        self.rpn = RegionProposalNetwork(config, spacing_mm)
        self.roi_heads = RoIHeads(config)
        self.segmentation = SegmentationBranch(config)
        self.multiple_of = 2 ** max(config.neck.levels)

    def forward(
        self, images: Images, targets: list[Targets] | None = None
    ) -> tuple[list[Detections], dict[str, Tensor]]:
        """Find lesions and, given targets, measure the losses.

        Args:
            images: normalised CT; sides are multiples of ``multiple_of``.
            targets: what is true in each image; required in training.

        Returns:
            Detections of each image (none in training mode), and the weighted losses, whose
            sum is to be minimised (none without targets).
        """
        self._check(images, targets)
        features = self.neck(self.backbone(images))
        proposals, losses = self.rpn(features, images.shape[2:], targets)
        crops, segmentation_losses = self.segmentation(features[0], images, targets)
        losses |= segmentation_losses
        if targets is not None:
            losses |= self.roi_heads.losses(features, crops, proposals, targets)
        detections = [] if self.training else self.roi_heads.detect(features, crops, proposals)
        return detections, self._weighted(losses_over_processes(losses))

    def _weighted(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        weights = self.config.losses.model_dump()
        return {name: loss * weights[name] for name, loss in losses.items() if weights[name] > 0}

    def _check(self, images: Images, targets: list[Targets] | None) -> None:
        if any(side % self.multiple_of for side in images.shape[2:]):
            raise ValueError(
                f"images of {tuple(images.shape[2:])} voxels; expected multiples of "
                f"{self.multiple_of} on each side"
            )
        if targets is None and self.training:
            raise ValueError("training needs targets; call eval() to detect without them")
        if targets is not None and len(targets) != len(images):
            raise ValueError(f"{len(targets)} targets for {len(images)} images")


def count_parameters(model: nn.Module) -> int:
    """Return the number of trained numbers."""
    return sum(parameter.numel() for parameter in model.parameters())
