"""What may be wrong between the scans of a cohort: copies, leaks over the split, confounding."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Int16
from scipy.sparse.csgraph import connected_components

from osteomet.checkup import Finding, Guess, ScanRecord, Severity

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

SAME_IMAGE = 0.9995
"""Correlation of two thumbnails above which they are taken to be one image."""

LEAST_PATIENTS = 20
LEVEL = 0.05
"""Chance of one false alarm of confounding in a whole cohort."""

TELLING_AUC, DECISIVE_AUC = 0.6, 0.8

Key = Callable[[ScanRecord], str | None]


def check_cohort(scans: Sequence[ScanRecord], faults: Sequence[str]) -> tuple[Finding, ...]:
    """Run every check between scans, confounding apart.

    Args:
        scans: in the order of the cohort.
        faults: what is wrong with ``cohort.csv`` itself.
    """
    found = [
        _finding("faulty row", ERROR, (), fault, "Correct cohort.csv: training would stop here.")
        for fault in faults
    ]
    for check in CHECKS:
        found += check(scans)
    return tuple(found)


def check_same_image(scans: Sequence[ScanRecord]) -> Iterator[Finding]:
    """Equal images in several rows."""
    for group in _equal(scans, lambda scan: scan.measures.digest if scan.measures else None):
        yield _repeated("same image twice", group, "hold the same image, voxel by voxel")


def check_same_study(scans: Sequence[ScanRecord]) -> Iterator[Finding]:
    """One DICOM study under the names of two patients."""
    for group in _equal(scans, lambda scan: scan.measures.study_uid if scan.measures else None):
        if len({scan.patient_id for scan in group}) > 1:
            yield _repeated("same study twice", group, "come from one DICOM study")


def check_same_mask(scans: Sequence[ScanRecord]) -> Iterator[Finding]:
    """One mask on different images."""
    for group in _equal(scans, lambda scan: scan.measures.mask_digest if scan.measures else None):
        if len({scan.measures.digest for scan in group if scan.measures}) > 1:
            yield _finding(
                "same mask twice",
                WARNING,
                tuple(scan.scan_id for scan in group),
                f"{_names(group)} are different images with the same mask.",
                "Find the mask that belongs to each.",
            )


def check_sides(scans: Sequence[ScanRecord]) -> Iterator[Finding]:
    """A patient on two sides of the split, or under two spellings."""
    of_patient = _grouped(scans, lambda scan: scan.patient_id)
    for patient, group in of_patient.items():
        sides = sorted({scan.split for scan in group if scan.split})
        if len(sides) > 1:
            yield _finding(
                "patient on two sides",
                ERROR,
                tuple(scan.scan_id for scan in group),
                f"Patient {patient} has scans in {' and '.join(sides)}.",
                "Put all scans of a patient on one side: what is measured on the other side would "
                "be too good.",
            )
    spelt = _grouped(scans, lambda scan: _plain(scan.patient_id))
    for group in spelt.values():
        names = sorted({scan.patient_id for scan in group})
        if len(names) > 1:
            across = len({scan.split for scan in group}) > 1
            yield _finding(
                "patients of alike names",
                WARNING if across else NOTE,
                tuple(scan.scan_id for scan in group),
                f"The patients {', '.join(names)} differ only in case, punctuation or zeros"
                f"{', and are on different sides of the split' if across else ''}.",
                "If they are one patient, write one patient_id.",
            )


def check_patients(scans: Sequence[ScanRecord]) -> Iterator[Finding]:
    """Rows of one patient that contradict each other."""
    for patient, group in _grouped(scans, lambda scan: scan.patient_id).items():
        if len({scan.sex for scan in group if scan.sex}) > 1:
            yield _finding(
                "contradicting rows",
                WARNING,
                tuple(scan.scan_id for scan in group),
                f"Patient {patient} is both F and M.",
                "Correct the rows; or these are two people.",
            )


def check_balance(scans: Sequence[ScanRecord]) -> Iterator[Finding]:
    """Too few patients, one primary only, or a side without lesions."""
    primaries = {scan.patient_id: scan.primary for scan in scans}
    counts = Counter(primaries.values())
    if len(primaries) < LEAST_PATIENTS:
        yield _finding(
            "few patients",
            WARNING,
            (),
            f"There are {len(primaries)} patients; expected at least {LEAST_PATIENTS}.",
            "Add patients, or start from pretrained weights and read all figures with their "
            "intervals.",
        )
    if not (counts["lung"] and counts["other"]):
        yield _finding(
            "one primary only",
            WARNING,
            (),
            f"Patients have the primaries {', '.join(f'{k} ({n})' for k, n in counts.items())}; "
            "expected lung and other.",
            "Such a cohort trains detection. To predict the primary, add patients of the other "
            "kind.",
        )
    for side, group in _grouped(scans, lambda scan: scan.split).items():
        lesions = sum(
            len(scan.measures.lesions) + len(scan.measures.boxes_mm)
            for scan in group
            if scan.measures
        )
        if not lesions and side in ("train", "val"):
            yield _finding(
                "side without lesions",
                ERROR,
                tuple(scan.scan_id for scan in group),
                f"No scan of {side} has a lesion.",
                "Share the patients out again.",
            )


def check_confounding(guesses: Sequence[Guess]) -> tuple[Finding, ...]:
    """Things that are no lesion and predict the primary better than chance."""
    tried = sum(guess.auc is not None for guess in guesses)
    found = []
    for guess in guesses:
        if guess.auc is None or guess.chance is None or guess.p_value is None:
            continue
        # Many factors are tried, so each must be that much surer.
        if guess.p_value * tried > LEVEL or guess.auc < TELLING_AUC:
            continue
        decisive = guess.auc >= DECISIVE_AUC and guess.kind == "acquisition"
        found.append(
            _finding(
                "confounded primary",
                ERROR if decisive else WARNING,
                (),
                f"Without looking at any lesion, {guess.factor} predicts the primary with an AUC "
                f"of {guess.auc:.2f} ({guess.patients} patients; chance reaches "
                f"{guess.chance[0]:.2f} to {guess.chance[1]:.2f}).",
                _CONFOUNDED[guess.kind],
            )
        )
    return tuple(found)


_CONFOUNDED = {
    "acquisition": (
        "A network can learn the scanner instead of the tumour. Use one reconstruction for all, "
        "or draw as many patients of each primary from each centre; and report the AUC within "
        "each centre, never the pooled one alone."
    ),
    "view": (
        "What is in view gives the primary away. Cut scans of both kinds to the same region, or "
        "report the AUC on one region; a lung tumour in view is a finding of its own."
    ),
    "patient": (
        "This may be so in life, but it is no property of the lesions. Report a model of age and "
        "sex alone beside the network, and match patients where you can."
    ),
}


def near_copies(
    scans: Sequence[ScanRecord], thumbnails: Mapping[int, Int16[np.ndarray, " n"]]
) -> tuple[Finding, ...]:
    """Find images that are alike but not equal: resampled, cropped by a little, converted.

    Args:
        scans: of the cohort.
        thumbnails: by the scan's place; see ``ScanViews.thumbnail``.
    """
    places = sorted(thumbnails)
    if len(places) < 2:
        return ()
    values = np.stack([thumbnails[place] for place in places]).astype(float)
    values -= values.mean(axis=1, keepdims=True)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9)
    count, groups = connected_components(values @ values.T > SAME_IMAGE, directed=False)
    found = []
    for group in range(count):
        alike = [scans[places[n]] for n in np.flatnonzero(groups == group)]
        digests = {scan.measures.digest for scan in alike if scan.measures}
        if len(digests) > 1:
            found.append(_repeated("nearly the same image", alike, "look like one image"))
    return tuple(found)


CHECKS: tuple[Callable[[Sequence[ScanRecord]], Iterator[Finding]], ...] = (
    check_same_image,
    check_same_study,
    check_same_mask,
    check_sides,
    check_patients,
    check_balance,
)


def _repeated(check: str, group: Sequence[ScanRecord], how: str) -> Finding:
    """Say that several rows are one scan; serious where that crosses patients or sides."""
    patients = sorted({scan.patient_id for scan in group})
    sides = sorted({scan.split for scan in group if scan.split})
    where = f", under {len(patients)} patients" if len(patients) > 1 else ""
    where += f", in {' and '.join(sides)}" if len(sides) > 1 else ""
    sure = check != "nearly the same image"
    serious = sure and (len(patients) > 1 or len(sides) > 1)
    return _finding(
        check,
        ERROR if serious else WARNING,
        tuple(scan.scan_id for scan in group),
        f"{_names(group)} {how}{where}.",
        "Keep one of them. If they are one patient, write one patient_id, so that the split keeps "
        "them together.",
    )


def _equal(scans: Sequence[ScanRecord], key: Key) -> Iterator[list[ScanRecord]]:
    yield from (group for group in _grouped(scans, key).values() if len(group) > 1)


def _grouped(scans: Sequence[ScanRecord], key: Key) -> dict[str, list[ScanRecord]]:
    """Group scans by a key, in order; those without are left out."""
    groups: dict[str, list[ScanRecord]] = defaultdict(list)
    for scan in scans:
        value = key(scan)
        if value is not None:
            groups[value].append(scan)
    return groups


def _plain(name: str) -> str:
    """Return a name without case, punctuation and leading zeros of its numbers."""
    return re.sub(r"0*(\d+)", r"\1", re.sub(r"[\W_]", "", name.lower()))


def _names(group: Sequence[ScanRecord]) -> str:
    names = [scan.scan_id for scan in group]
    return ", ".join(names[:-1]) + f" and {names[-1]}"


def _finding(
    check: str, severity: Severity, scans: tuple[str, ...], found: str, advice: str
) -> Finding:
    return Finding(check=check, severity=severity, scans=scans, found=found, advice=advice)
