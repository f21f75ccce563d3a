"""Label maps as NIfTI files, a slab at a time: neither the map nor a copy is ever whole.

SimpleITK, which writes whole images, writes the header, so that there is one opinion of how axes
lie in a file.
"""

import gzip
import os
import struct
import tempfile
from pathlib import Path

import numpy as np

from osteomet.errors import ReportError
from osteomet.io.volumes import write_volume
from osteomet.label_map import LabelMap
from osteomet.volume import ShapeZYX, Volume

SLAB_VOXELS = 2_000_000
HEADER_BYTES = 352
"""Of NIfTI-1 with the four bytes that say that no extension follows; voxels come next."""
SHAPE_AT = 42
"""Place of the number of voxels along x, y and z, 16 bits each."""
COMPRESSION = 1
"""Of zlib: next to all voxels are 0, and higher levels take twice as long to say so."""


def write_label_map(path: Path, labels: LabelMap) -> None:
    """Write a label map as ``.nii.gz``, replacing ``path`` only when the whole file is on disk.

    Args:
        path: ends in ``.nii.gz``.
        labels: its values are stored in the narrowest integers that hold them.

    Raises:
        ReportError: the folder is missing or not writable, the disk full, or the scan longer
            than a NIfTI-1 file can be.
    """
    longest = np.iinfo(np.int16).max
    if max(labels.shape) > longest:
        raise ReportError(
            f"{path}: cannot be written: the scan has {' x '.join(map(str, labels.shape))} voxels; "
            f"expected at most {longest} along each axis"
        )
    nz, ny, nx = labels.shape
    planes = max(1, SLAB_VOXELS // (ny * nx))
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        # Without name and time of the file, equal label maps are equal files.
        with (
            partial.open("wb") as raw,
            gzip.GzipFile("", "wb", COMPRESSION, raw, mtime=0) as packed,
        ):
            packed.write(_header(labels))
            for start in range(0, nz, planes):
                slab = (slice(start, min(start + planes, nz)), slice(0, ny), slice(0, nx))
                packed.write(labels.window(slab).data)
        partial.replace(path)
    except OSError as error:
        raise ReportError(
            f"{path}: cannot be written: {error.strerror or error}; expected a writable folder "
            "with space"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _header(labels: LabelMap) -> bytes:
    """Return the header of a file with one voxel, with the map's own shape put in."""
    one: ShapeZYX = (1, 1, 1)
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "header.nii"
        write_volume(small, Volume(np.zeros(one, labels.dtype), labels.affine))
        header = bytearray(small.read_bytes()[:HEADER_BYTES])
    order = "<" if struct.unpack_from("<i", header)[0] == HEADER_BYTES - 4 else ">"
    struct.pack_into(f"{order}3h", header, SHAPE_AT, *labels.shape[::-1])
    return bytes(header)
