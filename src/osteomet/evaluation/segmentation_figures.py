"""The figures of segmentation, each named after what it is taken over."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from osteomet.evaluation.panoptic import MATCHED_IOU, panoptic_quality, panoptic_table
from osteomet.evaluation.scored import ScoredCohort
from osteomet.evaluation.segmentation import Overlap, overlap_table, pooled_overlap
from osteomet.evaluation.statistics import (
    Estimate,
    Family,
    Weights,
    family_of_one,
    weighted_mean,
)

SEGMENTATION = "Segmentation"
SURFACES = "Normalised surface distance"
VOXELS = "Voxels"
WITHOUT = "Patients without lesions"


def segmentation_families(cohort: ScoredCohort, tolerance_mm: float) -> list[Family]:
    """Return the figures of segmentation.

    Args:
        cohort: the scored scans.
        tolerance_mm: at which surfaces were compared.
    """
    overlaps = cohort.overlaps()
    table = overlap_table(overlaps)
    diseased = np.flatnonzero(cohort.lesions_per_patient > 0)
    return [
        *_lesion_families(cohort, "Dice", [scan.dice for scan in cohort.scans], SEGMENTATION),
        _per_patient(
            "Dice per patient",
            [overlaps[n].dice for n in diseased.tolist()],
            diseased,
            cohort,
            SEGMENTATION,
        ),
        family_of_one(
            Estimate("Dice pooled", len(overlaps), "patients", note="all voxels together"),
            lambda weights: pooled_overlap(table, weights).dice,
            SEGMENTATION,
        ),
        _panoptic(cohort),
        *_surfaces(cohort, diseased, tolerance_mm),
        *_voxels(cohort, overlaps, diseased),
        _lesion_free(overlaps, cohort),
    ]


def _lesion_families(
    cohort: ScoredCohort, name: str, of_scans: Sequence[np.ndarray], section: str
) -> list[Family]:
    values = cohort.lesion_values(of_scans)
    hit = cohort.lesion_values([scan.hit for scan in cohort.scans])
    owner = cohort.lesion_owner
    return [
        family_of_one(
            Estimate(
                f"{name} per matched lesion",
                int(hit.sum()),
                "lesions hit",
                note="as reported",
            ),
            lambda weights: weighted_mean(values[hit], weights[owner[hit]]),
            section,
        ),
        family_of_one(
            Estimate(
                f"{name} per lesion",
                len(values),
                "lesions",
                note=f"{int((~hit).sum())} misses count 0",
            ),
            lambda weights: weighted_mean(values, weights[owner]),
            section,
        ),
    ]


def _per_patient(
    name: str,
    values: Sequence[float],
    places: np.ndarray,
    cohort: ScoredCohort,
    section: str,
) -> Family:
    table = np.array(values, dtype=np.float64)
    left_out = len(cohort.names) - len(places)
    return family_of_one(
        Estimate(
            name,
            len(places),
            "patients with lesions" if left_out else "patients",
            note=f"{left_out} patients without lesions left out" if left_out else "",
        ),
        lambda weights: weighted_mean(table, weights[places]),
        section,
    )


def _panoptic(cohort: ScoredCohort) -> Family:
    counts = [scan.panoptic for scan in cohort.scans]
    table = panoptic_table(counts)
    matches = sum(one.matches for one in counts)
    spare = sum(one.unmatched_predicted for one in counts)
    missed = sum(one.unmatched_true for one in counts)
    note = f"mask IoU > {MATCHED_IOU:g}; {spare} reports and {missed} lesions unmatched"
    described = (
        Estimate("panoptic quality", matches + missed, "lesions", matches, note),
        Estimate("segmentation quality", matches, "lesions matched", note="mean IoU of matches"),
        Estimate("recognition quality", matches + missed, "lesions", matches, "F1 of matching"),
    )

    def figures(weights: Weights) -> Float[np.ndarray, " figures"]:
        return np.array(panoptic_quality(table, weights[cohort.owner]))

    return Family(described, figures, SEGMENTATION)


def _surfaces(cohort: ScoredCohort, diseased: np.ndarray, tolerance_mm: float) -> list[Family]:
    of_lesions = [scan.surface_agreement for scan in cohort.scans]
    of_patients = cohort.surfaces()
    name = f"surface agreement at {tolerance_mm:g} mm"
    return [
        *_lesion_families(cohort, name, of_lesions, SURFACES),
        _per_patient(
            f"{name} per patient",
            [of_patients[n].agreement for n in diseased.tolist()],
            diseased,
            cohort,
            SURFACES,
        ),
    ]


def _voxels(
    cohort: ScoredCohort, overlaps: Sequence[Overlap], diseased: np.ndarray
) -> list[Family]:
    """Sensitivity of patients with lesions; specificity and accuracy of all."""
    everyone = np.arange(len(overlaps))
    rows = (
        (
            "voxel sensitivity per patient",
            [overlaps[n].sensitivity for n in diseased.tolist()],
            diseased,
        ),
        ("voxel specificity per patient", [one.specificity for one in overlaps], everyone),
        ("voxel accuracy per patient", [one.accuracy for one in overlaps], everyone),
    )
    table = overlap_table(overlaps)
    total = pooled_overlap(table, np.ones(len(overlaps)))
    note = (
        f"{total.true_ml:.0f} ml of lesions, {total.shared_ml:.0f} ml of them found, "
        f"{total.scan_ml / 1000:.1f} l of scan"
    )
    names = ("sensitivity", "specificity", "accuracy")
    described = tuple(
        Estimate(f"voxel {name} pooled", len(overlaps), "patients", note=note) for name in names
    )

    def pooled(weights: Weights) -> Float[np.ndarray, " figures"]:
        one = pooled_overlap(table, weights)
        return np.array([one.sensitivity, one.specificity, one.accuracy])

    return [
        *(_per_patient(name, its, places, cohort, VOXELS) for name, its, places in rows),
        Family(described, pooled, VOXELS),
    ]


def _lesion_free(overlaps: Sequence[Overlap], cohort: ScoredCohort) -> Family:
    places = np.flatnonzero(cohort.lesions_per_patient == 0)
    volumes = np.array([overlaps[n].predicted_ml for n in places.tolist()], dtype=np.float64)
    return family_of_one(
        Estimate(
            "reported volume in ml",
            len(places),
            "patients without lesions",
            events=int((volumes > 0).sum()),
            note="mean; all of it false; events: patients with any",
        ),
        lambda weights: weighted_mean(volumes, weights[places]),
        WITHOUT,
    )
