"""DICOM SEG (PS3.3 A.51): its segments as regions on a scan's grid."""

import re
import warnings
from pathlib import Path

from highdicom.seg import Segmentation, segread

from osteomet.errors import AnnotationError
from osteomet.io.dicom_headers import text
from osteomet.io.regions import Regions, chosen, paint, sample
from osteomet.io.scan_record import blaming
from osteomet.volume import Volume


def read_segmentation(path: Path, scan: Volume, pattern: re.Pattern[str] | None = None) -> Regions:
    """Read the segments of a DICOM SEG whose label, type or category match.

    Binary, fractional and label-map segmentations are read, on the scan's grid or another one:
    then they are resampled.

    Args:
        path: the file.
        scan: whose grid is wanted.
        pattern: which segments; None takes those that are called lesions.

    Raises:
        AnnotationError: the file is no DICOM SEG, its frames make no grid, no segment matches,
            or nothing of it lies on the scan.
    """
    with blaming(path), warnings.catch_warnings():
        # pydicom and highdicom warn of each oddity in a header; what matters is checked here.
        warnings.simplefilter("ignore")
        segmentation = _read(path)
        described = _descriptions(segmentation)
        numbers, notes = chosen(list(described.values()), pattern)
        regions, outside, total = [], 0, 0
        for number in (list(described)[n] for n in numbers):
            region, beyond = sample(_share(segmentation, number), _label(described[number]), scan)
            regions.append(region)
            outside += beyond
            total += int(region.mask.sum())
        if outside and not total:
            raise AnnotationError(
                "all of its segments lie outside the scan; expected a segmentation of this series"
            )
        painted = paint(regions, scan.shape)
        beyond_scan = f"{outside} voxels of the segmentation lie outside the scan"
        found = (*notes, *painted.warnings, *((beyond_scan,) if outside else ()))
        return Regions(painted.labels, painted.names, found)


def segment_labels(path: Path) -> tuple[str, ...]:
    """Return what a DICOM SEG calls its segments.

    Raises:
        AnnotationError: the file is no DICOM SEG.
    """
    with blaming(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tuple(_label(one) for one in _descriptions(_read(path)).values())


def _read(path: Path) -> Segmentation:
    try:
        return segread(path)
    except Exception as error:  # highdicom raises whatever a damaged header makes it trip over
        raise AnnotationError(
            f"is no DICOM SEG that can be read ({_reason(error)}); expected a segmentation object"
        ) from error


def _descriptions(segmentation: Segmentation) -> dict[int, str]:
    """Return, by segment number, label, type and category, parted by line breaks."""
    found = {}
    for item in segmentation.SegmentSequence:
        parts = [text(item, "SegmentLabel") or f"segment {item.SegmentNumber}"]
        for keyword in (
            "SegmentedPropertyTypeCodeSequence",
            "SegmentedPropertyCategoryCodeSequence",
        ):
            parts += [text(code, "CodeMeaning") or "" for code in item.get(keyword, [])]
        found[int(item.SegmentNumber)] = "\n".join(parts)
    return found


def _label(description: str) -> str:
    return description.partition("\n")[0]


def _share(segmentation: Segmentation, number: int) -> Volume:
    """Return one segment from 0 to 1 on the grid of its own frames."""
    try:
        volume = segmentation.get_volume(segment_numbers=[number], combine_segments=False)
        return Volume(volume.array[..., 0], volume.affine)
    except Exception as error:  # highdicom raises ValueError, RuntimeError and others for geometry
        raise AnnotationError(
            f"the frames of segment {number} make no regular grid ({_reason(error)}); expected "
            "parallel frames at equal distances"
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
