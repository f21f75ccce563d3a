"""A scan as it was read: voxels, where they came from, and what had to be repaired."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from osteomet.errors import InputError
from osteomet.findings import SeriesInfo
from osteomet.volume import Volume


@dataclass(frozen=True, eq=False)
class Scan:
    """One CT scan.

    Attributes:
        volume: voxels in HU, int16 where all of them are whole numbers, else float32.
        info: which file or series this is, and why it was chosen.
        warnings: one sentence for each repair or doubt; empty for a scan without fault.
    """

    volume: Volume
    info: SeriesInfo
    warnings: tuple[str, ...] = ()


def describe(
    volume: Volume,
    *,
    source: str,
    file_format: str,
    slice_thickness_mm: float | None = None,
    **details: str | None,
) -> SeriesInfo:
    """Return the record of a volume; ``details`` are the optional fields of ``SeriesInfo``."""
    return SeriesInfo(
        source=source,
        format=file_format,
        shape_zyx=volume.shape,
        spacing_zyx_mm=volume.spacing_zyx_mm,
        affine_lps=tuple(tuple(row) for row in volume.affine.tolist()),
        slice_thickness_mm=slice_thickness_mm,
        **details,
    )


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Begin the message of every ``InputError`` raised inside with the path that was given."""
    try:
        yield
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error
