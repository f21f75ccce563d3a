"""What may be wrong with one scan: each check turns what was measured into findings.

A finding says what was found, what was expected and what to do. An error must be put right
before training, a warning looked at, a note known.
"""

import math
from collections.abc import Callable, Iterator

from osteomet.checkup import Finding, LesionMeasures, ScanMeasures, ScanRecord, Severity

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

THICK_MM, TOO_THICK_MM = 5.0, 10.0
"""Slice distances: half of all bone metastases are smaller than 15 mm."""

WIDE_PIXELS_MM = 2.0
TILTED_DEG = 10.0
UNEVEN_AXES = 1.5
"""In an axial scan the slice distance is not this much smaller than the pixel spacing."""

AIR_HU, FAT_HU, SOFT_TISSUE_HU = (-1060.0, -940.0), (-135.0, -65.0), (-10.0, 130.0)
CLIPPED_HU, CLIPPED_SHARE, CLIPPED_VOXELS = 2500.0, 1e-5, 20
"""A scan whose largest value is lower, and frequent, was clipped to a window."""

COARSE_STEP_HU = 3.0
NOISY_HU = 60.0
LEAST_BODY_ML, LEAST_BONE_ML = 20.0, 5.0

INSIDE_BODY, NEAR_BONE = 0.5, 0.3
WHOLE = 0.99
"""A lesion whose largest part holds less than this share of it is split."""

TINY_MM, HUGE_MM = 4.0, 100.0
THIN_VOX = 2


def check_scan(scan: ScanRecord) -> tuple[Finding, ...]:
    """Run every check of one scan."""
    found = list(_readable(scan))
    if scan.measures is not None:
        for check in CHECKS:
            found += check(scan.scan_id, scan.measures)
        if scan.annotation_fault is None:
            found += _annotated(scan.scan_id, scan.measures)
    return tuple(found)


def _readable(scan: ScanRecord) -> Iterator[Finding]:
    if scan.image_fault is not None:
        yield _finding(
            "unreadable scan",
            ERROR,
            scan.scan_id,
            scan.image_fault,
            "Put the file right or export it again; else take the row out of the cohort.",
        )
    if scan.annotation_fault is not None:
        yield _finding(
            "unusable annotation",
            ERROR,
            scan.scan_id,
            scan.annotation_fault,
            "Correct the mask or box file: training would stop here.",
        )


def check_reading(scan_id: str, scan: ScanMeasures) -> Iterator[Finding]:
    """What reading had to repair: uneven slices, gantry tilt, padding, missing headers."""
    for warning in scan.warnings:
        yield _finding(
            "repaired while reading",
            WARNING,
            scan_id,
            f"{warning[:1].upper()}{warning[1:]}.",
            "Look at the scan; where the repair is wrong, export the series again.",
        )


def check_spacing(scan_id: str, scan: ScanMeasures) -> Iterator[Finding]:
    """Slices so far apart, or pixels so wide, that small lesions are lost."""
    z, y, x = scan.spacing_zyx_mm
    if z > THICK_MM:
        yield _finding(
            "thick slices",
            ERROR if z > TOO_THICK_MM else WARNING,
            scan_id,
            f"Slices are {z:.2f} mm apart; expected at most {THICK_MM:g} mm.",
            "Take a thinner reconstruction of the same scan where there is one: lesions of a "
            "slice or two cannot be outlined. Above 10 mm take the scan out.",
        )
    if max(y, x) > WIDE_PIXELS_MM:
        yield _finding(
            "wide pixels",
            WARNING,
            scan_id,
            f"Pixels are {y:.2f} x {x:.2f} mm; expected at most {WIDE_PIXELS_MM:g} mm.",
            "Use the scan as it was reconstructed and not a resampled copy.",
        )


def check_orientation(scan_id: str, scan: ScanMeasures) -> Iterator[Finding]:
    """Grids that stand oblique, and slices that are not axial."""
    z, y, x = scan.spacing_zyx_mm
    if scan.tilt_deg > TILTED_DEG:
        yield _finding(
            "oblique grid",
            WARNING,
            scan_id,
            f"The grid stands {scan.tilt_deg:.0f} degrees oblique to the patient; expected at "
            f"most {TILTED_DEG:g}.",
            "Check the orientation in a viewer: often the header is wrong. A true oblique "
            "reconstruction is better replaced by the axial one.",
        )
    if max(y, x) > UNEVEN_AXES * z and max(y, x) > 1.5 * min(y, x):
        yield _finding(
            "slices not axial",
            WARNING,
            scan_id,
            f"Voxels are {z:.2f} x {y:.2f} x {x:.2f} mm along z, y and x: the slices are "
            f"{'coronal' if y > x else 'sagittal'}, or the axes are named wrongly; expected axial "
            "slices.",
            "Take the axial reconstruction; where the image is axial, correct the direction in "
            "its header.",
        )


