"""All settings, typed and checked: read from TOML, kept in the checkpoint.

Sections follow the data flow. Unknown keys are refused with the nearest known name.
"""

import copy
import difflib
import hashlib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from osteomet.errors import ConfigError

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


class PreprocessConfig(Section):
    """From the scan's HU to what the network sees."""

    spacing_mm: Positive = 1.0
    """Isotropic voxel size of the model's grid; the paper's 1 mm."""
    window_hu: tuple[float, float] = (-300.0, 1300.0)
    """HU outside are clipped; fat to dense cortex."""
    mean_hu: float = 0.0
    """Mean of clipped HU over the training scans; measured when training starts."""
    std_hu: Positive = 300.0
    """Standard deviation beside ``mean_hu``."""

    @model_validator(mode="after")
    def _ordered(self) -> "PreprocessConfig":
        if self.window_hu[0] >= self.window_hu[1]:
            raise ValueError(f"window_hu must rise, got {self.window_hu}")
        return self


PUBLISHED_STAGES = 4

BACKBONES = (
    *(f"resnet{layers}" for layers in (18, 34, 50, 101)),
    *(f"convnext_{size}" for size in ("atto", "femto", "pico", "nano")),
    *(f"convnext_{size}" for size in ("tiny", "small", "base", "large", "xlarge")),
    *(f"convnextv2_{size}" for size in ("atto", "femto", "pico", "nano")),
    *(f"convnextv2_{size}" for size in ("tiny", "base", "large", "huge")),
    *(f"yolov8{size}" for size in "nsmlx"),
)
"""Names that ``model.backbone.name`` may have; ``models/backbones`` builds each."""

Normalisation = Literal["auto", "batch", "group", "instance"]

SMALLEST_NORMALISED_BATCH = 8
"""Below, statistics over a batch are too rough to normalise by."""


class BackboneConfig(Section):
    """Which network makes feature levels."""

    name: str = "convnextv2_femto"
    """Of one of five families, docs/architectures.md: resnet50, convnext_base, yolov8m..."""
    normalisation: Normalisation = "auto"
    """Of ResNet and YOLOv8; ``auto``: group below a training.batch_size of 8, else batch."""
    stem_stride: Literal[2, 4] = 4
    """Voxels per cell of the finest level; 2 adds level 1 for small lesions, 8 times dearer."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Stochastic depth of the last block; earlier blocks drop linearly less."""
    depths: tuple[Count, ...] | None = None
    """Blocks per stage; None takes the published size."""
    dims: tuple[Count, ...] | None = None
    """Channels per stage; None takes the published size."""

    @field_validator("name")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in BACKBONES:
            near = difflib.get_close_matches(name, BACKBONES, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"no backbone {name!r}: {hint}known: {', '.join(BACKBONES)}")
        return name

    @model_validator(mode="after")
    def _has_branches_to_drop(self) -> "BackboneConfig":
        if self.drop_path > 0 and self.name.startswith("yolov8"):
            raise ValueError(
                f"drop_path is {self.drop_path:g}, but {self.name} has no stochastic depth; "
                "expected 0"
            )
        return self

    @model_validator(mode="after")
    def _as_many_depths_as_dims(self) -> "BackboneConfig":
        depths = PUBLISHED_STAGES if self.depths is None else len(self.depths)
        dims = PUBLISHED_STAGES if self.dims is None else len(self.dims)
        if depths != dims or dims == 0:
            raise ValueError(f"depths are of {depths} stages and dims of {dims}; expected as many")
        return self


class NeckConfig(Section):
    """Feature pyramid over the chosen levels."""

    levels: tuple[int, ...] = (2, 3, 4)
    """Level numbers used for anchors and RoIs; level n has stride 2**n voxels."""
    channels: Count = 48
    convolution: Literal["separable", "dense"] = "separable"
    """Of pyramid and RPN: depthwise 7x7x7 and pointwise, or the textbook's ``dense`` 3x3x3."""

    @model_validator(mode="after")
    def _rising(self) -> "NeckConfig":
        if not self.levels or self.levels != tuple(sorted(set(self.levels))):
            raise ValueError(f"levels must rise, got {self.levels}")
        return self


class AnchorConfig(Section):
    """Reference boxes in mm, so that another spacing keeps its lesions."""

    sizes_mm: tuple[tuple[Positive, ...], ...] = ((8.0, 12.0), (17.0, 24.0), (34.0, 48.0))
    """Edge of the cube, one tuple per level."""
    ratios: tuple[Positive, ...] = (1.0,)
    """dz : dxy at constant volume."""

    @model_validator(mode="after")
    def _as_many_on_each_level(self) -> "AnchorConfig":
        counts = {len(sizes) for sizes in self.sizes_mm}
        if len(counts) != 1 or 0 in counts or not self.ratios:
            raise ValueError(
                f"every level needs as many sizes, and some ratio; got sizes_mm {self.sizes_mm} "
                f"and ratios {self.ratios}"
            )
        return self


