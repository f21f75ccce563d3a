"""The name of a scan's result folder."""

import re
from collections.abc import Iterable

from osteomet.findings import SeriesInfo
from osteomet.io.volumes import FORMATS

LONGEST = 100
"""Characters; file systems allow 255, and result files add their own."""

RESERVED = {"con", "prn", "aux", "nul", *(f"{n}{i}" for n in ("com", "lpt") for i in range(10))}
"""File names that Windows keeps for devices."""


def name_scan(info: SeriesInfo) -> str:
    """Return the DICOM series UID, or else the name of file or folder without its suffix.

    A DICOM folder's own name often is the patient's, so it is used only for anonymised series
    that have lost their UID.
    """
    return sanitised(info.series_uid or _without_suffix(info.source))


def sanitised(name: str) -> str:
    """Return a name that every file system takes: letters, digits, dot, dash, underscore."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:LONGEST].rstrip("._-")
    if not safe or safe.lower().partition(".")[0] in RESERVED:
        safe = f"scan_{safe}".rstrip("_")
    return safe


def distinct(name: str, taken: Iterable[str]) -> str:
    """Return ``name``, or the first of ``name-2``, ``name-3``, ... that is not taken.

    Upper and lower case are the same, as they are on many file systems.
    """
    used = {other.lower() for other in taken}
    count, candidate = 1, name
    while candidate.lower() in used:
        count += 1
        candidate = f"{name}-{count}"
    return candidate


def _without_suffix(name: str) -> str:
    for suffix in sorted(FORMATS, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name
