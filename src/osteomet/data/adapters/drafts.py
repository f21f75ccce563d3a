"""What an adapter is asked, and what it gives for each scan it finds."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from osteomet.data.manifest import Case
from osteomet.errors import InputError, ReportError
from osteomet.findings import PrimaryTumour
from osteomet.io.volumes import FORMATS

LONGEST = 100
"""Characters of a name; file systems allow 255."""


@dataclass(frozen=True)
class Request:
    """What a user asks of an adapter.

    Attributes:
        source: the data set's folder.
        output: folder of the new cohort; it exists.
        centre: name of the hospital or data set; None takes the adapter's own.
        lesions: which regions, segments or labels are lesions; None takes the adapter's rule.
    """

    source: Path
    output: Path
    centre: str | None = None
    lesions: re.Pattern[str] | None = None

    def converted(self, kind: str, scan_id: str, suffix: str = ".nii.gz") -> Path:
        """Return where a converted file goes, in a folder that exists.

        Args:
            kind: the folder: images, masks, boxes, ignore or lesions.
            scan_id: name of the file.
            suffix: its ending.

        Raises:
            ReportError: the folder cannot be made.
        """
        folder = self.output / kind
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise ReportError(
                f"{folder}: cannot be made ({error.strerror}); expected a writable folder"
            ) from error
        return folder / f"{file_name(scan_id)}{suffix}"


@dataclass(frozen=True)
class Draft:
    """One scan of the new cohort.

    Attributes:
        case: its row.
        notes: one sentence for each doubt.
    """

    case: Case
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Skipped:
    """A scan that cannot be used, and why."""

    name: str
    reason: str


def file_name(name: str) -> str:
    """Return a name that every file system takes: letters, digits, dot, dash, underscore."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:LONGEST] or "scan"


def stem(path: Path) -> str:
    """Return a file's name without the ending of a volume."""
    lower = path.name.lower()
    ending = max((s for s in FORMATS if lower.endswith(s)), key=len, default=path.suffix)
    return path.name[: len(path.name) - len(ending)]


def volumes_in(folder: Path) -> dict[str, Path]:
    """Return the volumes in a folder by their name without its ending, in the order of names.

    Hidden files are passed over: macOS leaves ``._NAME`` beside each file it copies.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one with volumes")
    found = (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))
    return {stem(path): path for path in found if path.name.lower().endswith(tuple(FORMATS))}


def primary_of(text: str) -> PrimaryTumour:
    """Return what free text says about the primary: lung, another one, or nothing."""
    words = text.strip().lower()
    if re.search(r"\blung|pulmon|bronch|nsclc|sclc", words):
        return PrimaryTumour.LUNG
    if not words or re.search(r"unknown|unclear|^(n/?a|none|nan|-+|\?+|cup)$", words):
        return PrimaryTumour.UNKNOWN
    return PrimaryTumour.OTHER


def attempt(name: str, make: Callable[[], Draft]) -> Draft | Skipped:
    """Return a scan's draft, or why it cannot be used."""
    try:
        return make()
    except InputError as error:
        return Skipped(name, str(error))
