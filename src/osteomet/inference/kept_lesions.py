"""What a scan leaves for the join with the patient's other scans: one file, without pickle."""

import io
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, Integer

from osteomet.errors import InputError, ReportError
from osteomet.findings import Findings
from osteomet.inference.pipeline import Prediction
from osteomet.label_map import InstanceMask, LabelMap
from osteomet.reporting.files import write_atomically
from osteomet.structures import Detections
from osteomet.volume import ShapeZYX, Volume

KEPT_LESIONS = ".lesions"
"""Folder below the results; stays, so that a patient may get another scan later."""


@dataclass(frozen=True, eq=False)
class KeptLesions:
    """A predicted scan without its voxels.

    Attributes:
        findings: with the primary as if the patient had no other scan.
        reported: the lesions, without their mask crops.
        places: ``(k,)`` where in the flattened scan a lesion is, one lesion after the other.
        labels: ``(k,)`` which.
    """

    findings: Findings
    reported: Detections
    places: Int[np.ndarray, " k"]
    labels: Integer[np.ndarray, " k"]

    def labels_on(self, scan: Volume) -> LabelMap:
        """Return the label map on the grid of the scan."""
        instances = []
        for label in np.unique(self.labels).tolist():
            voxels = np.stack(np.unravel_index(self.places[self.labels == label], scan.shape))
            low = voxels.min(axis=1, keepdims=True)
            mask = np.zeros((voxels - low).max(axis=1) + 1, dtype=bool)
            mask[tuple(voxels - low)] = True
            z, y, x = low[:, 0].tolist()
            instances.append(InstanceMask(label, (z, y, x), mask))
        return LabelMap.on(scan, tuple(instances))


def keep_lesions(prediction: Prediction, path: Path) -> None:
    """Write what the join needs; the file appears whole or not at all.

    Raises:
        ReportError: it cannot be written.
    """
    labels = prediction.labels
    places = [_places(one, labels.shape) for one in labels.instances]
    names = [np.full(len(at), one.label) for one, at in zip(labels.instances, places, strict=True)]
    flat = np.concatenate([np.zeros(0, np.int64), *places])
    reported = prediction.reported
    arrays = {name: value.numpy() for name, value in vars(reported).items() if name != "masks"}
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        allow_pickle=False,
        findings=np.frombuffer(prediction.findings.to_json().encode(), dtype=np.uint8),
        steps=np.diff(flat, prepend=0),  # mostly ones, which compress
        labels=np.concatenate([np.zeros(0, np.int64), *names]).astype(labels.dtype),
        **arrays,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReportError(
            f"{path.parent}: cannot be made: {error.strerror}; expected a writable folder"
        ) from error
    write_atomically(path, buffer.getvalue())


def _places(one: InstanceMask, shape: ShapeZYX) -> Int[np.ndarray, " k"]:
    """Return where in the flattened scan an instance is."""
    voxels = np.argwhere(one.mask) + np.array(one.corner)
    return np.asarray(np.ravel_multi_index(tuple(voxels.T), shape))


def is_whole(path: Path) -> bool:
    """Tell whether the lesions of a scan are kept there and can be read."""
    if not path.is_file():
        return False
    try:
        read_lesions(path)
    except InputError:  # what damaged it, a disk say, is no reason to fail: it is made again
        return False
    return True


def read_lesions(path: Path) -> KeptLesions:
    """Read what ``keep_lesions`` wrote.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        with path.open("rb") as file, np.load(file) as stored:
            arrays = {name: stored[name] for name in stored.files}
        tensors = {
            one.name: torch.from_numpy(arrays[one.name])
            for one in fields(Detections)
            if one.name != "masks"
        }
        masks = torch.zeros(len(tensors["boxes"]), 0, 0, 0)
        return KeptLesions(
            Findings.from_json(arrays["findings"].tobytes().decode(), str(path)),
            Detections(**tensors, masks=masks),
            arrays["steps"].cumsum(),
            arrays["labels"],
        )
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: the lesions of another scan of the patient are missing or damaged "
            f"({type(error).__name__}); delete the results of this patient's scans and run again"
        ) from error
