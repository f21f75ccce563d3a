"""ULS23, bone lesions: crops of 256 x 256 x 128 voxels around one lesion each, without primary.

``.../ULS23_Radboudumc_Bone/{images,labels}/bone_XXXXX_lesion_YY.nii.gz``. Lesions of one patient
come in several crops, and other lesions in a crop are not annotated.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from osteomet.data.adapters.drafts import Draft, Request, Skipped, attempt, volumes_in
from osteomet.data.adapters.grids import check_same_grid
from osteomet.data.manifest import Case, MaskKind
from osteomet.errors import AnnotationError, InputError
from osteomet.findings import PrimaryTumour

NAME = re.compile(r"(bone_\w+?)_lesion_\w+", re.IGNORECASE)


def find_scans(request: Request) -> Iterator[Draft | Skipped]:
    """Yield each crop of the bone set; crops of one patient share it.

    Raises:
        InputError: the set is not below the source.
    """
    folder = _folder(request.source)
    images, labels = volumes_in(folder / "images"), volumes_in(folder / "labels")
    for name, image in images.items():
        yield attempt(name, partial(_draft, request, name, image, labels.get(name)))


def _draft(request: Request, name: str, image: Path, mask: Path | None) -> Draft:
    found = NAME.fullmatch(name)
    if found is None:
        raise AnnotationError(f"is called {name}; expected bone_XXXXX_lesion_YY")
    if mask is None:
        raise AnnotationError(f"labels/ has no {image.name}; expected one label map a crop")
    check_same_grid(image, mask)
    centre = request.centre or "uls23"
    # One lesion a crop, also where its mask falls into pieces.
    kind = MaskKind.INSTANCE
    case = Case(name, found[1], image, mask, centre, PrimaryTumour.UNKNOWN, mask_kind=kind)
    return Draft(case)


def _folder(source: Path) -> Path:
    for folder in (source, *sorted(source.rglob("ULS23_Radboudumc_Bone"))):
        if (folder / "images").is_dir() and (folder / "labels").is_dir():
            return folder
    raise InputError(
        f"{source}: holds no ULS23_Radboudumc_Bone with images and labels; expected the unpacked "
        "set, or that folder itself"
    )
