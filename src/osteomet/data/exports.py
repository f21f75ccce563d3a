"""A cohort -> the layout of nnU-Net, nnDetection or MONAI, to run those on the same patients.

Voxels are those that osteomet reads: HU, with repairs made. Beside the data lies ``cases.csv``,
which says whose scan each case is, and which ``osteomet import --patients`` reads back. Lesions are
one class, or two by the patient's primary.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy import ndimage

from osteomet.data.adapters.drafts import file_name
from osteomet.data.adapters.nnunet import CLASSES, ORIGIN
from osteomet.data.annotations import instances_on_scan, read_boxes_mm, without_duplicates
from osteomet.data.manifest import Case, Cohort, read_cohort, with_split
from osteomet.data.manifest_writer import write_table, write_text
from osteomet.errors import AnnotationError, ConfigError, InputError, ReportError
from osteomet.findings import PrimaryTumour
from osteomet.io.scan import read_scan
from osteomet.io.volumes import write_labels, write_volume
from osteomet.volume import Volume

CASES, SKIPPED = "cases.csv", "skipped.csv"
CASE_COLUMNS = ("scan_id", "patient_id", "primary", "centre", "age", "sex", "split")

BY_PRIMARY = (PrimaryTumour.LUNG, PrimaryTumour.OTHER)
"""Classes by primary, in the order of their numbers."""


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


@dataclass(frozen=True, eq=False)
class _Scan:
    """A scan on its way out.

    Attributes:
        name: of the case, distinct.
        instances: label map on the scan's grid, 1 to n.
        boxes: ``(m, 6)`` voxel edges of lesions without a mask.
        ignore: voxels that are neither lesion nor background.
        number: of the class of its lesions, from 0.
    """

    name: str
    case: Case
    volume: Volume
    instances: Integer[np.ndarray, "z y x"]
    boxes: Float[np.ndarray, "m 6"]
    ignore: Bool[np.ndarray, "z y x"] | None
    number: int

    @property
    def side(self) -> str:
        return "Ts" if self.case.split == "test" else "Tr"


@dataclass
class _Source:
    """The scans of a cohort, read one by one; what cannot be read is kept with its reason."""

    path: Path
    cohort: Cohort
    by_primary: bool
    report: Callable[[str, str], None]
    cases: dict[str, Case] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        return [one.value for one in BY_PRIMARY] if self.by_primary else ["lesion"]

    def scans(self, *, boxes_suffice: bool) -> Iterator[_Scan]:
        """Yield each scan that can be exported; it stands in ``cases`` from then on.

        Raises:
            InputError: none can.
        """
        for case in self.cohort.cases:
            try:
                scan = self._read(case, boxes_suffice=boxes_suffice)
            except InputError as error:
                self.skipped.append((case.scan_id, " ".join(str(error).split())))
                self.report(*self.skipped[-1])
                continue
            self.cases[scan.name] = case
            yield scan
        if not self.cases:
            raise InputError(
                f"{self.path}: none of its {len(self.cohort.cases)} scans can be exported; the "
                f"first: {': '.join(self.skipped[0])}"
            )

    def _read(self, case: Case, *, boxes_suffice: bool) -> _Scan:
        if self.by_primary and case.primary not in BY_PRIMARY:
            raise AnnotationError("its primary is unknown, and classes are by primary")
        if case.mask is None and case.boxes is not None and not boxes_suffice:
            raise AnnotationError("its lesions are boxes, and this layout wants voxels")
        volume = read_scan(case.image).volume
        # Boxes are placed below: here they would be refused where there is no mask.
        found, ignore = instances_on_scan(replace(case, boxes=None), volume)
        instances = np.unique(found, return_inverse=True)[1].reshape(found.shape).astype(np.int32)
        name, count = file_name(case.scan_id), 1
        while name in self.cases:
            count += 1
            name = f"{file_name(case.scan_id)}-{count}"
        return _Scan(
            name=name,
            case=case,
            volume=volume,
            instances=instances if found.any() else np.zeros_like(instances),
            boxes=_boxes(case, volume, instance_boxes(instances)),
            ignore=ignore,
            number=BY_PRIMARY.index(case.primary) if self.by_primary else 0,
        )


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
        output: folder of the data set; its name is the data set's, such as
            Dataset501_BoneMetastases for nnU-Net and Task501_BoneMetastases for nnDetection. Files
            of an earlier export are replaced.
        by_primary: two classes, lung and other, and no scans of unknown primary.
        report: called with each scan that is left out, and why.

    Raises:
        ConfigError: the layout is unknown.
        InputError: the cohort cannot be read, or no scan of it can be exported.
        ReportError: the output cannot be written.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"there is no layout {layout!r}; expected one of {', '.join(LAYOUTS)}")
    cohort = read_cohort(path)
    if not cohort.has_split and len({case.patient_id for case in cohort.cases}) > 1:
        cohort = with_split(cohort, seed=0)
    source = _Source(path, cohort, by_primary, report)
    LAYOUTS[layout](_made(output), source)
    rows = [_case_row(name, case) for name, case in source.cases.items()]
    write_table(output / CASES, CASE_COLUMNS, rows)
    reasons = [{"scan_id": scan, "reason": reason} for scan, reason in source.skipped]
    write_table(output / SKIPPED, ("scan_id", "reason"), reasons)
    return Exported(output, tuple(source.cases), tuple(source.skipped))


def instance_boxes(instances: Integer[np.ndarray, "z y x"]) -> Float[np.ndarray, "n 6"]:
    """Return the tight boxes of the labels 1 to n, in voxel edges."""
    found = [place for place in ndimage.find_objects(instances) if place is not None]
    boxes = [[s.start for s in place] + [s.stop for s in place] for place in found]
    return np.array(boxes, dtype=float).reshape(-1, 6)


def _nnunet(folder: Path, source: _Source) -> None:
    """Write labels of classes; where the cohort says nothing, the label ``ignore``."""
    ignore = len(source.classes) + 1
    for scan in source.scans(boxes_suffice=False):
        labels = (scan.instances > 0).astype(np.uint8) * np.uint8(scan.number + 1)
        unknown = np.zeros(labels.shape, dtype=bool) if scan.ignore is None else scan.ignore
        for place in _places(scan.boxes, labels.shape):
            unknown[place] = True
        labels[unknown & (labels == 0)] = ignore
        image, target = _folders(folder, scan)
        write_volume(image / f"{scan.name}_0000.nii.gz", scan.volume)
        write_labels(target / f"{scan.name}.nii.gz", scan.volume.with_voxels(labels))
    names = ["background", *source.classes]
    if any(case.ignore or (case.mask and case.boxes) for case in source.cases.values()):
        names.append("ignore")
    training = [name for name, case in source.cases.items() if case.split != "test"]
    settings: dict[str, Any] = {
        "name": folder.resolve().name,
        "channel_names": {"0": "CT"},
        "labels": {name: value for value, name in enumerate(names)},
        "numTraining": len(training),
        "file_ending": ".nii.gz",
    }
    known = {n: c.primary for n, c in source.cases.items() if c.primary in BY_PRIMARY}
    if known:
        meaning = {str(number): one.value for number, one in enumerate(BY_PRIMARY)}
        settings["classification_labels"] = {ORIGIN: meaning}
        rows = [{"identifier": n, "label": BY_PRIMARY.index(one)} for n, one in known.items()]
        write_table(folder / CLASSES, ("identifier", "label"), rows)
    _write_json(folder / "dataset.json", settings)
    sides = {
        side: [name for name in training if source.cases[name].split == side]
        for side in ("train", "val")
    }
    if all(sides.values()):
        _write_json(folder / "splits_final.json", [sides])


def _nndetection(folder: Path, source: _Source) -> None:
    """Write maps of instances and their classes; lesions without a mask are filled boxes."""
    for scan in source.scans(boxes_suffice=True):
        instances = scan.instances.copy()
        for label, place in enumerate(
            _places(scan.boxes, instances.shape), start=int(instances.max(initial=0)) + 1
        ):
            window = instances[place]
            window[window == 0] = label
        labels = np.unique(instances[instances > 0]).tolist()
        image, target = _folders(_made(folder / "raw_splitted"), scan)
        write_volume(image / f"{scan.name}_0000.nii.gz", scan.volume)
        write_labels(target / f"{scan.name}.nii.gz", scan.volume.with_voxels(instances))
        classes = {str(label): scan.number for label in labels}
        _write_json(target / f"{scan.name}.json", {"instances": classes})
    _write_json(
        folder / "dataset.json",
        {
            "task": folder.resolve().name,
            "name": folder.resolve().name,
            "dim": 3,
            "target_class": None,
            "test_labels": any(case.split == "test" for case in source.cases.values()),
            "labels": {str(number): name for number, name in enumerate(source.classes)},
            "modalities": {"0": "CT"},
        },
    )


def _monai(folder: Path, source: _Source) -> None:
    """Write the datalist of MONAI's detection: boxes as centre and size in LPS mm."""
    keys = {"val": "validation", "test": "test"}
    datalist: dict[str, list[dict[str, Any]]] = {"training": [], "validation": [], "test": []}
    for scan in source.scans(boxes_suffice=True):
        image = f"images/{scan.name}.nii.gz"
        write_volume(_made(folder / "images") / f"{scan.name}.nii.gz", scan.volume)
        boxes = np.concatenate([instance_boxes(scan.instances), scan.boxes])
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
    classes = {str(number): name for number, name in enumerate(source.classes)}
    _write_json(folder / "datalist.json", {"classes": classes, **datalist})