def _check_thresholds(positive_iou: float, negative_iou: float) -> None:
    if negative_iou > positive_iou:
        raise ValueError(f"negative_iou {negative_iou} exceeds positive_iou {positive_iou}")


class RPNConfig(Section):
    """Region proposal network."""

    matcher: Literal["atss", "iou"] = "atss"
    atss_candidates: Count = 9
    """Nearest anchors per level and lesion that ATSS considers, times anchors per cell."""
    atss_ignored_share: Fraction = 0.5
    """Anchors that are not positive but reach this share of a lesion's best IoU are ignored."""
    positive_iou: Fraction = 0.5
    negative_iou: Fraction = 0.3
    force_best: bool = True
    """Each lesion's best anchor is positive, whatever its IoU (the paper's 0.95 needs it)."""
    anchors_per_image: Count = 96
    positive_fraction: Fraction = 0.33
    hard_negative_pool: Count = 20
    """Negatives are drawn from the ``pool * needed`` highest scored; 1 is the hardest only."""
    pre_nms_per_level: Count = 400
    proposals_train: Count = 128
    proposals_test: Count = 96
    nms_iou: Fraction = 0.5
    min_size_mm: NotNegative = 2.0

    @model_validator(mode="after")
    def _thresholds_ordered(self) -> "RPNConfig":
        _check_thresholds(self.positive_iou, self.negative_iou)
        return self


class BoxHeadConfig(Section):
    """Class and box of each proposal."""

    pool_size: Count = 7
    sampling_ratio: Count = 1
    hidden: Count = 256
    embedding: Count = 32
    """Width of the lesion embedding that the second stage reads."""
    positive_iou: Fraction = 0.35
    negative_iou: Fraction = 0.25
    rois_per_image: Count = 32
    positive_fraction: Fraction = 0.33
    jittered_truth: int = Field(default=4, ge=0)
    """Noisy copies of each true box added to the proposals in training."""
    context: Positive = 1.3
    """Pooled region over box, per axis: the surroundings tell the class."""
    detail: bool = True
    """The head also sees image and dense segmentation, at twice the pooled resolution."""

    @model_validator(mode="after")
    def _thresholds_ordered(self) -> "BoxHeadConfig":
        _check_thresholds(self.positive_iou, self.negative_iou)
        return self


class MaskHeadConfig(Section):
    """Voxels of each detected lesion."""

    size: Count = 24
    """Cells a side of the mask; even."""
    channels: Count = 24
    convolutions: Count = 2
    margin: Positive = 1.2
    """Mask region over box, per axis: a box a little too small does not cut its lesion."""
    image_crop: bool = True
    """The head also sees the image at the mask's resolution."""
    rois_per_image: Count = 4

    @model_validator(mode="after")
    def _even(self) -> "MaskHeadConfig":
        if self.size % 2:
            raise ValueError(f"mask size must be even, got {self.size}")
        return self


class LossConfig(Section):
    """Weights of the terms; the paper's are 1, 1, 1."""

    rpn_objectness: NotNegative = 1.0
    rpn_box: NotNegative = 1.0
    classes: NotNegative = 1.0
    box: NotNegative = 1.0
    mask: NotNegative = 1.0
    mask_dice: NotNegative = 1.0
    """Soft Dice beside the mask's cross-entropy; 0 is the paper's."""
    segmentation: NotNegative = 1.0
    """Auxiliary dense segmentation at the image's resolution (Retina U-Net); 0 turns it off."""
    attributes: NotNegative = 0.5
    """What each lesion looks like, where the cohort's ``lesions`` file tells; 0 turns it off."""


class ModelConfig(Section):
    backbone: BackboneConfig = BackboneConfig()
    neck: NeckConfig = NeckConfig()
    anchors: AnchorConfig = AnchorConfig()
    rpn: RPNConfig = RPNConfig()
    box_head: BoxHeadConfig = BoxHeadConfig()
    mask_head: MaskHeadConfig = MaskHeadConfig()
    losses: LossConfig = LossConfig()
    detection_nms_iou: Fraction = 0.2
    """Class-agnostic: one lesion is reported once."""
    detections_per_image: Count = 40
    min_score: Fraction = 0.03

    @model_validator(mode="after")
    def _one_anchor_tuple_per_level(self) -> "ModelConfig":
        if len(self.anchors.sizes_mm) != len(self.neck.levels):
            raise ValueError(
                f"anchors.sizes_mm has {len(self.anchors.sizes_mm)} tuples for "
                f"{len(self.neck.levels)} neck.levels; expected one per level"
            )
        return self

    @model_validator(mode="after")
    def _levels_begin_with_the_stem(self) -> "ModelConfig":
        finest = self.backbone.stem_stride.bit_length() - 1
        if self.neck.levels[0] < finest:
            raise ValueError(
                f"neck.levels begin with {self.neck.levels[0]}, but backbone.stem_stride "
                f"{self.backbone.stem_stride} makes level {finest} the finest"
            )
        return self


