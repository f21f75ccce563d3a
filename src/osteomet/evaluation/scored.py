"""The scored scans of a cohort, and which patient each belongs to."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from osteomet.errors import InputError
from osteomet.evaluation.primary import PatientPrimary, merge_scans
from osteomet.evaluation.scan import ScanResult
from osteomet.evaluation.segmentation import Overlap
from osteomet.evaluation.surface import SurfaceCounts
from osteomet.findings import PrimaryTumour


@dataclass(frozen=True, eq=False)
class ScoredCohort:
    """Scans by patient.

    Attributes:
        scans: at least one.
        names: of the patients, in the order of their first scans.
        owner: ``(scans,)`` index of each scan's patient.
        primaries: what is true of each patient and what was predicted.
    """

    scans: tuple[ScanResult, ...]
    names: tuple[str, ...]
    owner: Int[np.ndarray, " scans"]
    primaries: tuple[PatientPrimary, ...]

    @classmethod
    def of_scans(cls, scans: Sequence[ScanResult]) -> "ScoredCohort":
        """Sort scans by patient.

        Raises:
            InputError: there is no scan, one comes twice, or their operating thresholds differ.
            AnnotationError: the scans of a patient name two primaries.
        """
        _check(scans)
        names = tuple(dict.fromkeys(scan.patient_id for scan in scans))
        place = {name: index for index, name in enumerate(names)}
        owner = np.array([place[scan.patient_id] for scan in scans])
        of_patient: list[list[ScanResult]] = [[] for _ in names]
        for scan, index in zip(scans, owner.tolist(), strict=True):
            of_patient[index].append(scan)
        primaries = tuple(
            merge_scans(name, [scan.primary for scan in its], [scan.p_lung for scan in its])
            for name, its in zip(names, of_patient, strict=True)
        )
        return cls(tuple(scans), names, owner, primaries)

    @property
    def operating_threshold(self) -> float:
        return self.scans[0].operating_threshold

    @property
    def lesion_owner(self) -> Int[np.ndarray, " lesions"]:
        """Patient of each true lesion, scan after scan."""
        return np.repeat(self.owner, [scan.reported.lesions for scan in self.scans])

    @property
    def lesions_per_patient(self) -> Int[np.ndarray, " patients"]:
        counts = [scan.reported.lesions for scan in self.scans]
        return np.bincount(self.owner, counts, len(self.names)).astype(np.int64)

    def lesion_values(self, of: Sequence[np.ndarray]) -> np.ndarray:
        """Join one array per scan into one over all lesions."""
        return np.concatenate([np.zeros(0, dtype=of[0].dtype), *of])

    def overlaps(self) -> list[Overlap]:
        """Return the voxels of each patient, over all scans."""
        total = [Overlap() for _ in self.names]
        for scan, index in zip(self.scans, self.owner.tolist(), strict=True):
            total[index] += scan.overlap
        return total

    def surfaces(self) -> list[SurfaceCounts]:
        """Return the surface voxels of each patient, over all scans."""
        total = [SurfaceCounts() for _ in self.names]
        for scan, index in zip(self.scans, self.owner.tolist(), strict=True):
            total[index] += scan.surfaces
        return total


@dataclass(frozen=True, eq=False)
class Labelled:
    """Patients of known primary, of whom a figure is taken.

    Attributes:
        places: ``(n,)`` of these patients in the cohort.
        is_lung: ``(n,)`` the truth.
        p_lung: ``(n,)`` predictions; NaN where there is none.
    """

    places: Int[np.ndarray, " n"]
    is_lung: Bool[np.ndarray, " n"]
    p_lung: Float[np.ndarray, " n"]

    @classmethod
    def of_cohort(cls, cohort: ScoredCohort) -> "Labelled":
        """Return the patients whose primary is known."""
        known = [
            place
            for place, one in enumerate(cohort.primaries)
            if one.primary is not PrimaryTumour.UNKNOWN
        ]
        ours = [cohort.primaries[place] for place in known]
        return cls(
            np.array(known, dtype=np.int64),
            np.array([one.primary is PrimaryTumour.LUNG for one in ours], bool),
            np.array([np.nan if one.p_lung is None else one.p_lung for one in ours], float),
        )

    @property
    def lung(self) -> int:
        return int(self.is_lung.sum())

    def __len__(self) -> int:
        return len(self.places)

    def predicted(self) -> "Labelled":
        """Return those with a prediction."""
        given = np.isfinite(self.p_lung)
        return Labelled(self.places[given], self.is_lung[given], self.p_lung[given])

    def filled(self, p_lung: float) -> "Labelled":
        """Return all, with this prediction for those who have none."""
        return Labelled(
            self.places,
            self.is_lung,
            np.where(np.isfinite(self.p_lung), self.p_lung, p_lung),
        )


def _check(scans: Sequence[ScanResult]) -> None:
    if not scans:
        raise InputError("no scan to evaluate; expected at least one with findings and a mask")
    seen: set[tuple[str, str]] = set()
    for scan in scans:
        name = scan.patient_id, scan.scan_id
        if name in seen:
            raise InputError(f"scan {name[1]} of patient {name[0]} comes twice; expected it once")
        seen.add(name)
    thresholds = {scan.operating_threshold for scan in scans}
    if len(thresholds) > 1:
        raise InputError(
            f"the scans were predicted at operating thresholds {sorted(thresholds)}; "
            "expected one: predict all scans with the same weights"
        )
