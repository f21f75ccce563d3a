"""The scans of a cohort on their way to another program: read, named, their lesions numbered."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Integer

from osteomet.box_arrays import instance_boxes
from osteomet.data.adapters.drafts import file_name
from osteomet.data.annotations import instances_on_scan, read_boxes_mm, without_duplicates
from osteomet.data.manifest import Case, Cohort
from osteomet.errors import AnnotationError, InputError
from osteomet.findings import PrimaryTumour
from osteomet.io.scan import read_scan
from osteomet.volume import Volume

BY_PRIMARY = (PrimaryTumour.LUNG, PrimaryTumour.OTHER)
"""Classes by primary, in the order of their numbers."""


@dataclass(frozen=True, eq=False)
class ExportedScan:
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

    @property
    def all_boxes(self) -> Float[np.ndarray, "n 6"]:
        """Voxel edges of all lesions, those with a mask first."""
        return np.concatenate([instance_boxes(self.instances)[1], self.boxes])

    @property
    def box_regions(self) -> list[tuple[slice, slice, slice]]:
        """The voxels whose centres lie in each of ``boxes``; at least one along each axis."""
        return _regions(self.boxes, self.volume.shape)

    def with_boxes_filled(self) -> Integer[np.ndarray, "z y x"]:
        """Return the instances and the filled boxes: masks lie over boxes, small ones over large.

        Labels are 1 to n. A box of which nothing is left in sight is no instance.
        """
        labels = np.zeros_like(self.instances)
        regions = sorted(self.box_regions, key=lambda region: labels[region].size, reverse=True)
        for label, region in enumerate(regions, start=int(self.instances.max(initial=0)) + 1):
            labels[region] = label
        return _consecutive(np.where(self.instances > 0, self.instances, labels))


@dataclass
class ExportedScans:
    """The scans of a cohort, read one by one; what cannot be read is kept with its reason.

    Attributes:
        path: ``cohort.csv``, for messages.
        name: of the new data set.
        by_primary: whether there are two classes, and no scans of unknown primary.
        report: called with each scan that is left out, and why.
        cases: those that were yielded so far, by name.
        skipped: those that were left out so far, and why.
    """

    path: Path
    name: str
    cohort: Cohort
    by_primary: bool
    report: Callable[[str, str], None]
    cases: dict[str, Case] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        return [one.value for one in BY_PRIMARY] if self.by_primary else ["lesion"]

    @property
    def fold(self) -> dict[str, list[str]]:
        """Names of the cases to train and to validate with."""
        return {
            side: [name for name, case in self.cases.items() if case.split == side]
            for side in ("train", "val")
        }

    def read(
        self, *, boxes_suffice: bool, check: Callable[[ExportedScan], None] = lambda scan: None
    ) -> Iterator[ExportedScan]:
        """Yield each scan that can be exported; it stands in ``cases`` from then on.

        Args:
            boxes_suffice: whether lesions may lack voxels.
            check: raises an InputError for a scan that the layout cannot hold.

        Raises:
            InputError: none can.
        """
        for case in self.cohort.cases:
            try:
                scan = self._read(case, boxes_suffice=boxes_suffice)
                check(scan)
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

    def _read(self, case: Case, *, boxes_suffice: bool) -> ExportedScan:
        if self.by_primary and case.primary not in BY_PRIMARY:
            raise AnnotationError("its primary is unknown, and classes are by primary")
        if case.mask is None and case.boxes is not None and not boxes_suffice:
            raise AnnotationError("its lesions are boxes, and this layout wants voxels")
        volume = read_scan(case.image).volume
        # Boxes are placed below: here they would be refused where there is no mask.
        found, ignore = instances_on_scan(replace(case, boxes=None), volume)
        instances = _consecutive(found)
        return ExportedScan(
            name=self._name(case),
            case=case,
            volume=volume,
            instances=instances,
            boxes=_boxes(case, volume, instance_boxes(instances)[1]),
            ignore=ignore,
            number=BY_PRIMARY.index(case.primary) if self.by_primary else 0,
        )

    def _name(self, case: Case) -> str:
        """Return a new name that means the same scan to every program."""
        # nnDetection takes a name up to its first dot, and nnU-Net takes ID_seg for no scan.
        plain = re.sub(r"_seg$", "_seg-1", file_name(case.scan_id).replace(".", "_"))
        name, count = plain, 1
        while name in self.cases:
            count += 1
            name = f"{plain}-{count}"
        return name


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


def _consecutive(labels: Integer[np.ndarray, "z y x"]) -> Integer[np.ndarray, "z y x"]:
    """Return a label map with the labels 1 to n, in their order."""
    values = np.unique(labels[labels > 0])
    numbers = np.searchsorted(values, labels) + 1
    return np.where(labels > 0, numbers, 0).astype(np.int32)


def _regions(
    boxes: Float[np.ndarray, "m 6"], shape: Sequence[int]
) -> list[tuple[slice, slice, slice]]:
    found = []
    for box in boxes:
        low = np.clip(np.ceil(box[:3] - 0.5), 0, np.array(shape) - 1).astype(int)
        high = np.maximum(np.ceil(box[3:] - 0.5).astype(int), low + 1)
        z, y, x = (slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))
        found.append((z, y, x))
    return found
