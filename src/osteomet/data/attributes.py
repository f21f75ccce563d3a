"""What is known of each lesion's appearance, from the cohort's ``lesions`` file.

Columns that are read, all but ``label`` optional; other columns are left alone:

=========== ====================================================
label       its value in the label map
type        ``lytic``, ``sclerotic`` or ``mixed``; empty: unknown
expansile   1 where it blows the bone up, else 0; empty: unknown
cortical    1 where it sits in the cortex, else 0; empty: unknown
=========== ====================================================
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from osteomet.data.store import StoredScan
from osteomet.errors import AnnotationError
from osteomet.structures import ATTRIBUTES, UNKNOWN

TYPES = {
    "lytic": (1, 0),
    "sclerotic": (0, 1),
    "mixed": (1, 1),
    "": (UNKNOWN, UNKNOWN),
}
"""Whether a lesion of each type loses bone, and whether it forms bone."""

FLAGS = {"1": 1, "0": 0, "": UNKNOWN}

Attributes = tuple[int, ...]
"""One of 1, 0 and UNKNOWN for each of ``ATTRIBUTES``."""

NOTHING_KNOWN: Attributes = (UNKNOWN,) * len(ATTRIBUTES)


class NotedAttributes:
    """What is noted of the lesions of many scans, by scan and instance id.

    Args:
        scans: of a store.

    Raises:
        AnnotationError: a ``lesions`` file cannot be used.
    """

    def __init__(self, scans: Sequence[StoredScan]) -> None:
        self._known: dict[str, dict[int, Attributes]] = {}
        for scan in scans:
            by_label = read_attributes(scan.case.lesions)
            self._known[scan.case.scan_id] = {
                lesion.instance_id: by_label.get(lesion.label, NOTHING_KNOWN)
                for lesion in scan.lesions
            }

    def of(self, scan_id: str, instance_ids: Int[np.ndarray, " n"]) -> Int[Tensor, "n a"]:
        """Return a row for each id; a lesion without a mask has id 0, and nothing is known."""
        known = self._known[scan_id]
        rows = [known.get(int(one), NOTHING_KNOWN) for one in instance_ids]
        return torch.tensor(rows, dtype=torch.int64).reshape(-1, len(NOTHING_KNOWN))


def read_attributes(path: Path | None) -> dict[int, Attributes]:
    """Return the attributes of each label; without a file, of none.

    Raises:
        AnnotationError: the file cannot be read, names a label twice, or holds another value.
    """
    if path is None:
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, row) for row in reader]
            columns = reader.fieldnames or []
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise AnnotationError(f"{path}: is not a CSV file ({error}); expected UTF-8") from error
    if "label" not in columns:
        raise AnnotationError(
            f"{path}: has no column 'label' among {', '.join(columns) or 'none'}; expected the "
            "value of each lesion in the label map"
        )
    known: dict[int, Attributes] = {}
    for line, row in rows:
        label, attributes = _parse(row, f"{path}, line {line}")
        if label in known:
            raise AnnotationError(f"{path}, line {line}: label {label} is there twice")
        known[label] = attributes
    return known


def _parse(row: dict[str, str | None], where: str) -> tuple[int, Attributes]:
    text = {name: (row.get(name) or "").strip().lower() for name in ("label", "type", *ATTRIBUTES)}
    if not text["label"].isdecimal() or int(text["label"]) < 1:
        raise AnnotationError(
            f"{where}: label is {text['label']!r}; expected a whole number of at least 1"
        )
    if text["type"] not in TYPES:
        raise AnnotationError(
            f"{where}: type is {text['type']!r}; expected lytic, sclerotic, mixed or nothing"
        )
    for name in ("expansile", "cortical"):
        if text[name] not in FLAGS:
            raise AnnotationError(f"{where}: {name} is {text[name]!r}; expected 1, 0 or nothing")
    flags = (FLAGS[text["expansile"]], FLAGS[text["cortical"]])
    return int(text["label"]), (*TYPES[text["type"]], *flags)
