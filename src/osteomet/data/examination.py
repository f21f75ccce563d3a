"""One scan of a cohort, read once: everything that ``osteomet doctor`` needs of it.

Faults of the user's files are kept as words, so that one damaged scan does not hide what is
wrong with the others.
"""

import hashlib

import numpy as np
from jaxtyping import Int16, Integer, Num
from scipy import ndimage

from osteomet.checkup import LesionMeasures, ScanMeasures, ScanRecord, ScanViews, View
from osteomet.data.annotations import instances_on_scan, read_boxes_mm
from osteomet.data.body import Body, cell_means, find_body
from osteomet.data.histogram import measure_hu
from osteomet.data.manifest import Case
from osteomet.errors import InputError
from osteomet.io.scan import read_scan
from osteomet.volume import Volume

LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))
NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)

FRONT_PX = 200
"""Longest side of the stored projection."""

VIEW_MM, VIEW_PER_EXTENT = 70.0, 2.0
"""Smallest side of a lesion's picture, and its side over the lesion's longest extent."""

VIEWS = 40
"""Lesions with a picture, largest first."""

THUMBNAIL = 12
"""Side of the coarse grid that finds the same image again."""

Labels = Integer[np.ndarray, "z y x"]


def record_of(case: Case) -> ScanRecord:
    """Return what the cohort's row says of a scan, before it is measured."""
    return ScanRecord(
        scan_id=case.scan_id,
        patient_id=case.patient_id,
        centre=case.centre,
        primary=case.primary.value,
        split=case.split,
        age=case.age,
        sex=case.sex,
    )


def examine(case: Case) -> tuple[ScanRecord, ScanViews]:
    """Read and measure one scan and its annotations; nothing that a user can cause is raised."""
    record = record_of(case)
    try:
        scan = read_scan(case.image)
    except InputError as error:
        return record.model_copy(update={"image_fault": str(error)}), ScanViews()
    labels, boxes_mm, outside, fault = _annotations(case, scan.volume)
    upright = scan.volume.closest_lps()
    turned = scan.volume.with_voxels(labels).closest_lps().voxels
    body = find_body(upright)
    lesions = _measure_lesions(upright, turned, body)
    info = scan.info
    measures = ScanMeasures(
        format=info.format,
        shape_zyx=upright.shape,
        spacing_zyx_mm=upright.spacing_zyx_mm,
        orientation=_orientation(scan.volume),
        tilt_deg=_tilt_deg(upright),
        slice_thickness_mm=info.slice_thickness_mm,
        manufacturer=info.manufacturer,
        kernel=info.kernel,
        study_uid=info.study_uid,
        digest=_digest(upright.voxels),
        mask_digest=_digest(turned) if lesions else None,
        hu=measure_hu(upright.voxels),
        body=body.measures,
        annotation=_kind(case),
        lesions=lesions,
        boxes_mm=boxes_mm,
        boxes_outside=outside,
        warnings=scan.warnings,
    )
    views = ScanViews(_front(upright), _lesion_views(upright, turned, lesions), _thumbnail(upright))
    return record.model_copy(update={"measures": measures, "annotation_fault": fault}), views


def _annotations(case: Case, volume: Volume) -> tuple[Labels, tuple[float, ...], int, str | None]:
    """Return label map, sides of boxes, number of boxes outside, and what is wrong with them."""
    labels: Labels = np.zeros(volume.shape, dtype=np.int16)
    sides: tuple[float, ...] = ()
    outside, fault = 0, None
    try:
        if case.mask is not None:
            labels, _ = instances_on_scan(case, volume)
        if case.boxes is not None:
            boxes = read_boxes_mm(case.boxes, case.image)
            sides = tuple((boxes[:, 3:] - boxes[:, :3]).max(axis=1).tolist()) if len(boxes) else ()
            middles = volume.world_to_edge((boxes[:, :3] + boxes[:, 3:]) / 2)
            outside = int(((middles < 0) | (middles > volume.shape)).any(axis=1).sum())
    except InputError as error:
        fault = str(error)
    return labels, sides, outside, fault


def _kind(case: Case) -> str:
    given = [name for name, file in (("mask", case.mask), ("boxes", case.boxes)) if file]
    return " and ".join(given) or "none"


def _tilt_deg(upright: Volume) -> float:
    axes = upright.affine[:3, :3] / np.linalg.norm(upright.affine[:3, :3], axis=0)
    return float(np.degrees(np.arccos(np.diag(axes[::-1]).clip(-1, 1).min())))


def _orientation(volume: Volume) -> str:
    """Name where the scan's own axes x, y and z point."""
    letters = []
    for axis in (2, 1, 0):
        direction = volume.affine[:3, axis]
        world = int(np.abs(direction).argmax())
        letters.append(LETTERS[world][int(direction[world] > 0)])
    return "".join(letters)


