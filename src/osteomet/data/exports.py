"""A cohort -> the layout of nnU-Net, nnDetection or MONAI, to run those on the same patients.

Voxels are those that osteomet reads: HU, with repairs made. Beside the data lies ``cases.csv``,
which says whose scan each case is, and which ``osteomet import --patients`` reads back. Lesions are
one class, or two by the patient's primary.

Sources: nnU-Net 2.8.1, ``documentation/dataset_format.md`` and ``verify_dataset_integrity``;
nnDetection, ``README.md`` and ``nndet/utils/check.py``; MONAI 1.6.1, ``load_decathlon_datalist``
and the detection tutorial.
"""

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from osteomet.data.adapters.nnunet import CLASSES, ORIGIN
from osteomet.data.exported_scans import BY_PRIMARY, ExportedScan, ExportedScans
from osteomet.data.manifest import Case, read_cohort, with_split
from osteomet.data.manifest_writer import write_table, write_text
from osteomet.errors import AnnotationError, ConfigError, ReportError
from osteomet.io.volumes import write_labels, write_volume

CASES, SKIPPED = "cases.csv", "skipped.csv"
CASE_COLUMNS = ("scan_id", "patient_id", "primary", "centre", "age", "sex", "split", "source_scan")

FOLDER_NAMES = {
    "nnunet": (r"Dataset\d{3}_.+", "nnU-Net", "Dataset501_Bone"),
    "nndetection": (r"Task\d\w*_[\w-]+", "nnDetection", "Task501_Bone"),
}
"""How programs tell data sets by their folders: the rule, whose it is, and an example."""

UPRIGHT_VOX = 0.5
"""By how much an edge of a box may be elsewhere once it was turned to the patient's axes."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: of the data set.
        cases: names of those in it, at least one.
        skipped: names of others, and why; they stand in ``skipped.csv`` too.
    """

    folder: Path
    cases: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


def export_cohort(
    layout: str,
    path: Path,
    output: Path,
    *,
    by_primary: bool = False,
    report: Callable[[str, str], None] = lambda scan, reason: None,
) -> Exported:
    """Write the scans of a cohort in another program's layout.

    A cohort without a split gets the one that training would make with seed 0.

    Args:
        layout: one of ``LAYOUTS``.
        path: ``cohort.csv``.
        output: folder of the data set, new or empty; it appears whole or not at all. Its name is
            the data set's, such as Dataset501_Bone for nnU-Net and Task501_Bone for nnDetection.
        by_primary: two classes, lung and other, and no scans of unknown primary.
        report: called with each scan that is left out, and why.

    Raises:
        ConfigError: the layout is unknown, or its program would not look into such a folder.
        InputError: the cohort cannot be read, or no scan of it can be exported.
        ReportError: the output cannot be written, or holds something.
    """
    output = output.resolve()
    _check_name(layout, output)
    cohort = read_cohort(path)
    if not cohort.has_split and len({case.patient_id for case in cohort.cases}) > 1:
        cohort = with_split(cohort, seed=0)
    scans = ExportedScans(path, output.name, cohort, by_primary, report)
    with _appearing(output) as folder:
        LAYOUTS[layout](folder, scans)
        rows = [_case_row(name, case) for name, case in scans.cases.items()]
        write_table(folder / CASES, CASE_COLUMNS, rows)
        reasons = [{"scan_id": scan, "reason": reason} for scan, reason in scans.skipped]
        write_table(folder / SKIPPED, ("scan_id", "reason"), reasons)
    return Exported(output, tuple(scans.cases), tuple(scans.skipped))


def _nnunet(folder: Path, scans: ExportedScans) -> None:
    """Write labels of classes; where the cohort says nothing, the label ``ignore``."""
    ignore = len(scans.classes) + 1
    for scan in scans.read(boxes_suffice=False):
        labels = (scan.instances > 0).astype(np.uint8) * np.uint8(scan.number + 1)
        unknown = np.zeros(labels.shape, dtype=bool) if scan.ignore is None else scan.ignore
        for region in scan.box_regions:
            unknown[region] = True
        labels[unknown & (labels == 0)] = ignore
        image, target = _folders(folder, scan)
        write_volume(image / f"{scan.name}_0000.nii.gz", scan.volume)
        write_labels(target / f"{scan.name}.nii.gz", scan.volume.with_voxels(labels))
    names = ["background", *scans.classes]
    if any(case.ignore or (case.mask and case.boxes) for case in scans.cases.values()):
        names.append("ignore")
    settings: dict[str, Any] = {
        "name": scans.name,
        "channel_names": {"0": "CT"},
        "labels": {name: value for value, name in enumerate(names)},
        "numTraining": sum(case.split != "test" for case in scans.cases.values()),
        "file_ending": ".nii.gz",
    }
    known = {n: c.primary for n, c in scans.cases.items() if c.primary in BY_PRIMARY}
    if known:
        meaning = {str(number): one.value for number, one in enumerate(BY_PRIMARY)}
        settings["classification_labels"] = {ORIGIN: meaning}
        rows = [{"identifier": n, "label": BY_PRIMARY.index(one)} for n, one in known.items()]
        write_table(folder / CLASSES, ("identifier", "label"), rows)
    _write_json(folder / "dataset.json", settings)
    if all(scans.fold.values()):
        _write_json(folder / "splits_final.json", [scans.fold])


