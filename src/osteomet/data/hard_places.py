"""Hard backgrounds: what an earlier model took for a lesion and is none.

They are read from the folder in which it was predicted, so that a patch still depends on nothing
but its seed and number. Appearance alone does not find them: at places in bone that stand out,
dense or dark, a trained model is hardly wrong more often than anywhere (docs/training.md).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from osteomet.data.store import StoredScan
from osteomet.errors import InputError
from osteomet.findings import Findings

Boxes = Float[np.ndarray, "n 6"]

LEAST_SCORE = 0.1
"""False positives below are not worth a patch."""


def lesion_boxes(scan: StoredScan) -> Boxes:
    """Return the boxes of all lesions of a scan, those with a mask first; there may be none."""
    masked = [lesion.box for lesion in scan.lesions]
    return np.concatenate([np.array(masked).reshape(-1, 6), scan.boxes])


def false_positives(folder: Path, scans: Sequence[StoredScan]) -> dict[str, Boxes]:
    """Read what a model took for a lesion and is none, from the results of each scan.

    Args:
        folder: what ``osteomet predict --cohort`` wrote for these scans.
        scans: of the store.

    Returns:
        By scan_id, ``(n, 6)`` boxes on the model's grid; scans without any are left out.

    Raises:
        InputError: the results of a scan are missing, or belong to another image.
    """
    found = {}
    for scan in scans:
        findings = _findings(folder, scan)
        native = [one.box_vox for one in findings.candidates if one.score >= LEAST_SCORE]
        boxes = scan.grid.boxes_from_native(np.array(native, dtype=float).reshape(-1, 6))
        boxes = boxes[~touch(boxes, np.concatenate([lesion_boxes(scan), scan.ignore]))]
        if len(boxes):
            found[scan.case.scan_id] = boxes
    return found


def _findings(folder: Path, scan: StoredScan) -> Findings:
    path = folder / scan.case.scan_id / "findings.json"
    if not path.is_file():
        raise InputError(
            f"{path}: is missing; expected the findings of every training scan: run osteomet "
            "predict --cohort with --split train first"
        )
    findings = Findings.read(path)
    if findings.series.shape_zyx != scan.grid.native_shape:
        raise InputError(
            f"{path}: was made from an image of {findings.series.shape_zyx} voxels, the scan "
            f"has {scan.grid.native_shape}; predict this cohort again"
        )
    return findings


def touch(boxes: Boxes, others: Float[np.ndarray, "m 6"]) -> Bool[np.ndarray, " n"]:
    """Return which of ``boxes`` share a place with any of ``others``; both may be empty."""
    low = np.maximum(boxes[:, None, :3], others[None, :, :3])
    high = np.minimum(boxes[:, None, 3:], others[None, :, 3:])
    return np.asarray((low < high).all(axis=2).any(axis=1))
