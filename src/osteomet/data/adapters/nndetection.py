"""The layout of nnDetection: a map of instances a case, and a JSON with the class of each.

``[raw_splitted/]imagesTr/ID_0000.nii.gz``, ``labelsTr/ID.nii.gz`` and ``labelsTr/ID.json``; the
primary is known where the data set's classes are called lung and other.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from osteomet.data.adapters.drafts import Draft, Request, Skipped, attempt, file_name, volumes_in
from osteomet.data.adapters.grids import check_same_grid
from osteomet.data.adapters.nnunet import (
    TEST_FOLDER,
    TRAIN_FOLDER,
    channel_images,
    ct_channel,
    read_json,
)
from osteomet.data.manifest import Case, MaskKind
from osteomet.errors import AnnotationError
from osteomet.findings import PrimaryTumour


def find_scans(request: Request) -> Iterator[Draft | Skipped]:
    """Yield each case that has a map of instances.

    Raises:
        InputError: ``dataset.json`` is missing or wrong, or no channel is CT.
    """
    path = request.source / "dataset.json"
    settings = read_json(path)
    channel = ct_channel(path, settings)
    centre = request.centre or file_name(str(settings.get("name") or request.source.resolve().name))
    classes = {str(number): str(name) for number, name in (settings.get("labels") or {}).items()}
    split = request.source / "raw_splitted"
    root = split if split.is_dir() else request.source
    for side in (TRAIN_FOLDER, TEST_FOLDER):
        images, folder = root / f"images{side}", root / f"labels{side}"
        if not images.is_dir() and side == TEST_FOLDER:
            continue
        labels = volumes_in(folder) if folder.is_dir() else {}
        given = "test" if side == TEST_FOLDER else None
        for name, image in channel_images(images, channel).items():
            files = (image, labels.get(name))
            yield attempt(name, partial(_draft, name, *files, given, centre, classes))


def _draft(
    name: str,
    image: Path,
    mask: Path | None,
    split: str | None,
    centre: str,
    classes: Mapping[str, str],
) -> Draft:
    if mask is None:
        raise AnnotationError("it has no map of instances; expected one of its name in labelsTr")
    check_same_grid(image, mask)
    table = mask.with_name(f"{name}.json")
    notes = []
    instances = read_json(table).get("instances", {}) if table.is_file() else {}
    if not table.is_file():
        notes.append(f"there is no {table.name}: the classes of its instances are not known")
    primary, doubt = _primary({classes.get(str(one), "").lower() for one in instances.values()})
    case = Case(name, name, image, mask, centre, primary, split=split, mask_kind=MaskKind.INSTANCE)
    return Draft(case, (*notes, *doubt))


def _primary(names: set[str]) -> tuple[PrimaryTumour, tuple[str, ...]]:
    if names == {"lung"}:
        return PrimaryTumour.LUNG, ()
    if names == {"other"}:
        return PrimaryTumour.OTHER, ()
    if names == {"lung", "other"}:
        return PrimaryTumour.UNKNOWN, (
            "its lesions have the classes lung and other: a patient has one primary, so it is "
            "unknown",
        )
    return PrimaryTumour.UNKNOWN, ()