class AugmentConfig(Section):
    """Random changes of a training patch; image and instances move in one resampling."""

    flip: bool = True
    """Along each axis with probability one half."""
    rotate_degrees: float = Field(default=15.0, ge=0, le=180)
    scale: tuple[Positive, Positive] = (0.8, 1.2)
    translate_mm: float = Field(default=8.0, ge=0)
    spatial_probability: Fraction = 0.3
    """Share of patches that are rotated and scaled; the others are only flipped and moved."""
    noise_hu: float = Field(default=25.0, ge=0)
    """Largest standard deviation of added noise."""
    contrast: tuple[Positive, Positive] = (0.85, 1.15)
    shift_hu: float = Field(default=30.0, ge=0)
    blur_mm: float = Field(default=1.0, ge=0)
    """Largest sigma of a Gaussian blur."""
    gamma: tuple[Positive, Positive] = (0.9, 1.1)
    """Power of the place in the HU window, whose ends stay; drawn on a logarithmic scale."""
    thick_slices_mm: Positive = 4.0
    """Thickest slices simulated."""
    thick_slices_probability: Fraction = 0.15
    """Share of patches that look as if they came from thick slices."""
    intensity_probability: Fraction = 0.5
    """Chance of each intensity change."""


class DataConfig(Section):
    """Which patches the network is trained on."""

    patch_size: tuple[Count, Count, Count] = (64, 64, 64)
    lesion_fraction: Fraction = 0.7
    """Share of patches centred near a lesion; the rest are background."""
    hard_background_fraction: Fraction = 0.5
    """Share of background patches at a false positive of an earlier model, where its predictions
    are given (``osteomet train --hard-places``); the others fall anywhere with bone."""
    min_visible_fraction: Fraction = 0.3
    """A lesion cut by the border trains if at least this share of it is inside; less is ignored."""
    val_patches: Count = 32
    """Fixed, seeded validation patches."""
    workers: int = Field(default=1, ge=0)
    """Threads that prepare patches; any number gives the same patches."""


class TrainingConfig(Section):
    seed: int = 0
    batch_size: Count = 4
    max_steps: Count = 4000
    epochs: Count | None = None
    """Length of the run in epochs, each ending in a validation; ``max_steps`` and
    ``validate_every`` then say nothing. None counts in steps."""
    patches_per_scan: Count = 10
    """What an epoch is: so many patches for each training scan."""
    budget_minutes: Positive | None = None
    """Wall-clock budget: 30 steps are timed, then the total is fixed and saved."""
    learning_rate: Positive = 1.5e-3
    reference_fan_in: int = Field(default=128, ge=0)
    """Fan-in of a layer that learns at ``learning_rate``; others inversely; 0: all alike."""
    weight_decay: float = Field(default=0.05, ge=0)
    warmup_steps: int = Field(default=100, ge=0)
    schedule: Literal["cosine", "step", "exponential"] = "cosine"
    step_at: Fraction = 0.8
    """Share of the steps after which ``step`` multiplies the rate by 0.1 (paper: 40 of 50)."""
    final_rate: Fraction = 0.02
    """Last over first learning rate of ``cosine`` and ``exponential``."""
    gradient_clip: Positive = 5.0
    ema_decay: Fraction = 0.998
    roi_warmup_steps: int = Field(default=200, ge=0)
    """Steps over which the RoI losses rise to their weight, while the RPN learns first."""
    validate_every: Count = 250
    checkpoint_every: Count = 250
    monitor: Literal["loss", "sensitivity"] = "loss"
    """Of the validation patches: by what the best weights are kept and ``patience`` counts; the
    loss, or the sensitivity at 1 false positive a patch, and the loss where that is equal."""
    patience: int = Field(default=0, ge=0)
    """Validations without a better one after which training stops; 0 never stops early."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """``auto``: bf16 where the accelerator has it, float32 on a CPU."""

    @model_validator(mode="after")
    def _one_length(self) -> "TrainingConfig":
        if self.epochs is not None and self.budget_minutes is not None:
            raise ValueError(
                f"epochs is {self.epochs} and budget_minutes {self.budget_minutes:g}; expected "
                "one of them: leave the other out"
            )
        return self


class PretrainingConfig(Section):
    """How a backbone learns from scans without labels: by guessing hidden cubes."""

    mask_ratio: float = Field(default=0.6, gt=0, lt=1)
    """Share of the cubes that are hidden; a cube is a cell of the coarsest level."""
    normalise_targets: bool = True
    """Each cube is predicted less its mean and over its deviation: texture, not brightness."""
    decoder_channels: Count = 256
    """Width of the decoder's one block; it is not kept."""
    held_out: Fraction = 0.1
    """Share of the scans that only measure; at least one, unless there is only one or it is 0."""