LAYOUTS: Mapping[str, Callable[[Path, _Source], None]] = {
    "nnunet": _nnunet,
    "nndetection": _nndetection,
    "monai": _monai,
}
"""What ``osteomet export`` calls them."""


def _boxes(
    case: Case, volume: Volume, masked: Float[np.ndarray, "n 6"]
) -> Float[np.ndarray, "m 6"]:
    """Return the boxes of a case that hold no lesion with a mask, cut to the scan."""
    if case.boxes is None:
        return np.zeros((0, 6))
    boxes = volume.boxes_from_world(read_boxes_mm(case.boxes, case.image))
    high = np.array(volume.shape, dtype=float)
    centres = (boxes[:, :3] + boxes[:, 3:]) / 2
    if ((centres < 0) | (centres > high)).any():
        raise AnnotationError(f"{case.boxes}: has boxes outside the scan; expected LPS mm")
    boxes = np.hstack([boxes[:, :3].clip(0, high), boxes[:, 3:].clip(0, high)])
    return without_duplicates(boxes, masked.astype(float))


def _places(
    boxes: Float[np.ndarray, "m 6"], shape: Sequence[int]
) -> list[tuple[slice, slice, slice]]:
    """Return the voxels whose centres lie in each box; at least one along each axis."""
    found = []
    for box in boxes:
        low = np.clip(np.ceil(box[:3] - 0.5), 0, np.array(shape) - 1).astype(int)
        high = np.maximum(np.ceil(box[3:] - 0.5).astype(int), low + 1)
        z, y, x = (slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))
        found.append((z, y, x))
    return found


def _folders(root: Path, scan: _Scan) -> tuple[Path, Path]:
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
    }
