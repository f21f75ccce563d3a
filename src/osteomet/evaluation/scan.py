"""One predicted scan against its truth, reduced to a few numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int, Integer
from scipy import ndimage

from osteomet.box_arrays import instance_boxes
from osteomet.errors import AnnotationError, InputError
from osteomet.evaluation.detection import (
    HIT_IOU,
    ScanMatches,
    match_candidates,
)
from osteomet.evaluation.overlap_crops import Crop, pair_crop, scan_crops
from osteomet.evaluation.panoptic import PanopticCounts, mask_ious, match_masks
from osteomet.evaluation.segmentation import Overlap, dice
from osteomet.evaluation.surface import TOLERANCE_MM, SurfaceCounts, compare_surfaces
from osteomet.findings import Candidate, Findings, LesionAttributes, PrimaryTumour

LOOKS = tuple(LesionAttributes.model_fields)
"""What findings tell of how a lesion looks."""

STRICT_IOU = 0.5
"""Box IoU of the stricter average precision; the other is ``detection.HIT_IOU``."""


@dataclass(frozen=True, eq=False)
class EvaluationCase:
    """One scan: what was found in it and what is there.

    Attributes:
        instances: true lesions as a label map on the scan's own grid; 0 is background.
        primary: the patient's, UNKNOWN where it is.
        ignore: voxels neither rewarded nor punished, on the same grid.
        noted: by label, for each of ``LOOKS`` 1 or 0, or less where nobody noted it.
    """

    scan_id: str
    patient_id: str
    findings: Findings
    instances: Integer[np.ndarray, "z y x"]
    primary: PrimaryTumour
    ignore: Bool[np.ndarray, "z y x"] | None = None
    noted: Mapping[int, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ScanResult:
    """What is kept of a scan.

    Attributes:
        candidates: matches of all candidates, for FROC.
        strict: the same at a box IoU of ``STRICT_IOU``.
        reported: matches of the reported lesions, those above the operating threshold.
        dice: ``(lesions,)`` of each true lesion with the reported one that hit it; 0 for a miss.
        surface_agreement: ``(lesions,)`` normalised surface distance, likewise.
        diameters_mm: ``(lesions,)`` of a sphere of each true lesion's volume.
        told: ``(lesions, looks)`` probabilities of what each true lesion looks like; NaN for a
            miss, or where the findings do not tell.
        noted: ``(lesions, looks)`` what it does look like: 1 or 0, or -1 where nobody noted it.
        overlap: voxels of all reported lesions against all true ones.
        surfaces: surface voxels of all reported lesions and all true ones.
        panoptic: matches of masks.
        assumed_prior_lung: share of lung cancer that ``p_lung`` assumes, as the findings say.
    """

    scan_id: str
    patient_id: str
    candidates: ScanMatches
    strict: ScanMatches
    reported: ScanMatches
    dice: Float[np.ndarray, " lesions"]
    surface_agreement: Float[np.ndarray, " lesions"]
    diameters_mm: Float[np.ndarray, " lesions"]
    told: Float[np.ndarray, "lesions looks"]
    noted: Int[np.ndarray, "lesions looks"]
    overlap: Overlap
    surfaces: SurfaceCounts
    panoptic: PanopticCounts
    primary: PrimaryTumour
    p_lung: float | None
    assumed_prior_lung: float | None
    operating_threshold: float

    @property
    def hit(self) -> Bool[np.ndarray, " lesions"]:
        """Which true lesions were reported."""
        hit = np.zeros(self.reported.lesions, dtype=bool)
        hit[self.reported.lesion[self.reported.hits]] = True
        return hit


@dataclass(frozen=True, eq=False)
class _Truth:
    """The lesions of a case.

    Attributes:
        ids: values in the label map, rising.
        boxes: voxel edges of each.
        volumes_vox: voxels of each.
    """

    case: EvaluationCase
    ids: Int[np.ndarray, " lesions"]
    boxes: Float[np.ndarray, "lesions 6"]
    volumes_vox: Int[np.ndarray, " lesions"]

    @property
    def spacing_zyx_mm(self) -> tuple[float, float, float]:
        return self.case.findings.series.spacing_zyx_mm

    @property
    def voxel_ml(self) -> float:
        return math.prod(self.spacing_zyx_mm) / 1000


def score_scan(case: EvaluationCase, *, tolerance_mm: float = TOLERANCE_MM) -> ScanResult:
    """Match one scan's candidates and lesions with the truth.

    Args:
        case: the scan.
        tolerance_mm: within which two surfaces agree.

    Raises:
        AnnotationError: the label map does not fit the scan.
        InputError: a predicted mask does not.
    """
    _check_grid(case)
    findings = case.findings
    truth = _truth(case)
    ignored = None if case.ignore is None else instance_boxes(_components(case.ignore))[1]
    reported = [findings.candidates[lesion.candidate] for lesion in findings.lesions]
    matches = _match(reported, truth.boxes, ignored)
    dices, agreements = _shapes(truth, reported, matches, tolerance_mm)
    overlap, surfaces = _scan_overlap(truth, reported, tolerance_mm)
    # What lies in an ignore region is no false positive, here either.
    kept = [reported[place].mask for place in sorted(matches.candidate.tolist())]
    iou = mask_ious(kept, case.instances, truth.ids, truth.volumes_vox, case.ignore)
    volumes_mm3 = truth.volumes_vox * truth.voxel_ml * 1000
    return ScanResult(
        scan_id=case.scan_id,
        patient_id=case.patient_id,
        candidates=_match(findings.candidates, truth.boxes, ignored),
        strict=_match(findings.candidates, truth.boxes, ignored, STRICT_IOU),
        reported=matches,
        dice=dices,
        surface_agreement=agreements,
        diameters_mm=np.cbrt(6 / np.pi * volumes_mm3),
        told=_told(findings, matches),
        noted=_noted(case, truth.ids),
        overlap=overlap,
        surfaces=surfaces,
        panoptic=match_masks(iou),
        primary=case.primary,
        p_lung=findings.primary.p_lung,
        assumed_prior_lung=findings.primary.assumed_prior_lung,
        operating_threshold=findings.provenance.operating_threshold,
    )


def _check_grid(case: EvaluationCase) -> None:
    expected = case.findings.series.shape_zyx
    for grid in (case.instances, case.ignore):
        if grid is not None and grid.shape != expected:
            raise AnnotationError(
                f"{case.scan_id}: the label map has {grid.shape} voxels (z, y, x), the scan "
                f"{expected}; expected the scan's own grid"
            )
    for place, candidate in enumerate(case.findings.candidates):
        mask = candidate.mask
        if mask is not None and (np.add(mask.offset_zyx, mask.shape_zyx) > expected).any():
            raise InputError(
                f"{case.scan_id}: the mask of candidate {place} reaches beyond the scan's "
                f"{expected} voxels (z, y, x); expected findings of this scan: predict it again"
            )


def _truth(case: EvaluationCase) -> _Truth:
    ids, boxes = instance_boxes(case.instances)
    volumes = [
        np.count_nonzero(case.instances[z1:z2, y1:y2, x1:x2] == value)
        for value, (z1, y1, x1, z2, y2, x2) in zip(
            ids.tolist(), boxes.astype(int).tolist(), strict=True
        )
    ]
    return _Truth(case, ids, boxes, np.array(volumes, dtype=np.int64))


def _shapes(
    truth: _Truth, reported: Sequence[Candidate], matches: ScanMatches, tolerance_mm: float
) -> tuple[Float[np.ndarray, " lesions"], Float[np.ndarray, " lesions"]]:
    """Return Dice and surface agreement of each lesion; 0 for a miss or an empty mask."""
    dices, agreements = np.zeros(len(truth.ids)), np.zeros(len(truth.ids))
    for place, lesion in zip(matches.candidate.tolist(), matches.lesion.tolist(), strict=True):
        mask = reported[place].mask
        if lesion < 0 or mask is None:
            continue
        crop = pair_crop(
            mask,
            truth.case.instances,
            int(truth.ids[lesion]),
            truth.boxes[lesion],
            truth.case.ignore,
        )
        dices[lesion] = dice(crop.predicted, crop.true)
        agreements[lesion] = _surfaces(truth, crop, tolerance_mm).agreement
    return dices, agreements


def _told(findings: Findings, matches: ScanMatches) -> Float[np.ndarray, "lesions looks"]:
    told = np.full((matches.lesions, len(LOOKS)), np.nan)
    for place, lesion in zip(matches.candidate.tolist(), matches.lesion.tolist(), strict=True):
        said = findings.lesions[place].attributes
        if lesion >= 0 and said is not None:
            told[lesion] = [getattr(said, name) for name in LOOKS]
    return told


def _noted(
    case: EvaluationCase, ids: Int[np.ndarray, " lesions"]
) -> Int[np.ndarray, "lesions looks"]:
    unknown = (-1,) * len(LOOKS)
    rows = [tuple(case.noted.get(label, unknown)) for label in ids.tolist()]
    return np.maximum(np.array(rows, dtype=np.int64).reshape(-1, len(LOOKS)), -1)


def _scan_overlap(
    truth: _Truth, reported: Sequence[Candidate], tolerance_mm: float
) -> tuple[Overlap, SurfaceCounts]:
    case = truth.case
    z, y, x = (math.ceil(tolerance_mm / side) for side in truth.spacing_zyx_mm)
    masks = [one.mask for one in reported]
    shared = predicted = 0
    surfaces = SurfaceCounts()
    for crop in scan_crops(masks, case.instances, truth.boxes, (z, y, x), case.ignore):
        shared += int(np.count_nonzero(crop.predicted & crop.true))
        predicted += int(np.count_nonzero(crop.predicted))
        surfaces += _surfaces(truth, crop, tolerance_mm)
    voxels = case.instances.size
    if case.ignore is not None:
        voxels -= int(np.count_nonzero(case.ignore & (case.instances == 0)))
    counts = (shared, predicted, int(truth.volumes_vox.sum()), voxels)
    return Overlap(*(count * truth.voxel_ml for count in counts)), surfaces


def _surfaces(truth: _Truth, crop: Crop, tolerance_mm: float) -> SurfaceCounts:
    return compare_surfaces(crop.predicted, crop.true, truth.spacing_zyx_mm, tolerance_mm)


def _match(
    candidates: Sequence[Candidate],
    boxes: Float[np.ndarray, "n 6"],
    ignored: Float[np.ndarray, "k 6"] | None,
    iou_threshold: float = HIT_IOU,
) -> ScanMatches:
    found = np.array([one.box_vox for one in candidates], dtype=np.float64).reshape(-1, 6)
    scores = np.array([one.score for one in candidates], dtype=np.float64)
    return match_candidates(found, scores, boxes, ignored, iou_threshold)


def _components(mask: Bool[np.ndarray, "z y x"]) -> Integer[np.ndarray, "z y x"]:
    labelled: Integer[np.ndarray, "z y x"] = ndimage.label(mask, structure=np.ones((3, 3, 3)))[0]
    return labelled
