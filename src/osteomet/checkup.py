"""What was measured and found in a cohort: frozen, without torch, to and from JSON.

This is the border of ``osteomet doctor``: measuring and checking fill it, the page and other
programs read it. Lengths are in mm along z, y and x of the axes closest to S, P and L.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

import numpy as np
from jaxtyping import Int16
from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Severity(StrEnum):
    """How much a finding matters: an error makes the cohort unfit for training."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Finding(_Frozen):
    """One thing that is wrong, doubtful or worth knowing.

    Attributes:
        check: name of the check, such as ``touching lesions``; findings are grouped by it.
        scans: which scans; empty where it concerns the whole cohort.
        found: what, where, and what was expected.
        advice: what to do.
        lesion: label of the lesion concerned; None where it is not about one.
    """

    check: str
    severity: Severity
    scans: tuple[str, ...]
    found: str
    advice: str
    lesion: int | None = None


class LesionMeasures(_Frozen):
    """One lesion's mask.

    Attributes:
        label: its value in the label map.
        diameter_mm: of the sphere of the same volume.
        shortest_side_vox: of its tight box.
        parts: pieces that do not touch by a face, an edge or a corner.
        largest_part_share: share of the voxels in the largest piece.
        touches: labels of the lesions it touches by a face, an edge or a corner.
        mean_hu: of its voxels.
        body_share: share of its voxels inside the body.
        bone_share: share of its voxels in or beside bone; see ``data/body.py``.
        at_border: it reaches the border of the scan.
    """

    label: int
    voxels: Annotated[int, Field(ge=1)]
    volume_ml: float
    diameter_mm: float
    shortest_side_vox: int
    parts: int
    largest_part_share: Share
    touches: tuple[int, ...]
    mean_hu: float
    body_share: Share
    bone_share: Share
    at_border: bool


class HUMeasures(_Frozen):
    """What the histogram of a scan says.

    Attributes:
        low: smallest value.
        high: largest value.
        step_hu: mean distance of the values that occur in fat and muscle: 1 for most scans.
        at_high_share: share of the voxels at the largest value.
        air_hu: commonest value of air around the patient; None where too little is seen.
        fat_hu: peak of fat; None where there is none.
        soft_tissue_hu: peak of muscle and organs; None where there is none.
        noise_hu: commonest standard deviation in small squares of soft tissue; None without.
        noise_grain: correlation of the noise of neighbouring voxels; tells kernels apart.
    """

    low: float
    high: float
    step_hu: float
    at_high_share: Share
    air_hu: float | None
    fat_hu: float | None
    soft_tissue_hu: float | None
    noise_hu: float | None
    noise_grain: float | None


class BodyMeasures(_Frozen):
    """What of the patient is in view, as far as HU and shape tell.

    Attributes:
        region: a guess in words: chest, trunk, legs, ...
        body_ml: volume inside the skin.
        lung_share: share of the body that is lung.
        bone_ml: volume of what is as dense as bone.
        air_at_sides: share of the scan's side faces that lie outside the body; 0 in a cut-out.
    """

    region: str
    body_ml: float
    lung_share: Share
    bone_ml: float
    air_at_sides: Share


class ScanMeasures(_Frozen):
    """One scan, measured.

    Attributes:
        orientation: where the scan's own axes x, y and z point, such as ``LPS``.
        tilt_deg: largest angle between an axis of the grid and the patient's.
        slice_thickness_mm: as stated by DICOM; None in other formats.
        digest: of the voxels in HU; equal for equal images, whatever file holds them.
        mask_digest: of the label map; None where there is no lesion with a mask.
        study_uid: DICOM StudyInstanceUID; None in other formats.
        annotation: ``mask``, ``boxes``, ``mask and boxes`` or ``none``.
        boxes_mm: longest side of each lesion that is only boxed.
        boxes_outside: how many boxes have their centre outside the scan.
        warnings: what reading the scan warned of.
    """

    format: str
    shape_zyx: tuple[int, int, int]
    spacing_zyx_mm: tuple[float, float, float]
    orientation: str
    tilt_deg: float
    slice_thickness_mm: float | None
    manufacturer: str | None
    kernel: str | None
    study_uid: str | None
    digest: str
    mask_digest: str | None
    hu: HUMeasures
    body: BodyMeasures
    annotation: str
    lesions: tuple[LesionMeasures, ...]
    boxes_mm: tuple[float, ...]
    boxes_outside: int
    warnings: tuple[str, ...]

    @property
    def length_mm(self) -> float:
        """How much of the patient is in view along z."""
        return self.shape_zyx[0] * self.spacing_zyx_mm[0]

    @property
    def width_mm(self) -> float:
        """How much is in view along x."""
        return self.shape_zyx[2] * self.spacing_zyx_mm[2]


