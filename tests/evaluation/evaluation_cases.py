"""Small scans whose figures can be computed by hand."""

import numpy as np

from osteomet.evaluation.scan import EvaluationCase
from osteomet.findings import (
    Candidate,
    Findings,
    HUStatistics,
    Lesion,
    PrimaryPrediction,
    PrimaryTumour,
    Provenance,
    RunLengthMask,
    SeriesInfo,
)

SHAPE = (20, 20, 40)
THRESHOLD = 0.5
Cuboid = tuple[int, int, int, int, int, int]


def candidate(box: Cuboid, score: float, *, mask: bool = True) -> Candidate:
    """A candidate whose mask fills its box."""
    z1, y1, x1, z2, y2, x2 = box
    filled = RunLengthMask.encode(np.ones((z2 - z1, y2 - y1, x2 - x1), bool), (z1, y1, x1))
    return Candidate(
        box_vox=tuple(float(edge) for edge in box),
        score=score,
        p_lung=0.5,
        mask=filled if mask else None,
    )


def findings(candidates: list[Candidate], p_lung: float | None, threshold: float) -> Findings:
    lesions = [
        Lesion(
            id=f"L{place + 1}",
            label=place + 1,
            candidate=place,
            score=one.score,
            p_lung=one.p_lung,
            box_vox=one.box_vox,
            box_lps_mm=(0, 0, 0, 1, 1, 1),
            centroid_lps_mm=(0, 0, 0),
            volume_ml=1,
            longest_diameter_mm=1,
            hu=HUStatistics(mean=0, std=0, p5=0, median=0, p95=0),
        )
        for place, one in enumerate(candidates)
        if one.score >= threshold
    ]
    return Findings(
        scan_id="scan",
        series=SeriesInfo(
            source="scan.nii.gz",
            format="nifti",
            shape_zyx=SHAPE,
            spacing_zyx_mm=(2.0, 1.0, 1.0),
            affine_lps=((0, 0, 1, 0), (0, 1, 0, 0), (2, 0, 0, 0), (0, 0, 0, 1)),
        ),
        candidates=tuple(candidates),
        lesions=tuple(lesions),
        primary=PrimaryPrediction(p_lung=p_lung, aggregation="mean"),
        provenance=Provenance(
            osteomet_version="0",
            torch_version="0",
            weights="w",
            weights_sha256="0",
            config_sha256="0",
            device="cpu",
            started_utc="2026-01-01T00:00:00Z",
            seconds={},
            peak_memory_mb=1,
            operating_threshold=threshold,
        ),
    )


def case(
    name: str,
    truth: list[Cuboid],
    candidates: list[Candidate],
    primary: PrimaryTumour,
    p_lung: float | None,
    *,
    patient: str | None = None,
    threshold: float = THRESHOLD,
) -> EvaluationCase:
    instances = np.zeros(SHAPE, np.int16)
    for place, (z1, y1, x1, z2, y2, x2) in enumerate(truth, start=1):
        instances[z1:z2, y1:y2, x1:x2] = place
    return EvaluationCase(
        name, patient or name, findings(candidates, p_lung, threshold), instances, primary
    )
