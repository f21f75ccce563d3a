"""DICOM RT Structure Set (PS3.3 C.8.8.6): its contours as regions on a scan's grid.

A voxel is inside where its centre is inside the contours of its slice by the even-odd rule, so
that a contour within another one is a hole, and a hole joined to its outline by a keyhole is one
too (C.8.8.6.3).
"""

import re
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from pydicom.dataset import Dataset

from osteomet.errors import AnnotationError
from osteomet.io.dicom_headers import read_dataset, text
from osteomet.io.regions import Region, Regions, chosen, paint
from osteomet.io.scan_record import blaming
from osteomet.volume import Volume

Polygon = Float[np.ndarray, "_ 2"]
Contour = Float[np.ndarray, "_ 3"]

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")

FLAT_VOX = 0.5
"""A contour may leave its slice by this share of the slice distance, and still is of that slice."""

OFF_SLICE_VOX = 0.25
"""Contours that lie further from the nearest slice were drawn on another series."""

SAME_PLANE_VOX = 0.05


@dataclass(frozen=True, eq=False)
class _Plane:
    """The contours at one height.

    Attributes:
        height: in slices of the scan, fractional.
        polygons: ``(y, x)`` centre indices on the scan.
    """

    height: float
    polygons: list[Polygon]


def read_structures(path: Path, scan: Volume, pattern: re.Pattern[str] | None = None) -> Regions:
    """Read the regions of a structure set whose name or type match.

    Args:
        path: the file.
        scan: whose grid is wanted; contours must be parallel to its slices.
        pattern: which regions; None takes those that are called lesions, GTV among them.

    Raises:
        AnnotationError: the file is no structure set, no region matches, its contours are not
            parallel to the slices, or nothing of it lies on the scan.
    """
    with blaming(path), warnings.catch_warnings():
        # pydicom warns of each oddity in a header; what matters is checked here.
        warnings.simplefilter("ignore")
        dataset = _read(path)
        described = _descriptions(dataset)
        wanted, notes = chosen(list(described.values()), pattern)
        contours = _contours(dataset)
        regions, doubts = [], []
        for number in (list(described)[n] for n in wanted):
            name = described[number].partition("\n")[0]
            region, found = _region(name, contours.get(number, []), scan)
            regions.append(region)
            doubts += [f"region {name!r}: {doubt}" for doubt in found]
        if not any(region.mask.any() for region in regions):
            raise AnnotationError(
                "none of its contours lies on the scan; expected a structure set of this series"
            )
        painted = paint(regions, scan.shape)
        return Regions(painted.labels, painted.names, (*notes, *doubts, *painted.warnings))


def fill_polygons(
    polygons: Sequence[Polygon], shape: tuple[int, int]
) -> Bool[np.ndarray, "rows columns"]:
    """Return which pixel centres lie inside closed polygons, by the even-odd rule.

    Args:
        polygons: ``(y, x)`` in pixels, centres at whole numbers; the last point joins the first.
            Points may lie outside the image. None gives an empty image.
        shape: rows and columns.
    """
    rows, columns = shape
    crossings = np.zeros((rows, columns + 1), dtype=np.uint8)
    for polygon in polygons:
        (y1, x1), (y2, x2) = polygon.T, np.roll(polygon, -1, axis=0).T
        # An edge crosses the rows from its lower end up to, and without, its upper end: a vertex
        # on a row counts once, and an edge along a row not at all.
        first = np.ceil(np.minimum(y1, y2)).clip(0, rows).astype(int)
        last = np.ceil(np.maximum(y1, y2)).clip(0, rows).astype(int)
        edge = np.repeat(np.arange(len(polygon)), last - first)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(last - first) - last, last - first)
        x = x1[edge] + (row - y1[edge]) * (x2 - x1)[edge] / (y2 - y1)[edge]
        np.add.at(crossings, (row, np.ceil(x).clip(0, columns).astype(int)), 1)
    # Modulo 256 the sum keeps its parity.
    inside: Bool[np.ndarray, "rows columns"]
    inside = np.cumsum(crossings, axis=1, dtype=np.uint8)[:, :columns] % 2 == 1
    return inside


def _read(path: Path) -> Dataset:
    try:
        with path.open("rb") as stream:
            dataset = read_dataset(stream)
        modality = text(dataset, "Modality")
    except Exception as error:  # pydicom raises whatever its parser trips over in a damaged file
        raise AnnotationError("cannot be read as DICOM; expected an RTSTRUCT file") from error
    if modality != "RTSTRUCT":
        raise AnnotationError(f"has modality {modality}; expected an RTSTRUCT file")
    return dataset