class ScanRecord(_Frozen):
    """One row of the cohort, and what was measured.

    Attributes:
        measures: None where the image cannot be read.
        image_fault: why it cannot.
        annotation_fault: why mask or boxes cannot be read; lesions are then not measured.
    """

    scan_id: str
    patient_id: str
    centre: str
    primary: str
    split: str | None = None
    age: float | None = None
    sex: str | None = None
    measures: ScanMeasures | None = None
    image_fault: str | None = None
    annotation_fault: str | None = None


class Guess(_Frozen):
    """How far one thing that is no lesion predicts the primary, across patients.

    Attributes:
        factor: what it is: ``centre``, ``slice distance``, ...
        kind: ``acquisition``, ``view`` or ``patient``.
        patients: with this factor and a known primary.
        lung: how many of them have lung cancer.
        auc: cross-validated; None where there are too few patients, or the factor is constant.
        chance: central 95 % of the AUC when primaries are shuffled among patients.
        p_value: share of shuffles that reach ``auc``.
        note: why there is no figure; empty where there is one.
    """

    factor: str
    kind: str
    patients: int
    lung: int
    auc: float | None = None
    chance: tuple[float, float] | None = None
    p_value: float | None = None
    note: str = ""


class Checkup(_Frozen):
    """Everything that ``osteomet doctor`` says of a cohort; ``doctor.json`` is this."""

    schema_version: int = 1
    cohort: str
    osteomet_version: str
    scans: tuple[ScanRecord, ...]
    findings: tuple[Finding, ...]
    guesses: tuple[Guess, ...]

    @property
    def is_fit(self) -> bool:
        """Whether nothing was found that must be put right before training."""
        return not any(one.severity is Severity.ERROR for one in self.findings)

    @property
    def verdict(self) -> str:
        """Whether the cohort may be trained on, in a sentence."""
        errors, warnings = self.count(Severity.ERROR), self.count(Severity.WARNING)
        doubts = f"{warnings} warning{'' if warnings == 1 else 's'}"
        if errors:
            must = "1 error" if errors == 1 else f"{errors} errors"
            return f"Not fit for training: {must} must be put right first; {doubts} to look at."
        if warnings:
            return f"Fit for training, with {doubts} to look at first."
        return "Fit for training: nothing was found that speaks against it."

    def count(self, severity: Severity) -> int:
        """Return how many findings are this serious."""
        return sum(one.severity is severity for one in self.findings)


@dataclass(frozen=True, eq=False)
class View:
    """A plane or projection the way it is looked at, with or without lesions.

    Attributes:
        values: HU.
        labels: instance labels of the same pixels; None in a projection.
        spacing_mm: along rows and columns.
    """

    values: Int16[np.ndarray, "rows columns"]
    labels: Int16[np.ndarray, "rows columns"] | None
    spacing_mm: tuple[float, float]


@dataclass(frozen=True, eq=False)
class ScanViews:
    """Pictures of one scan, taken while it is read.

    Attributes:
        front: coronal maximum intensity projection; None where the image cannot be read.
        lesions: an axial cut through each lesion, by label; the largest lesions only.
        thumbnail: ``(n,)`` HU on a coarse grid over the whole scan, to find the same image
            again after resampling or conversion; None where the image cannot be read.
    """

    front: View | None = None
    lesions: dict[int, View] = field(default_factory=dict)
    thumbnail: Int16[np.ndarray, " n"] | None = None
