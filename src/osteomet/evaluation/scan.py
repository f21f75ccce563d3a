"""One predicted scan against its truth, reduced to a few numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Integer
from scipy import ndimage

from osteomet.errors import AnnotationError
from osteomet.evaluation.detection import ScanMatches, instance_boxes, match_candidates
from osteomet.evaluation.segmentation import Overlap, lesion_dice, scan_overlap, union_of_masks
from osteomet.findings import Candidate, Findings, PrimaryTumour


@dataclass(frozen=True, eq=False)
class EvaluationCase:
    """One scan: what was found in it and what is there.

    Attributes:
        instances: true lesions as a label map on the scan's own grid; 0 is background.
        primary: the patient's, UNKNOWN where it is.
        ignore: voxels neither rewarded nor punished, on the same grid.
    """

    scan_id: str
    patient_id: str
    findings: Findings
    instances: Integer[np.ndarray, "z y x"]
    primary: PrimaryTumour
    ignore: Bool[np.ndarray, "z y x"] | None = None


@dataclass(frozen=True, eq=False)
class ScanResult:
    """What is kept of a scan.

    Attributes:
        candidates: matches of all candidates, for FROC.
        reported: matches of the reported lesions, those above the operating threshold.
        dice: ``(lesions,)`` of each true lesion with the reported one that hit it; 0 for a miss.
        overlap: voxels of all reported lesions against all true ones.
    """

    scan_id: str
    patient_id: str
    candidates: ScanMatches
    reported: ScanMatches
    dice: np.ndarray
    overlap: Overlap
    primary: PrimaryTumour
    p_lung: float | None
    operating_threshold: float

    @property
    def hit(self) -> Bool[np.ndarray, " lesions"]:
        """Which true lesions were reported."""
        hit = np.zeros(self.reported.lesions, dtype=bool)
        hit[self.reported.lesion[self.reported.hits]] = True
        return hit


def score_scan(case: EvaluationCase) -> ScanResult:
    """Match one scan's candidates and lesions with the truth.

    Raises:
        AnnotationError: the label map does not fit the scan.
    """
    findings = case.findings
    for grid in (case.instances, case.ignore):
        if grid is not None and grid.shape != findings.series.shape_zyx:
            raise AnnotationError(
                f"{case.scan_id}: the label map has {grid.shape} voxels (z, y, x), the scan "
                f"{findings.series.shape_zyx}; expected the scan's own grid"
            )
    ids, boxes = instance_boxes(case.instances)
    ignore = case.ignore
    ignored = None if ignore is None else instance_boxes(_components(ignore))[1]
    reported = [findings.candidates[lesion.candidate] for lesion in findings.lesions]
    matches = _match(reported, boxes, ignored)
    dice = np.zeros(len(ids))
    for place, lesion in zip(matches.candidate, matches.lesion, strict=True):
        if lesion >= 0:
            dice[lesion] = lesion_dice(
                reported[place].mask, case.instances, int(ids[lesion]), boxes[lesion], ignore
            )
    union = union_of_masks([one.mask for one in reported], findings.series.shape_zyx)
    voxel_ml = float(np.prod(findings.series.spacing_zyx_mm)) / 1000
    return ScanResult(
        case.scan_id,
        case.patient_id,
        _match(findings.candidates, boxes, ignored),
        matches,
        dice,
        scan_overlap(union, case.instances, voxel_ml, ignore),
        case.primary,
        findings.primary.p_lung,
        findings.provenance.operating_threshold,
    )


def _match(
    candidates: Sequence[Candidate], boxes: np.ndarray, ignored: np.ndarray | None
) -> ScanMatches:
    return match_candidates(
        np.array([one.box_vox for one in candidates], dtype=np.float64).reshape(-1, 6),
        np.array([one.score for one in candidates], dtype=np.float64),
        boxes,
        ignored,
    )


def _components(mask: Bool[np.ndarray, "z y x"]) -> Integer[np.ndarray, "z y x"]:
    labelled: Integer[np.ndarray, "z y x"] = ndimage.label(mask, structure=np.ones((3, 3, 3)))[0]
    return labelled