def check_hounsfield(scan_id: str, scan: ScanMeasures) -> Iterator[Finding]:
    """Values that were shifted, rescaled, clipped or stored in 8 bits."""
    hu = scan.hu
    peaks = (
        ("air", hu.air_hu, AIR_HU),
        ("fat", hu.fat_hu, FAT_HU),
        ("soft tissue", hu.soft_tissue_hu, SOFT_TISSUE_HU),
    )
    for name, value, (low, high) in peaks:
        if value is not None and not low <= value <= high:
            yield _finding(
                "doubtful HU",
                WARNING,
                scan_id,
                f"The commonest value of {name} is {value:.0f} HU; expected {low:.0f} to "
                f"{high:.0f}.",
                "Check rescale slope and intercept where the file was made; a cone-beam or "
                "dual-energy image is no CT in HU.",
            )
    if hu.fat_hu is None and hu.soft_tissue_hu is None:
        yield _finding(
            "doubtful HU",
            WARNING,
            scan_id,
            f"There is no peak of fat near -100 HU nor of soft tissue near 40 HU; values lie "
            f"between {hu.low:.0f} and {hu.high:.0f}.",
            "Check that this is CT in HU, with slope and intercept applied.",
        )
    enough = max(CLIPPED_SHARE, CLIPPED_VOXELS / math.prod(scan.shape_zyx))
    if hu.high < CLIPPED_HU and hu.at_high_share >= enough:
        yield _finding(
            "clipped HU",
            WARNING,
            scan_id,
            f"{100 * hu.at_high_share:.2g} % of the voxels have the largest value, "
            f"{hu.high:.0f} HU: the scan was clipped to a window, and dense lesions with it.",
            "Convert the scan again without a window.",
        )
    if hu.step_hu >= COARSE_STEP_HU:
        yield _finding(
            "coarse HU",
            WARNING,
            scan_id,
            f"Values come in steps of {hu.step_hu:.1f} HU; expected 1: the scan went through an "
            "8-bit or otherwise rounded format.",
            "Convert the scan again from the original, in 16 bits.",
        )
    if hu.noise_hu is not None and hu.noise_hu > NOISY_HU:
        yield _finding(
            "noisy scan",
            WARNING,
            scan_id,
            f"The noise in soft tissue is {hu.noise_hu:.0f} HU; expected at most {NOISY_HU:g}.",
            "Take a softer kernel or thicker slices of the same scan where there are some.",
        )


def check_body(scan_id: str, scan: ScanMeasures) -> Iterator[Finding]:
    """Scans that show no body, no bone, or a region where the program is not at home."""
    body = scan.body
    if body.body_ml < LEAST_BODY_ML:
        yield _finding(
            "no body",
            ERROR,
            scan_id,
            f"Only {body.body_ml:.0f} ml are denser than fat; expected a patient.",
            "Check that this is the right file, in HU and with the right spacing.",
        )
    elif body.bone_ml < LEAST_BONE_ML:
        yield _finding(
            "no bone",
            WARNING,
            scan_id,
            f"Only {body.bone_ml:.1f} ml are as dense as bone; expected at least "
            f"{LEAST_BONE_ML:g} ml.",
            "Check HU and spacing; a scan without bone teaches nothing here.",
        )
    if body.region in ("head or neck", "legs"):
        yield _finding(
            "unusual region",
            NOTE,
            scan_id,
            f"By HU and shape this looks like {body.region}.",
            "Keep it if such scans will be predicted too; else take it out.",
        )


def _annotated(scan_id: str, scan: ScanMeasures) -> Iterator[Finding]:
    if scan.annotation == "mask" and not scan.lesions:
        yield _finding(
            "empty mask",
            NOTE,
            scan_id,
            "The mask holds no lesion: the scan counts as one without lesions.",
            "Nothing, if it was read and has none: writing mask_kind none says so and ends this "
            "note. Otherwise draw the lesions or take the row out: the network would learn to "
            "overlook them.",
        )
    if scan.boxes_outside:
        yield _finding(
            "boxes outside the scan",
            ERROR,
            scan_id,
            f"{scan.boxes_outside} of {len(scan.boxes_mm)} boxes have their centre outside the "
            "scan.",
            "Write boxes in LPS mm: x to the left, y to the back, z to the head. Often they are "
            "RAS, with x and y reversed.",
        )
    for side_mm in scan.boxes_mm:
        if not TINY_MM <= side_mm <= HUGE_MM:
            yield _finding(
                "unusual box size",
                WARNING,
                scan_id,
                f"A box has a longest side of {side_mm:.1f} mm; expected {TINY_MM:g} to "
                f"{HUGE_MM:g} mm.",
                "Check that boxes are in mm and not in voxels.",
            )
    for lesion in scan.lesions:
        for check in LESION_CHECKS:
            yield from check(scan_id, lesion)


