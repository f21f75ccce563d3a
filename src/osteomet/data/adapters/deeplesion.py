"""DeepLesion, bone lesions: PNG slices around key slices, and a box in each key slice.

The boxes become weak 3D ones: the set pads a box by 5 pixels on each side, which is taken off, and
the short diameter stands for the extent across slices. Slices count from head to foot, as in the
set's own conversion to NIfTI. Only rows of type bone are used, which the training rows lack; the
set's split therefore is of no use and is not kept. A scan's other lesions are not annotated.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from osteomet.data.adapters.drafts import Draft, Request, Skipped, attempt
from osteomet.data.adapters.tables import Row, age_of, only_table, read_csv, sex_of
from osteomet.data.annotations import LOW_AND_HIGH
from osteomet.data.manifest import Case
from osteomet.data.manifest_writer import write_table
from osteomet.errors import AnnotationError, InputError
from osteomet.findings import PrimaryTumour
from osteomet.io.png_stack import read_png_stack
from osteomet.io.series_choice import MIN_SLICES
from osteomet.io.volumes import write_volume
from osteomet.volume import Volume

TABLE = "DL_info.csv"
COLUMNS = (
    "File_name",
    "Patient_index",
    "Key_slice_index",
    "Bounding_boxes",
    "Coarse_lesion_type",
    "Spacing_mm_px_",
)
BONE = 1
PADDING_PX = 5


@dataclass(frozen=True)
class _Run:
    """Consecutive slices of one series."""

    series: str
    numbers: range


def find_scans(request: Request) -> Iterator[Draft | Skipped]:
    """Yield each run of slices with bone lesions.

    Raises:
        InputError: the table is missing, or has no bone lesion.
    """
    rows = read_csv(only_table(request.source, TABLE), COLUMNS)
    bone = [row for row in rows if _numbers(row["Coarse_lesion_type"]) == [BONE]]
    if not bone:
        raise InputError(
            f"{request.source}: none of the {len(rows)} rows of {TABLE} has Coarse_lesion_type 1, "
            "bone; expected the table of the whole set"
        )
    runs: dict[_Run, list[Row]] = defaultdict(list)
    for row in bone:
        series = row["File_name"].rpartition("_")[0]
        run = _run_around(request.source, series, int(_numbers(row["Key_slice_index"])[0]))
        if run is None:
            yield Skipped(row["File_name"], "the key slice is not there; expected it in Images_png")
            continue
        runs[run].append(row)
    for run, lesions in runs.items():
        name = f"{run.series}_{run.numbers[0]:03d}-{run.numbers[-1]:03d}"
        yield attempt(name, partial(_draft, request, name, run, lesions))


def _draft(request: Request, name: str, run: _Run, rows: Sequence[Row]) -> Draft:
    clean = [row for row in rows if _numbers(row.get("Possibly_noisy", "")) != [1]]
    if not clean:
        raise AnnotationError("its annotations are marked as possibly noisy")
    if len(run.numbers) < MIN_SLICES:
        raise AnnotationError(f"has {len(run.numbers)} slices; expected at least {MIN_SLICES}")
    volume = _volume(request.source, run, clean[0])
    boxes = np.array([_box(row, run, volume) for row in clean])
    image = request.converted("images", name)
    write_volume(image, _upright(volume))
    table = request.converted("boxes", name, ".csv")
    extents = volume.boxes_to_world(boxes).round(3).tolist()
    write_table(table, LOW_AND_HIGH, [dict(zip(LOW_AND_HIGH, box, strict=True)) for box in extents])
    case = Case(
        name,
        f"deeplesion_{clean[0]['Patient_index']}",
        image,
        None,
        request.centre or "deeplesion",
        PrimaryTumour.UNKNOWN,
        age=age_of(clean[0].get("Patient_age", "")),
        sex=sex_of(clean[0].get("Patient_gender", "")),
        boxes=table,
    )
    noisy = len(rows) - len(clean)
    note = f"{noisy} lesions marked as possibly noisy were left out: they count as background"
    return Draft(case, (note,) if noisy else ())


def _volume(source: Path, run: _Run, row: Row) -> Volume:
    spacing = _numbers(row["Spacing_mm_px_"])
    if len(spacing) != 3 or not np.isfinite(spacing).all() or 0 in spacing:
        raise AnnotationError(
            f"its Spacing_mm_px_ is {row['Spacing_mm_px_']!r}; expected three lengths other than 0"
        )
    x, y, z = spacing
    voxels = read_png_stack([_file(source, run.series, number) for number in run.numbers])
    affine = np.diag([-z, abs(y), abs(x), 1.0])
    affine[:3, :3] = affine[[2, 1, 0], :3]
    return Volume(voxels, affine)


def _box(row: Row, run: _Run, volume: Volume) -> Float[np.ndarray, "6"]:
    """Return the weak box ``(z1, y1, x1, z2, y2, x2)`` of a lesion, in voxel edges."""
    corners = _numbers(row["Bounding_boxes"])
    if len(corners) != 4:
        raise AnnotationError(
            f"its Bounding_boxes are {row['Bounding_boxes']!r}; expected x1, y1, x2, y2"
        )
    x1, y1, x2, y2 = corners
    centre = np.array([_numbers(row["Key_slice_index"])[0] - run.numbers[0], 0, 0]) + 0.5
    centre[1:] = (y1 + y2) / 2 + 0.5, (x1 + x2) / 2 + 0.5
    height = max(y2 - y1 - 2 * PADDING_PX, 1.0)
    width = max(x2 - x1 - 2 * PADDING_PX, 1.0)
    diameters = _numbers(row.get("Lesion_diameters_Pixel_", ""))
    depth_px = min(diameters) if len(diameters) == 2 else min(width, height)
    dz, _, dx = volume.spacing_zyx_mm
    size = np.array([max(depth_px * dx / dz, 1.0), height, width])
    return np.concatenate([centre - size / 2, centre + size / 2])


def _upright(volume: Volume) -> Volume:
    turned = volume.closest_lps()
    return turned.with_voxels(np.ascontiguousarray(turned.voxels))


def _run_around(source: Path, series: str, number: int) -> _Run | None:
    """Return the consecutive slices on disk that hold slice ``number``; None without it."""
    if not _file(source, series, number).is_file():
        return None
    first = last = number
    while _file(source, series, first - 1).is_file():
        first -= 1
    while _file(source, series, last + 1).is_file():
        last += 1
    return _Run(series, range(first, last + 1))


def _file(source: Path, series: str, number: int) -> Path:
    folder = source / "Images_png"
    return (folder if folder.is_dir() else source) / series / f"{number:03d}.png"


def _numbers(text: str) -> list[float]:
    return [float(one) for one in re.findall(r"nan|-?\d+(?:\.\d+)?(?:e-?\d+)?", text.lower())]
