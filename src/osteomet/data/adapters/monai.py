"""MONAI's datalists for detection: images, boxes as centre and size in LPS mm, and classes.

``{"training": [{"image": ..., "box": [[x, y, z, w, h, d], ...], "label": [0, ...]}, ...]}``, and
likewise ``validation`` and ``test``, in one JSON file whose paths are relative to its folder.
``osteomet export`` adds ``mask``, ``patient``, ``primary`` and what the ``classes`` are.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from osteomet.data.adapters.drafts import Draft, Request, Skipped, attempt, primary_of, stem
from osteomet.data.adapters.grids import check_same_grid
from osteomet.data.adapters.nnunet import read_json
from osteomet.data.annotations import CENTRE_AND_SIZE
from osteomet.data.manifest import Case, MaskKind
from osteomet.data.manifest_writer import write_table
from osteomet.errors import AnnotationError, InputError
from osteomet.findings import PrimaryTumour

DATALIST = "datalist.json"
SIDES = {"training": "train", "validation": "val", "test": "test"}

Entry = Mapping[str, Any]


def find_scans(request: Request) -> Iterator[Draft | Skipped]:
    """Yield each entry that has boxes or a mask.

    Raises:
        InputError: there is not one datalist, or it cannot be read.
    """
    path = _datalist(request.source)
    settings = read_json(path)
    names = {str(number): str(name) for number, name in (settings.get("classes") or {}).items()}
    for key, side in SIDES.items():
        entries = settings.get(key) or []
        if not isinstance(entries, list):
            raise InputError(f"{path}: {key} is no list; expected one entry for each scan")
        for entry in entries:
            # The Decathlon's tests are images alone.
            given = entry if isinstance(entry, dict) else {"image": entry}
            name = stem(Path(str(given.get("image") or key)))
            yield attempt(name, partial(_draft, request, name, given, side, names))


def _datalist(source: Path) -> Path:
    found = sorted(source.glob("*.json"))
    path = source / DATALIST
    if path in found or len(found) == 1:
        return path if path in found else found[0]
    raise InputError(f"{source}: has {len(found)} JSON files; expected one, or {DATALIST}")


def _draft(request: Request, name: str, entry: Entry, side: str, names: Mapping[str, str]) -> Draft:
    image = request.source / str(entry.get("image"))
    if not image.is_file():
        raise AnnotationError(f"{image}: there is no such file; expected the image of the entry")
    mask, boxes = None, None
    if "mask" in entry:
        mask = request.source / str(entry["mask"])
        check_same_grid(image, mask)
    elif "box" in entry:
        boxes = _written(request, name, entry["box"])
    else:
        raise AnnotationError("it has neither box nor mask; expected one of them")
    return Draft(
        Case(
            scan_id=name,
            patient_id=str(entry.get("patient") or name),
            image=image,
            mask=mask,
            centre=request.centre or request.source.resolve().name,
            primary=_primary(entry, names),
            split=side,
            mask_kind=MaskKind.INSTANCE if mask is not None else MaskKind.AUTO,
            boxes=boxes,
        )
    )


def _written(request: Request, name: str, boxes: object) -> Path:
    """Write boxes as a table, which whoever reads it checks."""
    rows = boxes if isinstance(boxes, list) else None
    if rows is None or any(not isinstance(row, list) or len(row) != 6 for row in rows):
        raise AnnotationError(f"its boxes are {boxes!r}; expected lists of six numbers, in LPS mm")
    path = request.converted("boxes", name, ".csv")
    write_table(
        path, CENTRE_AND_SIZE, [dict(zip(CENTRE_AND_SIZE, row, strict=True)) for row in rows]
    )
    return path


def _primary(entry: Entry, names: Mapping[str, str]) -> PrimaryTumour:
    if "primary" in entry:
        return primary_of(str(entry["primary"]))
    known = {"lung": PrimaryTumour.LUNG, "other": PrimaryTumour.OTHER}
    labels = {names.get(str(label), "").lower() for label in entry.get("label") or []}
    return (
        known.get(labels.pop(), PrimaryTumour.UNKNOWN)
        if len(labels) == 1
        else PrimaryTumour.UNKNOWN
    )
