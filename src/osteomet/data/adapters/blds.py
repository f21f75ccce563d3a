"""BLDS: volumes and one CSV of boxes around bone lesions, centre and extent in LPS mm, no masks."""

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from osteomet.data.adapters.drafts import Draft, Request, Skipped, attempt, volumes_in
from osteomet.data.annotations import CENTRE_AND_SIZE, read_boxes_mm
from osteomet.data.manifest import Case
from osteomet.errors import AnnotationError, InputError
from osteomet.findings import PrimaryTumour
from osteomet.io.volumes import read_grid


def find_scans(request: Request) -> Iterator[Draft | Skipped]:
    """Yield each volume that the table of boxes names; the cohort points at both.

    Raises:
        InputError: there is not one table of boxes.
    """
    table = _table(request.source)
    for name, image in volumes_in(request.source).items():
        yield attempt(image.name, partial(_draft, request, name, image, table))


def _draft(request: Request, name: str, image: Path, table: Path) -> Draft:
    boxes = read_boxes_mm(table, image)
    scan = read_grid(image)
    centres = scan.world_to_edge((boxes[:, :3] + boxes[:, 3:]) / 2)
    outside = int(((centres < 0) | (centres > scan.shape)).any(axis=1).sum())
    if outside:
        raise AnnotationError(
            f"{outside} of its {len(boxes)} boxes lie outside the scan; expected LPS mm"
        )
    centre = request.centre or "blds"
    return Draft(Case(name, name, image, None, centre, PrimaryTumour.UNKNOWN, boxes=table))


def _table(source: Path) -> Path:
    found = []
    for path in sorted(source.glob("*.csv")):
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            names = next(csv.reader(file), [])
        if {"image_path", *CENTRE_AND_SIZE} <= set(names):
            found.append(path)
    if len(found) != 1:
        raise InputError(
            f"{source}: has {len(found)} tables with the columns image_path, "
            f"{', '.join(CENTRE_AND_SIZE)}; expected one beside the volumes"
        )
    return found[0]