def check_place(scan_id: str, lesion: LesionMeasures) -> Iterator[Finding]:
    """Lesions outside the body, or far from bone."""
    if lesion.body_share < INSIDE_BODY:
        yield _finding(
            "lesion outside the body",
            ERROR,
            scan_id,
            f"{_named(lesion)} lies to {1 - lesion.body_share:.0%} outside the body.",
            "Compare scan and mask in a viewer: an axis is flipped, or the mask belongs to "
            "another scan.",
            lesion.label,
        )
    elif lesion.bone_share < NEAR_BONE:
        yield _finding(
            "lesion outside bone",
            WARNING,
            scan_id,
            f"{_named(lesion)} lies to {1 - lesion.bone_share:.0%} more than 5 mm from any bone "
            f"(mean {lesion.mean_hu:.0f} HU).",
            "Take it out if it is no bone lesion (a node, a soft-tissue metastasis, an annotation "
            "of another organ). Where a lesion has destroyed its bone, nothing is to be done.",
            lesion.label,
        )


def check_wholeness(scan_id: str, lesion: LesionMeasures) -> Iterator[Finding]:
    """Lesions that touch another one, or lie in pieces."""
    others = [label for label in lesion.touches if label > lesion.label]
    if others:
        yield _finding(
            "touching lesions",
            WARNING,
            scan_id,
            f"{_named(lesion)} touches {_listed(others)}.",
            "Where it is one lesion, give its parts one label; where there are two, nothing is "
            "to be done. A map of 0 and 1 would join them.",
            lesion.label,
        )
    if lesion.largest_part_share < WHOLE:
        yield _finding(
            "split lesion",
            WARNING,
            scan_id,
            f"{_named(lesion)} lies in {lesion.parts} pieces; the largest holds "
            f"{lesion.largest_part_share:.0%}.",
            "Give each lesion its own label, and remove stray voxels: its box would span all "
            "pieces.",
            lesion.label,
        )


def check_size(scan_id: str, lesion: LesionMeasures) -> Iterator[Finding]:
    """Lesions too small to be one, too thin to have a shape, too large, or cut off."""
    if lesion.diameter_mm < TINY_MM or lesion.shortest_side_vox < THIN_VOX:
        yield _finding(
            "tiny lesion",
            WARNING,
            scan_id,
            f"{_named(lesion)} has {lesion.voxels} voxels and is {lesion.shortest_side_vox} voxel"
            f"{'' if lesion.shortest_side_vox == 1 else 's'} thin; expected at least {TINY_MM:g} "
            "mm and 2 voxels.",
            "Remove stray voxels; a true lesion drawn on one slice has to be drawn on all, or "
            "given as a box.",
            lesion.label,
        )
    if lesion.diameter_mm > HUGE_MM:
        yield _finding(
            "huge lesion",
            WARNING,
            scan_id,
            f"{_named(lesion)} is larger than {HUGE_MM:g} mm.",
            "Check that the mask marks lesions and not an organ, and that spacing is in mm.",
            lesion.label,
        )
    if lesion.at_border:
        yield _finding(
            "lesion at the border",
            NOTE,
            scan_id,
            f"{_named(lesion)} reaches the border of the scan: a part of it may be missing.",
            "Nothing, unless a longer scan exists.",
            lesion.label,
        )


CHECKS: tuple[Callable[[str, ScanMeasures], Iterator[Finding]], ...] = (
    check_reading,
    check_spacing,
    check_orientation,
    check_hounsfield,
    check_body,
)
LESION_CHECKS: tuple[Callable[[str, LesionMeasures], Iterator[Finding]], ...] = (
    check_place,
    check_wholeness,
    check_size,
)


def _finding(
    check: str, severity: Severity, scan_id: str, found: str, advice: str, lesion: int | None = None
) -> Finding:
    return Finding(
        check=check, severity=severity, scans=(scan_id,), found=found, advice=advice, lesion=lesion
    )


def _named(lesion: LesionMeasures) -> str:
    return f"Lesion {lesion.label} ({lesion.diameter_mm:.1f} mm)"


def _listed(labels: list[int]) -> str:
    return f"lesion{'' if len(labels) == 1 else 's'} " + ", ".join(map(str, labels))
