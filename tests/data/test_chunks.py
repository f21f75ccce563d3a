"""Compressed images: any block comes back bit for bit, from any thread, and damage is told."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import blosc2
import numpy as np
import pytest

from osteomet.data import chunks
from osteomet.data.chunks import CHUNK_VOX, OPEN_FILES, compress_image, read_image
from osteomet.errors import StoreError

SHAPE = (70, 41, 97)


def values(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    noise = np.random.default_rng(0).normal(40, 20, shape).astype(np.int16)
    noise[:40, :10] = -1024  # whole chunks of one value are stored in another way
    noise[0, 0, 0], noise[-1, -1, -1] = -32768, 32767
    return noise


def slabs(image: np.ndarray, planes: int = 2 * CHUNK_VOX) -> Iterator[np.ndarray]:
    return (image[z : z + planes] for z in range(0, len(image), planes))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "image.b2nd"
    path.write_bytes(compress_image(slabs(values()), SHAPE))
    return path


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("shape", [SHAPE, (1, 1, 1), (32, 32, 32), (33, 64, 31), (5, 200, 3)])
def test_the_file_is_one_that_blosc2_reads(shape: tuple[int, int, int], tmp_path: Path) -> None:
    image = values(shape)
    path = tmp_path / "image.b2nd"
    path.write_bytes(compress_image(slabs(image), shape))
    assert np.array_equal(blosc2.open(str(path))[:], image)
    assert np.array_equal(read_image(path, (0, 0, 0), shape), image)


def test_any_block_comes_back(path: Path) -> None:
    image, rng = values(), np.random.default_rng(1)
    for _ in range(60):
        low = [int(rng.integers(0, n)) for n in SHAPE]
        z, y, x = (int(rng.integers(1, n - a + 1)) for n, a in zip(SHAPE, low, strict=True))
        part = image[low[0] : low[0] + z, low[1] : low[1] + y, low[2] : low[2] + x]
        assert np.array_equal(read_image(path, (low[0], low[1], low[2]), (z, y, x)), part)


def test_a_block_reads_only_the_chunks_that_it_crosses(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decompressed = []

    def counted(*arguments: object, dst: np.ndarray, nthreads: int) -> None:
        decompressed.append(nthreads)
        original(*arguments, dst=dst, nthreads=nthreads)

    original = blosc2.decompress2
    monkeypatch.setattr(chunks.blosc2, "decompress2", counted)
    read_image(path, (30, 0, 33), (4, 32, 31))
    assert decompressed == [1, 1]  # two along z, and no threads that a fork would lose


def test_noise_takes_about_half(path: Path) -> None:
    assert path.stat().st_size < 0.65 * values().nbytes


def test_slabs_that_do_not_make_the_image_are_refused() -> None:
    with pytest.raises(ValueError, match="chunks, too many or too few"):
        compress_image(slabs(values()[:32]), SHAPE)


def test_threads_share_a_file_and_files_are_not_left_open(path: Path, tmp_path: Path) -> None:
    image, content = values(), path.read_bytes()
    copies = [tmp_path / f"{number}.b2nd" for number in range(OPEN_FILES + 40)]
    for copy in copies:
        copy.write_bytes(content)
    before = open_files()

    def agrees(number: int) -> bool:
        low = number % 30
        block = read_image(copies[number % len(copies)], (low, low // 3, low), (35, 30, 60))
        return np.array_equal(
            block, image[low : low + 35, low // 3 : low // 3 + 30, low : low + 60]
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(agrees, range(3 * len(copies))))
    assert open_files() - before <= OPEN_FILES


def test_a_forked_process_reads_too(path: Path) -> None:
    read_image(path, (0, 0, 0), (40, 40, 40))
    child = os.fork()
    if child == 0:
        same = np.array_equal(read_image(path, (3, 1, 2), (40, 40, 40)), values()[3:43, 1:41, 2:42])
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_memory_does_not_grow(path: Path) -> None:
    def resident_mb() -> float:
        text = Path("/proc/self/status").read_text(encoding="ascii")
        return int(text.split("RssAnon:")[1].split()[0]) / 1024

    def read_often(times: int) -> None:
        for number in range(times):
            read_image(path, (number % 5, 0, number % 30), (60, 40, 60))

    read_often(200)
    before = resident_mb()
    read_often(2000)
    assert resident_mb() - before < 4  # one block is 0.3 MB


@pytest.mark.parametrize("damage", ["empty", "cut", "gone"])
def test_damage_is_told(path: Path, damage: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    with pytest.raises(StoreError, match="damaged"):
        read_image(path, (0, 0, 0), SHAPE)