class InferenceConfig(Section):
    tile_size: tuple[Count, Count, Count] = (160, 160, 160)
    overlap_vox: int = Field(default=32, ge=0)
    bone_dilation_mm: Positive = 20.0
    merge: Literal["wbc", "nms"] = "wbc"
    merge_iou: Fraction = 0.2
    candidate_score: Fraction = 0.05
    max_candidates: Count = 100
    operating_threshold: Fraction = 0.5
    """Chosen on validation scans and kept in the weights."""
    mask_threshold: Fraction = 0.5


class Config(Section):
    preprocess: PreprocessConfig = PreprocessConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    pretraining: PretrainingConfig = PretrainingConfig()
    inference: InferenceConfig = InferenceConfig()

    @model_validator(mode="after")
    def _levels_fit_the_patch(self) -> "Config":
        for level in self.model.neck.levels:
            cells = min(self.data.patch_size) // 2**level
            if cells < 3:
                raise ValueError(
                    f"level {level} has {cells} cells a side in a patch of {self.data.patch_size}; "
                    "expected at least 3: leave the level out or enlarge data.patch_size"
                )
        return self

    def sha256(self) -> str:
        """Return a digest that changes with any setting."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def resolved(self) -> "Config":
        """Return the settings with ``auto`` replaced where other settings decide about it."""
        if self.model.backbone.normalisation != "auto":
            return self
        large = self.training.batch_size >= SMALLEST_NORMALISED_BATCH
        return self.updated({"model.backbone.normalisation": "batch" if large else "group"})

    def updated(self, assignments: dict[str, Any]) -> "Config":
        """Return a configuration with ``{"section.key": value}`` replaced.

        Raises:
            ConfigError: a key is unknown or a value out of range.
        """
        content = self.model_dump()
        for name, value in assignments.items():
            *sections, key = name.split(".")
            place = content
            for section in sections:
                if not isinstance(place.get(section), dict):
                    raise ConfigError(_unknown(section, list(place), name))
                place = place[section]
            if key not in place:
                raise ConfigError(_unknown(key, list(place), name))
            place[key] = value
        return parse_config(content, "the given settings")


def parse_config(content: dict[str, Any], where: str) -> Config:
    """Check plain values, as TOML or JSON give them.

    Raises:
        ConfigError: names the setting, what was found and, for an unknown key, the nearest name.
    """
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        path = [str(part) for part in first["loc"]]
        place = f"{'.'.join(path)}: " if path else ""
        if first["type"] == "extra_forbidden":
            section: Any = Config()
            for part in path[:-1]:
                section = getattr(section, part)
            known = list(type(section).model_fields)
            message = _unknown(path[-1], known, ".".join(path))
        elif first["type"] == "value_error":  # our own words, which say what was found
            message = place + first["msg"].removeprefix("Value error, ")
        else:
            message = f"{place}{first['msg']}, got {first['input']!r:.80}"
        raise ConfigError(f"{where}: {message}") from error


ADDED_SETTINGS: dict[str, Any] = {
    "model.losses.attributes": 0.0,
}
"""Settings added since weights are kept in files, with the value that acts as if they were not
there: older weights mean this one, whatever the default has become."""


def parse_kept_config(content: dict[str, Any], where: str) -> Config:
    """Check the configuration that a file of any age keeps.

    Raises:
        ConfigError: as ``parse_config``.
    """
    content = copy.deepcopy(content)
    for name, value in ADDED_SETTINGS.items():
        *sections, key = name.split(".")
        place = content
        for section in sections:
            place = place.setdefault(section, {})
        place.setdefault(key, value)
    return parse_config(content, where)


def load_config(path: Path) -> Config:
    """Read a TOML file.

    Raises:
        ConfigError: the file is missing, not TOML, or holds a wrong setting.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    return parse_config(content, str(path))


def parse_assignment(text: str) -> tuple[str, Any]:
    """Read ``section.key=value`` of the command line; the value is written as in TOML.

    Raises:
        ConfigError: there is no ``=``.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set {text}: expected section.key=value")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value.strip()


def _unknown(key: str, known: list[str], full: str) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return f"unknown setting {full!r}: {hint}"
