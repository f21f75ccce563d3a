"""Read what is annotated on a scan: masks, boxes in mm, regions to ignore.

All of it is placed on the model's grid. Fits are checked here: a mask must lie on its scan's
grid, a box inside its scan.
"""

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy import ndimage

from osteomet.box_arrays import box_iou
from osteomet.data.manifest import Case, MaskKind
from osteomet.data.preprocess import ModelGrid, instance_masks
from osteomet.errors import AnnotationError
from osteomet.io.volumes import read_labels
from osteomet.label_map import InstanceMask
from osteomet.volume import Volume

Boxes = Float[np.ndarray, "n 6"]

CENTRE_AND_SIZE = ("x", "y", "z", "width", "height", "depth")
LOW_AND_HIGH = ("x1", "y1", "z1", "x2", "y2", "z2")

SAME_GRID_VOX = 0.25
"""Corners of a mask and its scan may lie this share of a voxel apart: headers are rounded."""

DUPLICATE_IOU = 0.3
"""A box that overlaps a lesion's mask by more is taken to be the same lesion."""


@dataclass(frozen=True, eq=False)
class Annotations:
    """What is annotated on one scan, on the model's grid.

    Attributes:
        masks: lesions with a mask, by rising label.
        boxes: ``(n, 6)`` voxel edges of lesions without one.
        ignore: ``(m, 6)`` around each connected region to ignore.
        warnings: one sentence for each doubt.
    """

    masks: tuple[InstanceMask, ...]
    boxes: Float[np.ndarray, "n 6"]
    ignore: Float[np.ndarray, "m 6"]
    warnings: tuple[str, ...]


def read_annotations(case: Case, volume: Volume, spacing_mm: float) -> Annotations:
    """Read the annotations of a scan.

    Args:
        case: where they are.
        volume: the scan as it was read; only its grid is used.
        spacing_mm: voxel size of the model's grid.

    Raises:
        AnnotationError: a mask is on another grid, or a box outside the scan.
    """
    grid = ModelGrid.of(volume, spacing_mm)
    masks: tuple[InstanceMask, ...] = ()
    boxes, warnings = np.zeros((0, 6)), []
    if case.mask is not None:
        labels, split = _read_instances(case.mask, case.mask_kind, volume)
        masks = tuple(instance_masks(labels, spacing_mm))
        if case.mask_kind is MaskKind.AUTO and not split and len(masks) == 1:
            warnings.append(
                f"the mask holds one label, {masks[0].label}, taken for one lesion; where it marks "
                "several, write 1, and its parts are told apart"
            )
    if case.boxes is not None:
        boxes = _place_boxes(read_boxes_mm(case.boxes, case.image), grid, case.boxes)
        masked = np.array([mask_box(one) for one in masks]).reshape(-1, 6)
        new = without_duplicates(boxes, masked.astype(float))
        if len(new) < len(boxes):
            doubled = len(boxes) - len(new)
            warnings.append(f"{doubled} boxes hold a lesion that has a mask; the mask is used")
        boxes = new
    ignore = np.zeros((0, 6))
    if case.ignore is not None:
        regions = _components(_read_on_grid(case.ignore, volume))
        ignore = np.array([mask_box(one) for one in instance_masks(regions, spacing_mm)])
        ignore = ignore.reshape(-1, 6)
    return Annotations(masks, boxes, ignore, tuple(warnings))


def instances_on_scan(
    case: Case, volume: Volume
) -> tuple[Integer[np.ndarray, "z y x"], Bool[np.ndarray, "z y x"] | None]:
    """Return the true lesions as a label map on the scan's own grid, and what to ignore.

    Args:
        case: where the annotations are.
        volume: the scan as it was read.

    Raises:
        AnnotationError: a mask is on another grid, or lesions are given as boxes alone, which
            have no voxels to compare with.
    """
    if case.mask is None and case.boxes is not None:
        raise AnnotationError(
            f"{case.boxes}: has boxes and no mask for scan {case.scan_id}; expected a mask: "
            "Dice and detection are measured against voxels"
        )
    instances = np.zeros(volume.shape, dtype=np.int16)
    if case.mask is not None:
        turned = _read_instances(case.mask, case.mask_kind, volume)[0].voxels
        instances = instances.astype(turned.dtype)
        # closest_lps gives a view, so that writing into it fills the scan's own axes.
        Volume(instances, volume.affine).closest_lps().voxels[...] = turned
    if case.ignore is None:
        return instances, None
    ignore = np.zeros(volume.shape, dtype=np.uint8)
    regions = _read_on_grid(case.ignore, volume).voxels > 0
    Volume(ignore, volume.affine).closest_lps().voxels[...] = regions
    return instances, ignore.astype(bool)