def _digest(voxels: Num[np.ndarray, "z y x"]) -> str:
    """Return a digest of values and shape; the same whatever type holds whole numbers."""
    digest = hashlib.sha256(repr(voxels.shape).encode())
    for plane in voxels:
        digest.update(np.ascontiguousarray(np.rint(plane), dtype=np.int32).tobytes())
    return digest.hexdigest()[:32]


def _measure_lesions(upright: Volume, labels: Labels, body: Body) -> tuple[LesionMeasures, ...]:
    return tuple(
        _measure_lesion(upright, labels, label, box, body)
        for label, box in enumerate(ndimage.find_objects(labels), start=1)
        if box is not None
    )


def _measure_lesion(
    upright: Volume, labels: Labels, label: int, box: tuple[slice, ...], body: Body
) -> LesionMeasures:
    mask = labels[box] == label
    low = np.array([side.start for side in box])
    places = np.argwhere(mask) + low
    parts, count = ndimage.label(mask, structure=NEIGHBOURS)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    body_share, bone_share = body.shares(places)
    high = low + mask.shape
    volume_ml = len(places) * upright.voxel_ml
    return LesionMeasures(
        label=label,
        voxels=len(places),
        volume_ml=volume_ml,
        diameter_mm=2 * (volume_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3),
        shortest_side_vox=min(mask.shape),
        parts=count,
        largest_part_share=float(sizes.max() / len(places)),
        touches=_touching(labels, label, box),
        mean_hu=float(upright.voxels[box][mask].mean()),
        body_share=body_share,
        bone_share=bone_share,
        at_border=bool((low == 0).any() or (high == labels.shape).any()),
    )


def _touching(labels: Labels, label: int, box: tuple[slice, ...]) -> tuple[int, ...]:
    """Return the labels within one voxel, diagonals included."""
    wider = tuple(
        slice(max(side.start - 1, 0), min(side.stop + 1, n))
        for side, n in zip(box, labels.shape, strict=True)
    )
    around = labels[wider]
    reach = ndimage.binary_dilation(around == label, structure=NEIGHBOURS)
    return tuple(int(other) for other in np.unique(around[reach]) if other not in (0, label))


def _front(upright: Volume) -> View:
    values = upright.voxels.max(axis=1)[::-1]
    step = max(1, -(-max(values.shape) // FRONT_PX))
    return View(
        _short(values[::step, ::step]),
        None,
        (upright.spacing_zyx_mm[0] * step, upright.spacing_zyx_mm[2] * step),
    )


def _lesion_views(
    upright: Volume, labels: Labels, lesions: tuple[LesionMeasures, ...]
) -> dict[int, View]:
    largest = sorted(lesions, key=lambda one: -one.voxels)[:VIEWS]
    boxes = ndimage.find_objects(labels)
    return {
        one.label: _lesion_view(upright, labels, one.label, boxes[one.label - 1]) for one in largest
    }


def _lesion_view(upright: Volume, labels: Labels, label: int, box: tuple[slice, ...]) -> View:
    """Cut the axial plane that shows most of a lesion, around its middle."""
    counts = (labels[box] == label).sum(axis=(1, 2))
    z = box[0].start + int(counts.argmax())
    spacing = upright.spacing_zyx_mm
    extent_mm = max(
        (side.stop - side.start) * mm for side, mm in zip(box[1:], spacing[1:], strict=True)
    )
    reach_mm = max(VIEW_MM, VIEW_PER_EXTENT * extent_mm) / 2
    cut = []
    for axis in (1, 2):
        middle = (box[axis].start + box[axis].stop) / 2
        reach = reach_mm / spacing[axis]
        cut.append(slice(max(0, int(middle - reach)), int(np.ceil(middle + reach))))
    return View(
        _short(upright.voxels[z, cut[0], cut[1]]),
        labels[z, cut[0], cut[1]].astype(np.int16),
        (spacing[1], spacing[2]),
    )


def _thumbnail(upright: Volume) -> Int16[np.ndarray, " n"]:
    """Return HU of soft tissue and bone on a grid that spans the scan, whatever its spacing."""
    z, y, x = (max(1, n // THUMBNAIL) for n in upright.shape)
    coarse = cell_means(upright.voxels, (z, y, x)).clip(-1000, 1000)
    zoom = [THUMBNAIL / n for n in coarse.shape]
    return _short(ndimage.zoom(coarse, zoom, order=1, grid_mode=True, mode="nearest").ravel())


def _short(values: Num[np.ndarray, "*shape"]) -> Int16[np.ndarray, "*shape"]:
    short: Int16[np.ndarray, "*shape"] = np.rint(values).clip(-32768, 32767).astype(np.int16)
    return short
