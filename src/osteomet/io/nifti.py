"""What SimpleITK does not tell about a NIfTI file: whether it is whole, and how its axes lie.

A truncated or damaged file is read by ITK without a word, with zeros or noise where data is
missing. Zero HU looks like water, so files are checked first.
"""

import gzip
import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from osteomet.errors import GeometryError, InputError
from osteomet.volume import ORTHOGONALITY_TOLERANCE

FIELDS = ("dim", "type", "bits", "offset", "codes", "sform")

LAYOUTS = {
    348: ((40, "8h"), (70, "h"), (72, "h"), (108, "f"), (252, "2h"), (280, "12f")),
    540: ((16, "8q"), (12, "h"), (14, "h"), (168, "q"), (344, "2i"), (400, "12d")),
}
"""Place and type of ``FIELDS`` in NIfTI-1 and NIfTI-2 headers, by the header's size."""

CHUNK = 1 << 20

FLOATS = {16: "f4", 64: "f8"}
"""Type codes of floating-point voxels."""

PERMISSIVE = "ITK_NIFTI_SFORM_PERMISSIVE"


@dataclass(frozen=True, eq=False)
class NiftiHeader:
    """The fields of a NIfTI header that are checked here.

    Attributes:
        offset: byte at which the voxels begin.
        bytes_expected: length of the uncompressed file.
        floats: type of the voxels if they are floats of 4 or 8 bytes, else None.
        has_orientation: whether the header says how the axes lie in the patient.
        sform: ``(3, 4)`` rows of the RAS affine; None where the header has none.
    """

    offset: int
    bytes_expected: int
    floats: np.dtype[np.floating] | None
    has_orientation: bool
    sform: Float[np.ndarray, "3 4"] | None

    @property
    def worst_cosine(self) -> float:
        """Largest cosine between two axes of the sform; 0 without one, NaN if one has no length."""
        if self.sform is None:
            return 0.0
        axes = self.sform[:, :3]
        with np.errstate(invalid="ignore", divide="ignore"):
            axes = axes / np.linalg.norm(axes, axis=0)
        return float(np.abs(axes.T @ axes - np.eye(3)).max())


def check_nifti(path: Path) -> tuple[NiftiHeader, Int[np.ndarray, " n"]]:
    """Read a NIfTI file through once, holding little of it.

    Returns:
        Its header, and the flat positions of voxels that are not finite: ITK reads them as 0.

    Raises:
        InputError: the file is no NIfTI, is truncated or fails its checksum.
        GeometryError: the axes are not orthogonal.
    """
    absent: list[Int[np.ndarray, " n"]] = []
    try:
        with _open(path) as stream:
            chunk, length = stream.read(CHUNK), 0
            header = _parse(chunk)
            while chunk:
                absent.append(_absent(chunk, length, header))
                length += len(chunk)
                chunk = stream.read(CHUNK)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise InputError(f"the file is truncated or damaged ({error}); copy it again") from error
    if length < header.bytes_expected:
        raise InputError(
            f"the file holds {length} of {header.bytes_expected} bytes: it is truncated, copy it "
            "again"
        )
    if not header.worst_cosine <= ORTHOGONALITY_TOLERANCE:
        raise GeometryError(
            f"the axes of the voxel grid are not orthogonal (largest cosine "
            f"{header.worst_cosine:.4f}); expected perpendicular axes: resample the scan to an "
            "upright grid first"
        )
    return header, np.concatenate(absent)


def _absent(chunk: bytes, place: int, header: NiftiHeader) -> Int[np.ndarray, " n"]:
    """Return the flat positions of infinite voxels and NaN in a chunk that lies at ``place``."""
    if header.floats is None:
        return np.zeros(0, np.int64)
    size = header.floats.itemsize
    # Voxels straddle chunks only if the offset is no multiple of their size; such are not checked.
    first = max(header.offset - place, (header.offset - place) % size)
    last = first + (min(len(chunk), header.bytes_expected - place) - first) // size * size
    values = np.frombuffer(chunk[first : max(first, last)], header.floats)
    return np.flatnonzero(~np.isfinite(values)) + (place + first - header.offset) // size


@contextmanager
def permissive_axes() -> Iterator[None]:
    """Let ITK straighten axes that are off by a rounding error, which it otherwise refuses."""
    before = os.environ.get(PERMISSIVE)
    os.environ[PERMISSIVE] = "ON"
    try:
        yield
    finally:
        if before is None:
            del os.environ[PERMISSIVE]
        else:
            os.environ[PERMISSIVE] = before


def _open(path: Path) -> io.BufferedIOBase:
    with path.open("rb") as stream:
        is_compressed = stream.read(2) == b"\x1f\x8b"
    return gzip.open(path) if is_compressed else path.open("rb")


def _parse(start: bytes) -> NiftiHeader:
    for order in "<>":
        size = struct.unpack_from(f"{order}i", start)[0]
        if size in LAYOUTS:
            break
    else:
        raise InputError("the file does not begin like NIfTI; expected a NIfTI-1 or NIfTI-2 file")
    field = {
        name: struct.unpack_from(order + kind, start, place)
        for name, (place, kind) in zip(FIELDS, LAYOUTS[size], strict=True)
    }
    dimensions = min(max(int(field["dim"][0]), 0), 7)
    voxels = int(np.prod([max(int(n), 1) for n in field["dim"][1 : dimensions + 1]]))
    qform, sform = field["codes"]
    return NiftiHeader(
        offset=int(field["offset"][0]),
        floats=np.dtype(order + FLOATS[field["type"][0]]) if field["type"][0] in FLOATS else None,
        bytes_expected=int(field["offset"][0]) + voxels * field["bits"][0] // 8,
        has_orientation=qform > 0 or sform > 0,
        sform=np.array(field["sform"], dtype=float).reshape(3, 4) if sform > 0 else None,
    )
