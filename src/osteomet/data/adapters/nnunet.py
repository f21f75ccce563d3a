"""The layout of nnU-Net and of the Medical Segmentation Decathlon.

``imagesTr/ID_0000.nii.gz`` (without ``_0000`` in the Decathlon), ``labelsTr/ID.nii.gz`` and a
``dataset.json`` that names channels and labels; ``imagesTs`` with ``labelsTs`` are the test side.
Primaries may stand in ``cls_data.csv``, with what its numbers mean in ``classification_labels``
of ``dataset.json``. A mask is copied only where it holds more than lesions: labels of classes
and organs say nothing about which voxels are one lesion.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from osteomet.data.adapters.drafts import (
    Draft,
    Request,
    Skipped,
    attempt,
    file_name,
    primary_of,
    volumes_in,
)
from osteomet.data.adapters.grids import check_same_grid
from osteomet.data.manifest import Case
from osteomet.errors import AnnotationError, InputError
from osteomet.findings import PrimaryTumour
from osteomet.io.regions import LESION_WORDS
from osteomet.io.volumes import read_labels, write_labels

ORIGIN = "primary_tumor_origin"
CLASSES = "cls_data.csv"
IGNORE = "ignore"
CALLED_LESION = re.compile(rf"{LESION_WORDS.pattern}|^(lung|other)$", re.IGNORECASE)
TEST_FOLDER, TRAIN_FOLDER = "Ts", "Tr"


@dataclass(frozen=True)
class Dataset:
    """What ``dataset.json`` and the tables beside it say.

    Attributes:
        name: of the data set.
        channel: number of the CT among the channels.
        lesions: label values that are lesions, with their names.
        ignore: label value that is neither; None without one.
        is_pure: whether the only label is 1, a lesion.
        primaries: by case.
        splits: train or val by case; empty where no split is there.
    """

    name: str
    channel: int
    lesions: Mapping[int, str]
    ignore: int | None
    is_pure: bool
    primaries: Mapping[str, PrimaryTumour]
    splits: Mapping[str, str]


def find_scans(request: Request) -> Iterator[Draft | Skipped]:
    """Yield each case that has a label map.

    Raises:
        InputError: ``dataset.json`` is missing or wrong, no channel is CT, no label a lesion.
    """
    dataset = read_dataset(request.source, request.lesions)
    for side in (TRAIN_FOLDER, TEST_FOLDER):
        images = request.source / f"images{side}"
        if not images.is_dir() and side == TEST_FOLDER:
            continue
        folder = request.source / f"labels{side}"
        labels = volumes_in(folder) if folder.is_dir() else {}
        for name, image in channel_images(images, dataset.channel).items():
            split = "test" if side == TEST_FOLDER else dataset.splits.get(name)
            files = (image, labels.get(name))
            yield attempt(name, partial(_draft, request, dataset, name, *files, split))


def read_json(path: Path) -> dict[str, Any]:
    """Read an object from a JSON file.

    Raises:
        InputError: it is missing, damaged or something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); expected an object") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds a {type(found).__name__}; expected an object")
    return found


def ct_channel(path: Path, settings: Mapping[str, Any]) -> int:
    """Return the number of the CT among the channels that ``dataset.json`` names.

    Raises:
        InputError: no channel is CT.
    """
    channels = settings.get("channel_names") or settings.get("modality") or {}
    channels = channels or settings.get("modalities") or {}
    for number, name in channels.items():
        if re.search(r"\bct\b", str(name), re.IGNORECASE):
            return int(number)
    named = ", ".join(map(str, channels.values())) or "none"
    raise InputError(f"{path}: its channels are {named}; expected one called CT")


def channel_images(folder: Path, channel: int) -> dict[str, Path]:
    """Return the images of one channel by case; names without a channel are those of channel 0.

    Raises:
        InputError: there is no such folder.
    """
    found = {}
    for name, path in volumes_in(folder).items():
        case, _, number = name.rpartition("_")
        if not re.fullmatch(r"\d{4}", number):
            case, number = name, "0000"
        if int(number) == channel:
            found[case] = path
    return found