def _nndetection(folder: Path, scans: ExportedScans) -> None:
    """Write maps of instances and their classes; lesions without a mask are filled boxes."""
    for scan in scans.read(boxes_suffice=True):
        instances = scan.with_boxes_filled()
        image, target = _folders(_made(folder / "raw_splitted"), scan)
        write_volume(image / f"{scan.name}_0000.nii.gz", scan.volume)
        write_labels(target / f"{scan.name}.nii.gz", scan.volume.with_voxels(instances))
        labels = range(1, int(instances.max(initial=0)) + 1)
        classes = {str(label): scan.number for label in labels}
        _write_json(target / f"{scan.name}.json", {"instances": classes})
    _write_json(
        folder / "dataset.json",
        {
            "task": scans.name,
            "name": scans.name,
            "dim": 3,
            "target_class": None,
            "test_labels": any(case.split == "test" for case in scans.cases.values()),
            "labels": {str(number): name for number, name in enumerate(scans.classes)},
            "modalities": {"0": "CT"},
        },
    )
    if all(scans.fold.values()):
        # Left alone it splits by case, and so the scans of a patient; it reads nothing but pickle.
        splits = _made(folder / "preprocessed") / "splits_final.pkl"
        splits.write_bytes(pickle.dumps([scans.fold], protocol=4))


def _monai(folder: Path, scans: ExportedScans) -> None:
    """Write the datalist of MONAI's detection: boxes as centre and size in LPS mm."""
    keys = {"val": "validation", "test": "test"}
    datalist: dict[str, list[dict[str, Any]]] = {"training": [], "validation": [], "test": []}
    for scan in scans.read(boxes_suffice=True, check=_check_upright):
        image = f"images/{scan.name}.nii.gz"
        write_volume(_made(folder / "images") / f"{scan.name}.nii.gz", scan.volume)
        boxes = scan.all_boxes
        low, high = np.split(scan.volume.boxes_to_world(boxes), 2, axis=1)
        entry = {
            "image": image,
            "box": np.concatenate([(low + high) / 2, high - low], axis=1).round(4).tolist(),
            "label": [scan.number] * len(boxes),
            "patient": scan.case.patient_id,
            "primary": scan.case.primary.value,
        }
        if not len(scan.boxes):
            mask = _made(folder / "masks") / f"{scan.name}.nii.gz"
            write_labels(mask, scan.volume.with_voxels(scan.instances))
            entry["mask"] = f"masks/{scan.name}.nii.gz"
        datalist[keys.get(scan.case.split or "", "training")].append(entry)
    classes = {str(number): name for number, name in enumerate(scans.classes)}
    # MONAI stumbles over an empty list of tests, and says what is wrong where the key is missing.
    used = {key: entries for key, entries in datalist.items() if entries or key == "training"}
    _write_json(folder / "datalist.json", {"classes": classes, **used})


LAYOUTS: Mapping[str, Callable[[Path, ExportedScans], None]] = {
    "nnunet": _nnunet,
    "nndetection": _nndetection,
    "monai": _monai,
}
"""What ``osteomet export`` calls them."""


def _check_name(layout: str, output: Path) -> None:
    if layout not in LAYOUTS:
        raise ConfigError(f"there is no layout {layout!r}; expected one of {', '.join(LAYOUTS)}")
    rule, program, example = FOLDER_NAMES.get(layout, (".*", "", ""))
    if not re.fullmatch(rule, output.name):
        raise ConfigError(
            f"{output}: {program} does not look for data sets in folders of such a name; expected "
            f"one like {example}"
        )


def _check_upright(scan: ExportedScan) -> None:
    """Refuse boxes that are other ones once MONAI has turned two of their corners to voxels."""
    boxes = scan.all_boxes
    low, high = np.split(scan.volume.boxes_to_world(boxes), 2, axis=1)
    corners = np.stack([scan.volume.world_to_edge(low), scan.volume.world_to_edge(high)])
    seen = np.concatenate([corners.min(axis=0), corners.max(axis=0)], axis=1)
    apart = float(np.abs(seen - boxes).max(initial=0.0))
    if apart > UPRIGHT_VOX:
        raise AnnotationError(
            "its axes are oblique, and MONAI turns two corners of a box to voxels, which would be "
            f"up to {apart:.1f} voxels beside the lesion; expected an upright grid: resample it"
        )


@contextmanager
def _appearing(output: Path) -> Iterator[Path]:
    """Yield a hidden folder that becomes ``output``, or vanishes if anything fails.

    Files of an earlier export are not mixed in: its cases would pass for cases of this one.

    Raises:
        ReportError: ``output`` holds something, or cannot be written.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ReportError(
            f"{output}: holds something already; expected a new or empty folder: choose another, "
            "or delete it"
        )
    partial = _made(output.with_name(f".{output.name}.{os.getpid()}.partial"))
    try:
        yield partial
        if output.exists():
            output.rmdir()  # not every system lets a folder take the place of an empty one
        partial.rename(output)
    except OSError as error:
        raise ReportError(
            f"{output}: cannot be written: {error.strerror or error}; expected a writable folder "
            "with space: nothing was left behind"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _folders(root: Path, scan: ExportedScan) -> tuple[Path, Path]:
    return _made(root / f"images{scan.side}"), _made(root / f"labels{scan.side}")


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReportError(
            f"{folder}: cannot be made ({error.strerror}); expected a writable place"
        ) from error
    return folder


def _write_json(path: Path, content: object) -> None:
    write_text(path, json.dumps(content, indent=1) + "\n")


def _case_row(name: str, case: Case) -> dict[str, object]:
    return {
        "scan_id": name,
        "patient_id": case.patient_id,
        "primary": case.primary.value,
        "centre": case.centre,
        "age": "" if case.age is None else f"{case.age:g}",
        "sex": case.sex or "",
        "split": case.split or "",
        "source_scan": case.scan_id,
    }
