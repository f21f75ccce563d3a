"""Any folder of volumes in which names tell which mask belongs to which scan.

Three layouts, also mixed: ``images/p1.nii.gz`` and ``masks/p1.nii.gz``; ``p1_ct.nii.gz`` beside
``p1_mask.nii.gz``; ``p1/image.nii.gz`` beside ``p1/mask.nii.gz``. The cohort points at the files.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from osteomet.data.adapters.drafts import Draft, Request, Skipped, attempt, file_name, stem
from osteomet.data.adapters.grids import check_same_grid
from osteomet.data.manifest import Case
from osteomet.errors import AnnotationError
from osteomet.findings import PrimaryTumour
from osteomet.io.volumes import FORMATS

MASK_WORDS = {"mask", "masks", "label", "labels", "labelstr", "seg", "segmentation"} | {
    "segmentations",
    "lesions",
    "annotation",
    "annotations",
}
IMAGE_WORDS = {"image", "images", "imagestr", "img", "ct", "scan", "scans", "volume", "0000"}


def find_scans(request: Request) -> Iterator[Draft | Skipped]:
    """Yield each scan that has a mask of its name; patients are scans unless a table says more."""
    pairs: dict[str, tuple[list[Path], list[Path]]] = defaultdict(lambda: ([], []))
    for path in _volumes_below(request.source):
        key, is_mask = _key(path.relative_to(request.source))
        pairs[key or request.source.resolve().name][is_mask].append(path)
    for key, (images, masks) in pairs.items():
        yield attempt(key, partial(_draft, request, key, images, masks))


def _draft(request: Request, key: str, images: list[Path], masks: list[Path]) -> Draft:
    if len(images) != 1 or len(masks) != 1:
        names = ", ".join(path.name for path in (images + masks)[:4])
        raise AnnotationError(
            f"there are {len(images)} scans and {len(masks)} masks of this name ({names}); "
            "expected one of each"
        )
    check_same_grid(images[0], masks[0])
    name = file_name(key)
    centre = request.centre or file_name(request.source.resolve().name)
    return Draft(Case(name, name, images[0], masks[0], centre, PrimaryTumour.UNKNOWN))


def _volumes_below(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(tuple(FORMATS)) and not name.startswith("."):
                yield Path(parent, name)


def _key(path: Path) -> tuple[str, bool]:
    """Return what a scan and its mask have in common, and whether this is the mask."""
    is_mask, kept = False, []
    for part in (*path.parent.parts, stem(path)):
        words = re.split(r"[_\-. ]+", part)
        # Words that tell the role stand first or last: "lesion" may also be part of a name.
        for place in (-1, 0):
            word = words[place].lower() if words else ""
            is_mask |= word in MASK_WORDS
            if word in MASK_WORDS | IMAGE_WORDS:
                words.pop(place)
        kept += ["_".join(words)] if words else []
    return "_".join(kept), is_mask