def read_boxes_mm(path: Path, image: Path) -> Boxes:
    """Read boxes in LPS mm as ``(x1, y1, z1, x2, y2, z2)``.

    Columns are either ``x1, y1, z1, x2, y2, z2`` or the box's centre and extent ``x, y, z, width,
    height, depth``. With a column ``image_path``, only rows whose file name is that of ``image``
    count. A file without rows says that there is no lesion.

    Raises:
        AnnotationError: columns are missing, a number is wrong, or rows are all of other images.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = list(reader.fieldnames or [])
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AnnotationError(f"{path}: cannot be read as CSV: {error}") from error
    columns = next((c for c in (LOW_AND_HIGH, CENTRE_AND_SIZE) if set(c) <= set(names)), None)
    if columns is None:
        raise AnnotationError(
            f"{path}: has the columns {', '.join(names)}; expected {', '.join(LOW_AND_HIGH)} or "
            f"{', '.join(CENTRE_AND_SIZE)}, in LPS mm"
        )
    if rows and "image_path" in names:
        images = {Path(row["image_path"] or "").name for row in rows}
        if image.name not in images:
            raise AnnotationError(
                f"{path}: its {len(images)} images do not include {image.name}; expected that "
                "name in image_path, or mask_kind 'none' where the scan holds no lesion"
            )
    boxes = [
        _parse_box(path, number, row, columns)
        for number, row in enumerate(rows, start=2)
        if "image_path" not in names or Path(row["image_path"] or "").name == image.name
    ]
    return np.array(boxes, dtype=float).reshape(-1, 6)


def mask_box(one: InstanceMask) -> list[float]:
    """Return the tight box ``(z1, y1, x1, z2, y2, x2)`` of a mask in voxel edges."""
    high = [c + n for c, n in zip(one.corner, one.mask.shape, strict=True)]
    return [float(edge) for edge in (*one.corner, *high)]


def _parse_box(
    path: Path, number: int, row: dict[str, str | None], columns: tuple[str, ...]
) -> list[float]:
    """Return low and high corner, in mm, of one row."""
    try:
        first, second = np.array([float(row[name] or "") for name in columns]).reshape(2, 3)
    except ValueError:
        first = second = np.full(3, np.nan)
    if columns is CENTRE_AND_SIZE:
        first, second = first - second / 2, first + second / 2
    if not (np.isfinite(first + second).all() and (second > first).all()):
        given = ", ".join(row[name] or "nothing" for name in columns)
        raise AnnotationError(
            f"{path}, line {number}: {', '.join(columns)} are {given}; expected six numbers in "
            "mm that make a box of positive size"
        )
    return [*first.tolist(), *second.tolist()]


def _place_boxes(boxes_mm: Boxes, grid: ModelGrid, path: Path) -> Boxes:
    space = Volume(np.broadcast_to(np.zeros((), np.int8), grid.shape), grid.affine)
    boxes = space.boxes_from_world(boxes_mm)
    centers = (boxes[:, :3] + boxes[:, 3:]) / 2
    outside = ((centers < 0) | (centers > np.array(grid.shape))).any(axis=1)
    if outside.any():
        where = ", ".join(f"{v:.1f}" for v in boxes_mm[outside][0])
        raise AnnotationError(
            f"{path}: {outside.sum()} of {len(boxes)} boxes lie outside the scan, the first at "
            f"{where} mm; expected LPS mm: x to the left, y to the back, z to the head"
        )
    high = np.array(grid.shape, dtype=float)
    return np.hstack([boxes[:, :3].clip(0, high), boxes[:, 3:].clip(0, high)])


def without_duplicates(boxes: Boxes, masked: Float[np.ndarray, "m 6"]) -> Float[np.ndarray, "k 6"]:
    """Return the boxes, in their order, that hold no lesion which has a mask too.

    Args:
        boxes: ``(n, 6)`` around lesions.
        masked: ``(m, 6)`` around the masks, in the same coordinates.
    """
    iou = box_iou(boxes, masked)
    new: Float[np.ndarray, "k 6"] = boxes[iou.max(axis=1, initial=0.0) <= DUPLICATE_IOU]
    return new


def check_on_grid(path: Path, labels: Volume, scan: Volume, scan_name: str) -> None:
    """Check that a mask lies on the grid of its scan; both in the axes closest to LPS.

    Raises:
        AnnotationError: it does not.
    """
    corners = np.array([[0.0, 0, 0], scan.shape])
    apart_mm = np.abs(labels.edge_to_world(corners) - scan.edge_to_world(corners)).max()
    if labels.shape != scan.shape or apart_mm > SAME_GRID_VOX * min(scan.spacing_zyx_mm):
        raise AnnotationError(
            f"{path}: has shape {labels.shape} along S, P, L and its corners lie up to "
            f"{apart_mm:.2f} mm from those of {scan_name} of shape {scan.shape}; expected a mask "
            "on the scan's own grid: resample it"
        )


def _read_on_grid(path: Path, volume: Volume) -> Volume:
    """Read a label map and put it in the axes of its scan."""
    labels = read_labels(path)
    if int(labels.voxels.min(initial=0)) < 0:
        raise AnnotationError(f"{path}: holds negative labels; expected 0 and positive numbers")
    turned, reference = labels.closest_lps(), volume.closest_lps()
    check_on_grid(path, turned, reference, "the scan")
    return replace(turned, affine=reference.affine)


def _read_instances(path: Path, kind: MaskKind, volume: Volume) -> tuple[Volume, bool]:
    """Read a mask in the axes of its scan; return it, and whether one label was split."""
    labels = _read_on_grid(path, volume)
    split = kind is MaskKind.AUTO and int(labels.voxels.max(initial=0)) == 1
    return (_components(labels) if split else labels), split


def _components(labels: Volume) -> Volume:
    """Split the positive voxels into parts that touch by a face, an edge or a corner."""
    positive = labels.voxels > 0
    region = ndimage.find_objects(positive.view(np.uint8))
    if not region:
        return labels
    parts, count = ndimage.label(positive[region[0]], structure=np.ones((3, 3, 3)))
    voxels = np.zeros(labels.shape, dtype=np.int16 if count < 2**15 else np.int32)
    voxels[region[0]] = parts
    return labels.with_voxels(voxels)
