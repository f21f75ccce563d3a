"""What `ablation.py` trains: the default, each group turned back to the paper, and the paper.

Which settings differ is read from configs/default.toml and configs/paper.toml; a difference that
no group has is an error, so that none is forgotten.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osteomet.config import Config, load_config

CONFIGS = Path(__file__).parents[1] / "configs"

SMALL: dict[str, Any] = {
    "preprocess.spacing_mm": 1.5,
    "data.patch_size": [48, 48, 48],
    "data.val_patches": 48,
    "data.workers": 0,
    "training.warmup_steps": 20,
    "training.roi_warmup_steps": 30,
    "training.ema_decay": 0.98,
    # All candidates are reported: so short a training leaves scores low, and no threshold is chosen
    "model.min_score": 0.02,
    "inference.candidate_score": 0.02,
    "inference.operating_threshold": 0.02,
}
"""What all variants share so that each trains in minutes on one core."""

DEPARTURES: dict[str, tuple[str, ...]] = {
    "matching of anchors": ("model.rpn.matcher", "model.rpn.positive_iou"),
    "anchors": ("model.anchors.sizes_mm", "model.anchors.ratios"),
    "sampling and NMS of the RPN": (
        "model.rpn.positive_fraction", "model.rpn.hard_negative_pool", "model.rpn.nms_iou",
        "model.rpn.min_size_mm",
    ),
    "convolutions of pyramid and RPN": ("model.neck.convolution",),
    "RoIs that train": (
        "model.box_head.positive_iou", "model.box_head.negative_iou",
        "model.box_head.positive_fraction", "model.box_head.jittered_truth",
    ),
    "what the box head sees": (
        "model.box_head.context", "model.box_head.detail", "model.box_head.sampling_ratio",
    ),
    "mask head": (
        "model.mask_head.convolutions", "model.mask_head.margin", "model.mask_head.image_crop",
    ),
    "dense segmentation": ("model.losses.segmentation",),
    "Dice loss of masks": ("model.losses.mask_dice",),
    "loss of attributes": ("model.losses.attributes",),
    "HU window": ("preprocess.window_hu",),
    "augmentation": (
        "augment.translate_mm", "augment.spatial_probability", "augment.thick_slices_probability",
        "augment.intensity_probability",
    ),
    "learning rate": ("training.learning_rate", "training.reference_fan_in"),
    "warm-up, schedule, clipping": (
        "training.warmup_steps", "training.roi_warmup_steps", "training.schedule",
        "training.gradient_clip",
    ),
    "averaged weights": ("training.ema_decay",),
    "batch of 8": ("training.batch_size",),
    "merging of detections": (
        "inference.merge", "inference.merge_iou", "model.detection_nms_iou",
    ),
}  # fmt: skip
"""Settings that are turned back together, since one makes no sense without the other."""

NOT_TRAINED = "merging of detections"
"""Of the weights of the default, predicted once more."""

OPTIMISER = ("learning rate", "warm-up, schedule, clipping", "averaged weights", "batch of 8")

PAPER = ("paper, scaled", "paper, scaled, but the optimiser")

SCALED = {
    "size of the network": (
        "model.backbone.name", "model.neck.levels", "model.neck.channels", "model.box_head.hidden",
        "model.mask_head.size", "model.mask_head.channels",
    ),
    "number of anchors, proposals, RoIs and detections": (
        "model.rpn.anchors_per_image", "model.rpn.pre_nms_per_level", "model.rpn.proposals_train",
        "model.rpn.proposals_test", "model.box_head.rois_per_image",
        "model.mask_head.rois_per_image", "model.detections_per_image",
    ),
    "size of patches and tiles, length of the run": (
        "data.patch_size", "inference.tile_size", "inference.overlap_vox", "training.epochs",
        "training.patience",
    ),
    "settings without effect here": ("data.hard_background_fraction", "model.min_score"),
}  # fmt: skip
"""Differences that are not measured: all variants have the small size."""

PAPER_ANCHORS = [[4.0, 8.0], [16.0, 32.0], [32.0, 64.0]]
"""The paper's five scales on three levels, each of which needs as many: one comes twice."""


@dataclass(frozen=True)
class Variant:
    """One training.

    Attributes:
        name: in the table, and of its folder.
        changed: settings that differ from the default's, and their values.
    """

    name: str
    changed: Mapping[str, Any]

    def config(self, steps: int) -> Config:
        """Return all settings; a larger batch takes fewer steps, so that patches are as many."""
        default = load_config(CONFIGS / "default.toml").updated(SMALL).updated(dict(self.changed))
        patches = steps * Config().training.batch_size
        length = max(1, patches // default.training.batch_size)
        whole = dict.fromkeys(("max_steps", "validate_every"), length)
        whole["checkpoint_every"] = max(1, length // 4)
        return default.updated({f"training.{name}": value for name, value in whole.items()})


def variants() -> list[Variant]:
    """Return the default, each group turned back, and the paper's preset.

    Raises:
        SystemExit: the two files differ in a setting that belongs to no group.
    """
    ours, papers = (flat(load_config(CONFIGS / f"{name}.toml")) for name in ("default", "paper"))
    papers["model.anchors.sizes_mm"] = PAPER_ANCHORS
    grouped = {name for group in (*DEPARTURES.values(), *SCALED.values()) for name in group}
    unknown = [name for name in ours if ours[name] != papers[name] and name not in grouped]
    if unknown:
        raise SystemExit(
            f"default.toml and paper.toml also differ in {', '.join(unknown)}; expected every "
            "difference in DEPARTURES or SCALED of this script"
        )
    turned = {
        group: {name: papers[name] for name in names if papers[name] != ours[name]}
        for group, names in DEPARTURES.items()
    }
    whole = {name: value for changed in turned.values() for name, value in changed.items()}
    kept = {name for group in OPTIMISER for name in DEPARTURES[group]}
    faster = {name: value for name, value in whole.items() if name not in kept}
    return [
        Variant("default", {}),
        *(Variant(f"default, seed {seed}", {"training.seed": seed}) for seed in (1, 2)),
        *(Variant(group, changed) for group, changed in turned.items() if changed),
        *(Variant(name, changed) for name, changed in zip(PAPER, (whole, faster), strict=True)),
    ]


def flat(config: Config) -> dict[str, Any]:
    """Return every setting by its full name, in plain values."""

    def walk(content: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in content.items():
            inner = walk(value, f"{prefix}{key}.") if isinstance(value, dict) else None
            found |= {prefix + key: value} if inner is None else inner
        return found

    return walk(config.model_dump(mode="json"), "")
