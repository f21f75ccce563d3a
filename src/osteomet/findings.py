"""What osteomet found in one scan: frozen, without torch, to and from JSON.

This is the border of the program: inference fills it, reports and services read it.
Boxes and masks lie on the scan's own voxel grid, as it was read.
"""

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Bool
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from osteomet.errors import InputError

SCHEMA_VERSION: Literal[1] = 1

NotNegative = Annotated[int, Field(ge=0)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
BoxVox = tuple[float, float, float, float, float, float]


class PrimaryTumour(StrEnum):
    """Where a patient's bone metastases come from, as far as this program asks."""

    LUNG = "lung"
    OTHER = "other"
    UNKNOWN = "unknown"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RunLengthMask(_Frozen):
    """A binary mask inside its own bounding box on the scan's grid.

    Attributes:
        offset_zyx: index of the box's first voxel in the scan.
        shape_zyx: voxels of the box along z, y and x.
        counts: lengths of alternating runs of 0 and 1 in C order, starting with 0s.
    """

    offset_zyx: tuple[NotNegative, NotNegative, NotNegative]
    shape_zyx: tuple[NotNegative, NotNegative, NotNegative]
    counts: tuple[NotNegative, ...]

    @model_validator(mode="after")
    def _runs_fill_the_box(self) -> "RunLengthMask":
        if sum(self.counts) != math.prod(self.shape_zyx):
            raise ValueError(
                f"runs of {sum(self.counts)} voxels in a box of shape {self.shape_zyx}"
            )
        return self

    @classmethod
    def encode(
        cls, mask: Bool[np.ndarray, "z y x"], offset_zyx: tuple[int, int, int]
    ) -> "RunLengthMask":
        """Encode a mask whose voxel ``[0, 0, 0]`` is voxel ``offset_zyx`` of the scan."""
        flat = np.concatenate(
            [[False], mask.ravel(), [not mask.ravel()[-1] if mask.size else True]]
        )
        edges = np.flatnonzero(flat[1:] != flat[:-1])
        counts = np.diff(np.concatenate([[0], edges]))
        z, y, x = mask.shape
        return cls(offset_zyx=offset_zyx, shape_zyx=(z, y, x), counts=tuple(counts.tolist()))

    def decode(self) -> Bool[np.ndarray, "z y x"]:
        """Return the mask, ``shape_zyx``."""
        values = np.arange(len(self.counts)) % 2 == 1
        return np.repeat(values, self.counts).reshape(self.shape_zyx)


class HUStatistics(_Frozen):
    """Hounsfield units inside a lesion's mask."""

    mean: float
    std: float
    p5: float
    median: float
    p95: float


class Candidate(_Frozen):
    """A detection above the low score at which candidates are kept.

    Attributes:
        box_vox: ``(z1, y1, x1, z2, y2, x2)`` in voxel edges of the scan's grid.
        score: probability that this is a metastasis.
        p_lung: probability that its primary is lung cancer, given that it is a metastasis.
        mask: its voxels; None where the mask is empty.
    """

    box_vox: BoxVox
    score: Probability
    p_lung: Probability
    mask: RunLengthMask | None


class LesionAttributes(_Frozen):
    """What a lesion looks like.

    Attributes:
        lytic: probability that it loses bone; a mixed lesion is lytic and sclerotic.
        sclerotic: probability that it forms bone.
        expansile: probability that it blows the bone up.
        cortical: probability that it sits in the cortex.
    """

    lytic: Probability
    sclerotic: Probability
    expansile: Probability
    cortical: Probability


class Lesion(_Frozen):
    """A candidate above the operating threshold, measured.

    Attributes:
        id: stable name within the scan, ``L1`` for the highest score.
        label: its value in ``lesions.nii.gz``.
        candidate: its place in ``Findings.candidates``.
        box_vox: ``(z1, y1, x1, z2, y2, x2)`` in voxel edges of the scan's grid.
        box_lps_mm: extent ``(x1, y1, z1, x2, y2, z2)`` in LPS mm.
        centroid_lps_mm: centre of mass of the mask, ``(x, y, z)``.
        volume_ml: volume of the mask.
        longest_diameter_mm: largest distance between two surface voxels of the mask.
        hu: Hounsfield units inside the mask.
        attributes: what it looks like; None where the weights were not trained to tell.
    """

    id: str
    label: Annotated[int, Field(ge=1)]
    candidate: Annotated[int, Field(ge=0)]
    score: Probability
    p_lung: Probability
    box_vox: BoxVox
    box_lps_mm: tuple[float, float, float, float, float, float]
    centroid_lps_mm: tuple[float, float, float]
    volume_ml: float
    longest_diameter_mm: float
    hu: HUStatistics
    attributes: LesionAttributes | None = None


class PrimaryPrediction(_Frozen):
    """The patient's primary tumour.

    Attributes:
        p_lung: probability that it is lung cancer; None without a lesion.
        interval: bounds of the ensemble's central 90 %; None without a lesion.
        aggregation: how lesions became one probability, in words.
        training_prior_lung: share of lung patients where the aggregation was trained.
        prior_lung: the share that ``p_lung`` assumes, where another one was given.
    """

    p_lung: Probability | None
    interval: tuple[Probability, Probability] | None = None
    aggregation: str
    training_prior_lung: Probability | None = None
    prior_lung: Probability | None = None

    @property
    def assumed_prior_lung(self) -> float | None:
        """The share of lung patients that ``p_lung`` assumes; None where it is not known."""
        return self.training_prior_lung if self.prior_lung is None else self.prior_lung


class SeriesInfo(_Frozen):
    """Where the scan came from; no patient's name, no birth date.

    Attributes:
        source: name of the file or folder, without its path.
        format: ``dicom``, ``nifti``, ``nrrd`` or ``metaimage``.
        shape_zyx: voxels of the scan's grid.
        affine_lps: 4 x 4 rows; maps centre index ``(k, j, i, 1)`` to LPS mm.
        series_uid: DICOM SeriesInstanceUID; None for other formats.
        study_uid: DICOM StudyInstanceUID; None for other formats.
        frame_of_reference_uid: DICOM FrameOfReferenceUID; None for other formats.
        description: series description; None where there is none.
        slice_thickness_mm: DICOM SliceThickness, which may differ from the slices' distance.
        chosen_because: why this series was taken among several; None where it was the only one.
    """

    source: str
    format: str
    shape_zyx: tuple[int, int, int]
    spacing_zyx_mm: tuple[float, float, float]
    affine_lps: tuple[tuple[float, float, float, float], ...]
    series_uid: str | None = None
    study_uid: str | None = None
    frame_of_reference_uid: str | None = None
    description: str | None = None
    kernel: str | None = None
    manufacturer: str | None = None
    slice_thickness_mm: float | None = None
    chosen_because: str | None = None


class Provenance(_Frozen):
    """What made these findings, so that they can be made again.

    Attributes:
        inputs_sha256: stands for all that a scan of a cohort depends on: weights, settings, and
            the files of the patient's scans; None outside a cohort. A run that is started again
            keeps the results that have it.
    """

    osteomet_version: str
    torch_version: str
    weights: str
    weights_sha256: str
    config_sha256: str
    device: str
    started_utc: str
    seconds: dict[str, float]
    peak_memory_mb: float
    operating_threshold: Probability
    inputs_sha256: str | None = None


class Findings(_Frozen):
    """Everything found in one scan; ``findings.json`` is this, and nothing else."""

    schema_version: Literal[1] = SCHEMA_VERSION
    scan_id: str
    patient_id: str | None = None
    research_use_only: str = "Research software. Not a medical device. Not for diagnosis."
    series: SeriesInfo
    candidates: tuple[Candidate, ...]
    lesions: tuple[Lesion, ...]
    primary: PrimaryPrediction
    warnings: tuple[str, ...] = ()
    provenance: Provenance

    @model_validator(mode="after")
    def _lesions_are_candidates(self) -> "Findings":
        for lesion in self.lesions:
            if lesion.candidate >= len(self.candidates):
                raise ValueError(
                    f"lesion {lesion.id} is candidate {lesion.candidate} of {len(self.candidates)}"
                )
        return self

    def to_json(self) -> str:
        """Return this as indented JSON."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str, where: str = "findings") -> "Findings":
        """Read what ``to_json`` wrote.

        Raises:
            InputError: the text is not findings of this schema; the first fault is named.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "the document"
            raise InputError(
                f"{where}: {place}: {first['msg']}; expected a findings.json of schema "
                f"{SCHEMA_VERSION}: run osteomet predict again"
            ) from error

    @classmethod
    def read(cls, path: Path) -> "Findings":
        """Read a ``findings.json``.

        Raises:
            InputError: the file is missing or not findings of this schema.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: is not text in UTF-8; expected a findings.json") from error
        return cls.from_json(text, str(path))
