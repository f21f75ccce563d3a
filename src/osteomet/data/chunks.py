"""One image in a compressed file, of which a patch is read without reading the rest.

The file is an ordinary Blosc2 array (``.b2nd``): ``blosc2.open(path)[...]`` reads it anywhere. Its
chunks are cubes of ``CHUNK_VOX`` voxels of one block each, compressed with LZ4 after their bits
were transposed. ``benchmarks/store.md`` has the measurements that chose them.

Patches are not read through ``blosc2.NDArray``, which decompresses while it holds Python's global
lock: threads would read one after the other and the training step would wait for each. A chunk's
bytes are fetched, which takes microseconds, and decompressed without the lock. No decompressor is
kept, so that threads share one open file, and none has threads, so that a process may fork.
"""

import itertools
import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import blosc2
import numpy as np
from jaxtyping import Int16

from osteomet.errors import StoreError
from osteomet.volume import ShapeZYX

CHUNK_VOX = 32

OPEN_FILES = 128
"""Files kept open; each takes a file handle and about 0.1 MB."""

CODEC = blosc2.Codec.LZ4
LEVEL = 1
FILTER = blosc2.Filter.BITSHUFFLE
CHUNK = (CHUNK_VOX, CHUNK_VOX, CHUNK_VOX)

Slab = Int16[np.ndarray, "planes y x"]

# Every reader in the process benefits, and blosc2's own objects guard themselves.
blosc2.set_releasegil(True)


def compress_image(slabs: Iterator[Slab], shape: ShapeZYX) -> bytes:
    """Return the content of a file; memory holds compressed voxels and one slab.

    Args:
        slabs: of the image from below, together of ``shape``; all but the last of a multiple of
            ``CHUNK_VOX`` planes.
        shape: of the image; none of its sides is 0.
    """
    parameters = blosc2.CParams(codec=CODEC, clevel=LEVEL, filters=[FILTER], typesize=2, nthreads=1)
    array = blosc2.empty(shape, dtype=np.int16, chunks=CHUNK, blocks=CHUNK, cparams=parameters)
    number = 0
    for slab in slabs:
        for corner in _corners(slab.shape):
            compressed = blosc2.compress2(
                _chunk_at(slab, corner),
                codec=CODEC, clevel=LEVEL, filters=[FILTER], typesize=2, nthreads=1,
                blocksize=2 * CHUNK_VOX**3,
            )  # fmt: skip
            array.schunk.update_chunk(number, compressed)
            number += 1
    if number != math.prod(math.ceil(n / CHUNK_VOX) for n in shape):
        raise ValueError(f"slabs make {number} chunks, too many or too few for a shape of {shape}")
    return bytes(array.to_cframe())


def read_image(path: Path, corner: ShapeZYX, shape: ShapeZYX) -> Int16[np.ndarray, "z y x"]:
    """Return a block of an image, of which every voxel lies inside.

    Raises:
        StoreError: the file is missing or damaged.
    """
    try:
        return _read(_open(path), corner, shape)
    except (OSError, RuntimeError, ValueError) as error:
        raise StoreError(f"{path}: is damaged ({error}); delete its folder, run again") from error


def _read(array: blosc2.NDArray, corner: ShapeZYX, shape: ShapeZYX) -> Int16[np.ndarray, "z y x"]:
    block = np.empty(shape, dtype=np.int16)
    chunk = np.empty(CHUNK, dtype=np.int16)
    _, rows, columns = (math.ceil(n / CHUNK_VOX) for n in array.shape)
    parts = [_parts(low, low + n) for low, n in zip(corner, shape, strict=True)]
    for (z, to_z, in_z), (y, to_y, in_y), (x, to_x, in_x) in itertools.product(*parts):
        compressed = array.schunk.get_chunk((z * rows + y) * columns + x)
        blosc2.decompress2(compressed, dst=chunk, nthreads=1)
        block[to_z, to_y, to_x] = chunk[in_z, in_y, in_x]
    return block


def _parts(low: int, high: int) -> list[tuple[int, slice, slice]]:
    """Return number, place in the range, and place in the chunk of each chunk that is crossed."""
    parts = []
    for number in range(low // CHUNK_VOX, math.ceil(high / CHUNK_VOX)):
        first = number * CHUNK_VOX
        a, b = max(low, first), min(high, first + CHUNK_VOX)
        parts.append((number, slice(a - low, b - low), slice(a - first, b - first)))
    return parts


def _corners(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(0, n, CHUNK_VOX) for n in shape))


def _chunk_at(slab: Slab, corner: tuple[int, ...]) -> Int16[np.ndarray, "Z Y X"]:
    z, y, x = corner
    part = slab[z : z + CHUNK_VOX, y : y + CHUNK_VOX, x : x + CHUNK_VOX]
    if part.shape == CHUNK:
        return np.ascontiguousarray(part)
    padding = [(0, CHUNK_VOX - n) for n in part.shape]
    return np.pad(part, padding)


@lru_cache(maxsize=OPEN_FILES)
def _open(path: Path) -> blosc2.NDArray:
    return blosc2.open(str(path), mode="r", mmap_mode="r", dparams=blosc2.DParams(nthreads=1))