def _descriptions(dataset: Dataset) -> dict[int, str]:
    """Return, by ROI number, name and interpreted type, parted by a line break."""
    kinds = {
        int(item.ReferencedROINumber): text(item, "RTROIInterpretedType") or ""
        for item in dataset.get("RTROIObservationsSequence", [])
    }
    found = {}
    for item in dataset.get("StructureSetROISequence", []):
        number = int(item.ROINumber)
        name = text(item, "ROIName") or f"region {number}"
        found[number] = f"{name}\n{kinds.get(number, '')}"
    if not found:
        raise AnnotationError("holds no regions; expected at least one with contours")
    return found


def _contours(dataset: Dataset) -> dict[int, list[Contour]]:
    """Return, by ROI number, the points of its closed contours in LPS mm."""
    found: dict[int, list[Contour]] = {}
    for item in dataset.get("ROIContourSequence", []):
        found[int(item.ReferencedROINumber)] = [
            np.array(contour.ContourData, dtype=float).reshape(-1, 3)
            for contour in item.get("ContourSequence") or []
            if text(contour, "ContourGeometricType") in CLOSED and len(contour.ContourData) >= 9
        ]
    return found


def _region(name: str, contours: list[Contour], scan: Volume) -> tuple[Region, list[str]]:
    empty = Region(name, (0, 0, 0), np.zeros((0, 0, 0), dtype=bool))
    planes = _planes(name, contours, scan)
    if not planes:
        return empty, ["it has no closed contour"]
    heights = np.array([plane.height for plane in planes])
    of_slice, doubts = _nearest_planes(heights, scan)
    if not of_slice:
        return empty, doubts
    low, high = min(of_slice), max(of_slice) + 1
    mask = np.zeros((high - low, *scan.shape[1:]), dtype=bool)
    for k, plane in of_slice.items():
        mask[k - low] = fill_polygons(planes[plane].polygons, scan.shape[1:])
    return Region(name, (low, 0, 0), mask), doubts


def _planes(name: str, contours: list[Contour], scan: Volume) -> list[_Plane]:
    """Return the contours by rising height, those at one height together."""
    by_height: dict[int, list[Contour]] = defaultdict(list)
    for contour in contours:
        index = scan.world_to_index(contour)
        if np.ptp(index[:, 0]) > FLAT_VOX:
            raise AnnotationError(
                f"a contour of region {name!r} spans {np.ptp(index[:, 0]):.1f} slices; expected "
                "contours parallel to the slices of the scan"
            )
        by_height[round(float(index[:, 0].mean()) / SAME_PLANE_VOX)].append(index)
    return [
        _Plane(float(np.mean([one[:, 0].mean() for one in group])), [one[:, 1:] for one in group])
        for _, group in sorted(by_height.items())
    ]


def _nearest_planes(
    heights: Float[np.ndarray, " planes"], scan: Volume
) -> tuple[dict[int, int], list[str]]:
    """Return, for each slice within half a step of a plane, the nearest plane; and doubts.

    Contours drawn on thicker slices than the scan's stand for all the slices of their step.
    """
    step = float(np.median(np.diff(heights))) if len(heights) > 1 else 1.0
    # A slice in the middle between two planes belongs to one of them, not to none.
    reach = max(step, 1.0) / 2 + 1e-3
    slices = range(
        max(0, int(np.ceil(heights[0] - reach))),
        min(scan.shape[0], int(np.floor(heights[-1] + reach)) + 1),
    )
    nearest = {k: int(np.abs(heights - k).argmin()) for k in slices}
    of_slice = {k: n for k, n in nearest.items() if abs(heights[n] - k) <= reach}
    return of_slice, _doubts(heights, step, of_slice, scan)


def _doubts(
    heights: Float[np.ndarray, " planes"], step: float, of_slice: dict[int, int], scan: Volume
) -> list[str]:
    doubts = []
    thickness = scan.spacing_zyx_mm[0]
    if step > 1.5:
        doubts.append(
            f"contours every {step * thickness:.1f} mm on slices every {thickness:.1f} mm: slices "
            "between take the nearest contour"
        )
    elif np.abs(heights - np.rint(heights)).max() > OFF_SLICE_VOX:
        doubts.append("contours lie between the slices: they were drawn on another series")
    outside = int(((heights < -FLAT_VOX) | (heights > scan.shape[0] - 1 + FLAT_VOX)).sum())
    if outside:
        doubts.append(f"{outside} of {len(heights)} planes of contours lie outside the scan")
    left_out = len(heights) - outside - len(set(of_slice.values()))
    if left_out > 0:
        doubts.append(f"{left_out} planes of contours lie between slices and were left out")
    gaps = len(range(min(of_slice), max(of_slice) + 1)) - len(of_slice) if of_slice else 0
    if gaps:
        doubts.append(f"{gaps} slices between its first and last have no contour")
    return doubts