def read_dataset(source: Path, lesions: re.Pattern[str] | None) -> Dataset:
    """Read ``dataset.json`` and what stands beside it.

    Raises:
        InputError: a file is missing or wrong, no channel is CT, no label a lesion.
    """
    path = source / "dataset.json"
    settings = read_json(path)
    labels = _labels(path, settings)
    ignore = next((value for value, name in labels.items() if name.lower() == IGNORE), None)
    named = {value: name for value, name in labels.items() if value not in (0, ignore)}
    wanted = named
    if len(named) > 1 or lesions is not None:
        search = (lesions or CALLED_LESION).search
        wanted = {value: name for value, name in named.items() if search(name)}
    if not wanted:
        raise InputError(
            f"{path}: none of its labels is called a lesion; there are "
            f"{', '.join(named.values()) or 'none'}: name those that are with --lesions PATTERN"
        )
    return Dataset(
        name=file_name(str(settings.get("name") or source.resolve().name)),
        channel=ct_channel(path, settings),
        lesions=wanted,
        ignore=ignore,
        is_pure=list(labels) == [0, 1] and list(wanted) == [1],
        primaries=_primaries(source, settings),
        splits=_splits(source),
    )


def _labels(path: Path, settings: Mapping[str, Any]) -> dict[int, str]:
    """Return names by value; nnU-Net maps names to values, the Decathlon values to names."""
    found: dict[int, str] = {}
    try:
        for key, value in settings["labels"].items():
            for one in value if isinstance(value, list) else [value]:
                number, name = (int(key), str(one)) if str(key).isdigit() else (int(one), str(key))
                found.setdefault(number, name)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: its labels cannot be read; expected names and whole numbers, such as "
            '{"background": 0, "lesion": 1}'
        ) from error
    return dict(sorted(found.items()))


def _primaries(source: Path, settings: Mapping[str, Any]) -> dict[str, PrimaryTumour]:
    meaning = (settings.get("classification_labels") or {}).get(ORIGIN)
    path = source / CLASSES
    if not isinstance(meaning, dict) or not path.is_file():
        return {}
    found = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            value = (row.get("label") or row.get(ORIGIN) or "").strip()
            found[row.get("identifier") or ""] = primary_of(str(meaning.get(value, "")))
    return found


def _splits(source: Path) -> dict[str, str]:
    """Return the sides of the first fold; empty where there are no folds."""
    path = source / "splits_final.json"
    if not path.is_file():
        return {}
    try:
        fold = json.loads(path.read_text(encoding="utf-8-sig"))[0]
        return {str(name): side for side in ("train", "val") for name in fold[side]}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{path}: cannot be read; expected a list of folds with train and val"
        ) from error


def _draft(
    request: Request, dataset: Dataset, name: str, image: Path, mask: Path | None, split: str | None
) -> Draft:
    if mask is None:
        raise AnnotationError("it has no label map; expected one of its name in the labels folder")
    check_same_grid(image, mask)
    primary = dataset.primaries.get(name, PrimaryTumour.UNKNOWN)
    ignore = None
    if not dataset.is_pure:
        mask, ignore, seen = _converted(request, dataset, name, mask)
        primary = primary if name in dataset.primaries else seen
    centre = request.centre or dataset.name
    return Draft(Case(name, name, image, mask, centre, primary, split, ignore=ignore))


def _converted(
    request: Request, dataset: Dataset, name: str, mask: Path
) -> tuple[Path, Path | None, PrimaryTumour]:
    """Write the lesions of a label map as 1, what to ignore apart, and tell the primary."""
    labels = read_labels(mask)
    values = set(np.unique(labels.voxels).tolist())
    present = {name for value, name in dataset.lesions.items() if value in values}
    written = request.converted("masks", name)
    is_lesion = np.isin(labels.voxels, list(dataset.lesions))
    write_labels(written, labels.with_voxels(is_lesion.astype(np.uint8)))
    known = {"lung": PrimaryTumour.LUNG, "other": PrimaryTumour.OTHER}
    primaries = {known.get(label.lower(), PrimaryTumour.UNKNOWN) for label in present}
    primary = primaries.pop() if len(primaries) == 1 else PrimaryTumour.UNKNOWN
    ignored = labels.voxels == dataset.ignore if dataset.ignore is not None else None
    if ignored is None or not ignored.any():
        return written, None, primary
    regions = request.converted("ignore", name)
    write_labels(regions, labels.with_voxels(ignored.astype(np.uint8)))
    return written, regions, primary
