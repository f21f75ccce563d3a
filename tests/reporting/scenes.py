"""Small scans with lesions, in any orientation, and what would be found in them."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from osteomet.findings import (
    Candidate,
    Findings,
    HUStatistics,
    Lesion,
    PrimaryPrediction,
    Provenance,
    RunLengthMask,
    SeriesInfo,
)
from osteomet.label_map import LabelMap
from osteomet.volume import Volume

Orientation = tuple[tuple[int, int, int], tuple[bool, bool, bool]]
ORIENTATIONS: list[Orientation] = [
    (order, flips)
    for order in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]


@dataclass(frozen=True)
class Scene:
    findings: Findings
    volume: Volume
    labels: np.ndarray

    @property
    def label_map(self) -> LabelMap:
        return LabelMap.of(self.volume.with_voxels(self.labels))


def reoriented(volume: Volume, orientation: Orientation) -> Volume:
    """Store the same scan with its axes in another order and direction."""
    order, flips = orientation
    voxels = volume.voxels.transpose(order)
    affine = volume.affine.copy()
    affine[:3, :3] = volume.affine[:3, list(order)]
    for axis in np.flatnonzero(flips):
        affine[:3, 3] += affine[:3, axis] * (voxels.shape[axis] - 1)
        affine[:3, axis] *= -1
        voxels = np.flip(voxels, axis)
    return Volume(voxels, affine)


def lesion(volume: Volume, labels: np.ndarray, label: int) -> tuple[Candidate, Lesion]:
    """Measure one instance, plainly."""
    where = np.argwhere(labels == label)
    low, high = where.min(axis=0), where.max(axis=0) + 1
    box = (*low.astype(float).tolist(), *high.astype(float).tolist())
    region = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    hu = volume.voxels[labels == label]
    score = 0.95 - 0.01 * label
    mask = RunLengthMask.encode(labels[region] == label, tuple(low.tolist()))
    measured = Lesion(
        id=f"L{label}",
        label=label,
        candidate=label - 1,
        score=score,
        p_lung=0.25,
        box_vox=box,
        box_lps_mm=tuple(volume.boxes_to_world(np.array([box]))[0].tolist()),
        centroid_lps_mm=tuple(volume.index_to_world(where.astype(float)).mean(axis=0).tolist()),
        volume_ml=len(where) * volume.voxel_ml,
        longest_diameter_mm=12.5,
        hu=HUStatistics(mean=float(hu.mean()), std=1.5, p5=-7.0, median=3.0, p95=11.0),
    )
    return Candidate(box_vox=box, score=score, p_lung=0.25, mask=mask), measured


def findings_of(
    volume: Volume,
    labels: np.ndarray,
    *,
    p_lung: float | None = 0.72,
    interval: tuple[float, float] | None = (0.6, 0.83),
    warnings: Sequence[str] = (),
    weaker: int = 2,
) -> Findings:
    """Report every instance, and candidates below the threshold."""
    found = [lesion(volume, labels, label) for label in range(1, int(labels.max()) + 1)]
    weak = [
        Candidate(box_vox=(1, 2, 3, 4, 6, 8), score=0.3, p_lung=0.5, mask=None)
        for _ in range(weaker)
    ]
    return Findings(
        scan_id="scan-7",
        patient_id="P-12",
        series=SeriesInfo(
            source="scan.nii.gz",
            format="nifti",
            shape_zyx=volume.shape,
            spacing_zyx_mm=volume.spacing_zyx_mm,
            affine_lps=tuple(tuple(row) for row in volume.affine.tolist()),
        ),
        candidates=tuple([candidate for candidate, _ in found] + weak),
        lesions=tuple(measured for _, measured in found),
        primary=PrimaryPrediction(
            p_lung=p_lung if found else None,
            interval=interval if found else None,
            aggregation="Mean over lesions",
            training_prior_lung=0.4,
        ),
        warnings=tuple(warnings),
        provenance=Provenance(
            osteomet_version="0.1.0",
            torch_version="2.13.0",
            weights="default",
            weights_sha256="ab" * 32,
            config_sha256="cd" * 32,
            device="cpu",
            started_utc="2026-01-01T10:00:00Z",
            seconds={"read": 1.25, "detect": 20.0},
            peak_memory_mb=900.0,
            operating_threshold=0.5,
        ),
    )


def phantom(spacing_zyx_mm: tuple[float, float, float] = (3.0, 1.0, 1.5)) -> Volume:
    """A box of soft tissue with a bone off its centre in every direction.

    The bone lies to the Right, Anterior and Superior of the middle.
    """
    shape = tuple(round(90 / spacing) for spacing in spacing_zyx_mm)
    voxels = np.full(shape, 40, np.int16)
    z, y, x = ((np.arange(n) + 0.5) * s for n, s in zip(shape, spacing_zyx_mm, strict=True))
    bone = [(z > 54) & (z < 78), (y > 18) & (y < 36), (x > 12) & (x < 36)]
    voxels[np.ix_(*bone)] = 1000
    return Volume.from_spacing(voxels, spacing_zyx_mm, (-45.0, 20.0, -300.0))


def scene(orientation: Orientation = ORIENTATIONS[0], lesions: int = 2, **options: object) -> Scene:
    """A phantom with cubes as lesions, the first inside its bone."""
    volume = phantom()
    labels = np.zeros(volume.shape, np.int16)
    if lesions:
        labels[20:24, 22:32, 12:20] = 1
    for label in range(2, lesions + 1):
        row, column = divmod(label - 2, 9)
        labels[3:6, 4 + 8 * column : 10 + 8 * column, 3 + 6 * row : 6 + 6 * row] = label
    stored = reoriented(volume, orientation)
    stored_labels = reoriented(volume.with_voxels(labels), orientation).voxels
    return Scene(findings_of(stored, stored_labels, **options), stored, stored_labels)  # type: ignore[arg-type]  # options are passed on as they are
