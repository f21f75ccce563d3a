"""Which file a patch is read from fastest, and how small it is: `python benchmarks/store.py`.

Writes `store.md` beside this file. Every variant holds the same scan on the model's grid of 1 mm
and gives back the same voxels. The variants take turns, so that what disturbs one disturbs all.
Needs `zarr`, and real CT where OSTEOMET_REAL_DATA names a folder of it.
"""

import argparse
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import blosc2
import numpy as np
import zarr
from zarr.codecs import BloscCodec

from osteomet.data.chunks import CHUNK_VOX, compress_image, read_image
from osteomet.data.preprocess import to_model_grid
from osteomet.io.scan import read_scan
from osteomet.simulate.patient import simulate_patient

HERE = Path(__file__).parent
REAL = "totalseg_example_ct/example_ct.nii.gz"
SIDES = (64, 96, 128)

Read = Callable[[tuple[int, ...], tuple[int, ...]], np.ndarray]


@dataclass(frozen=True)
class Variant:
    """How a scan is written, and how the file is opened for reading."""

    write: Callable[[np.ndarray, Path], object]
    open: Callable[[Path], Read]


def window(corner: tuple[int, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the slices of a block."""
    return tuple(slice(c, c + n) for c, n in zip(corner, shape, strict=True))


def sliced(array: Any) -> Read:
    """Read by slicing; a copy, since a mapped file is read only when it is looked at."""
    return lambda corner, shape: np.array(array[window(corner, shape)])


def write_blosc2(
    image: np.ndarray, path: Path, codec: str, level: int, filters: str, sides: tuple[int, int]
) -> None:
    """Write one Blosc2 array of cubic chunks and blocks."""
    chunk, block = sides
    parameters = blosc2.CParams(
        codec=blosc2.Codec[codec],
        clevel=level,
        filters=[blosc2.Filter[filters]],
        typesize=2,
        nthreads=1,
    )
    blosc2.asarray(
        image, urlpath=str(path), mode="w", chunks=(chunk,) * 3, blocks=(block,) * 3,
        cparams=parameters,
    )  # fmt: skip


def open_blosc2(path: Path) -> Read:
    """Open for slicing, without threads."""
    parameters = blosc2.DParams(nthreads=1)
    return sliced(blosc2.open(str(path), mode="r", mmap_mode="r", dparams=parameters))


def write_zarr(image: np.ndarray, path: Path, shard: int | None, codec: str) -> None:
    """Write a zarr v3 array of 32-cubed chunks, each a file or together in shards."""
    shape = image.shape
    if shard is not None:  # shards tile the array whole
        shape = tuple(-(-n // shard) * shard for n in shape)
    array = zarr.create_array(
        str(path), shape=shape, dtype="int16", chunks=(32,) * 3,
        shards=None if shard is None else (shard,) * 3,
        compressors=BloscCodec(cname=codec, clevel=1, shuffle="bitshuffle"),
    )  # fmt: skip
    array[: image.shape[0], : image.shape[1], : image.shape[2]] = image


def write_osteomet(image: np.ndarray, path: Path) -> None:
    """Write as `osteomet prepare` does."""
    z, y, x = image.shape
    slabs = (image[i : i + 2 * CHUNK_VOX] for i in range(0, z, 2 * CHUNK_VOX))
    path.write_bytes(compress_image(slabs, (z, y, x)))


def variants() -> dict[str, Variant]:
    """Return all that are compared."""
    found = {
        "npy, mapped": Variant(
            lambda image, path: np.save(path, image),
            lambda path: sliced(np.load(path, mmap_mode="r")),
        ),
        "osteomet: blosc2 lz4-1 bitshuffle, 32, without the lock": Variant(
            write_osteomet, lambda path: partial(read_image, path)
        ),
    }
    for codec, level, filters, sides in (
        ("LZ4", 1, "SHUFFLE", (64, 32)),
        ("LZ4", 1, "BITSHUFFLE", (32, 32)),
        ("LZ4", 1, "BITSHUFFLE", (64, 32)),
        ("LZ4", 1, "BITSHUFFLE", (64, 16)),
        ("LZ4", 1, "BITSHUFFLE", (128, 32)),
        ("LZ4HC", 9, "SHUFFLE", (64, 32)),
        ("ZSTD", 1, "BITSHUFFLE", (64, 32)),
        ("ZSTD", 1, "BITSHUFFLE", (64, 16)),
        ("ZSTD", 5, "BITSHUFFLE", (64, 32)),
    ):
        name = f"blosc2 {codec.lower()}-{level} {filters.lower()}, {sides[0]} / {sides[1]}"
        found[name] = Variant(
            partial(write_blosc2, codec=codec, level=level, filters=filters, sides=sides),
            open_blosc2,
        )
    for codec in ("lz4", "zstd"):
        for shard in (None, 128):
            name = f"zarr v3 {codec}-1 bitshuffle, 32" + (f", shards of {shard}" if shard else "")
            found[name] = Variant(
                partial(write_zarr, shard=shard, codec=codec),
                lambda path: sliced(zarr.open_array(str(path), mode="r")),
            )
    return found


def size_mb(path: Path) -> float:
    """Return the size of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def corners(shape: tuple[int, ...], side: int, count: int) -> list[tuple[int, ...]]:
    """Return the corners of blocks that lie in a scan."""
    rng = np.random.default_rng(side)
    return [tuple(int(rng.integers(0, n - side + 1)) for n in shape) for _ in range(count)]


def cpu_seconds(run: Callable[[], object]) -> float:
    """Return the CPU time of all threads."""
    start = time.process_time()
    run()
    return time.process_time() - start


def measure(image: np.ndarray, rounds: int) -> list[str]:
    """Return rows of a table, one a variant."""
    sides = [side for side in SIDES if side <= min(image.shape)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        writes: dict[str, list[float]] = {}
        reads: dict[tuple[str, int], list[float]] = {}
        opened = {}
        for _ in range(rounds):
            for number, (name, variant) in enumerate(variants().items()):
                path = Path(folder) / f"{number}{'.npy' if number == 0 else ''}"
                if path.exists() and name not in opened:
                    raise RuntimeError(f"{path} is there already")
                if name not in opened:
                    seconds = cpu_seconds(lambda v=variant, p=path: v.write(image, p))
                    opened[name] = (path, variant.open(path))
                    whole = opened[name][1]((0, 0, 0), image.shape)
                    if not np.array_equal(whole, image):
                        raise RuntimeError(f"{name} gives back other voxels")
                else:
                    again = path.with_name(f"again{number}{'.npy' if number == 0 else ''}")
                    seconds = cpu_seconds(lambda v=variant, p=again: v.write(image, p))
                    shutil.rmtree(again) if again.is_dir() else again.unlink()
                writes.setdefault(name, []).append(seconds)
            for side in sides:
                places = corners(image.shape, side, 20)
                for name, (_, read) in opened.items():
                    spent = cpu_seconds(
                        lambda r=read, p=places, n=side: [r(c, (n,) * 3) for c in p]
                    )
                    reads.setdefault((name, side), []).append(len(places) / spent)
        for name, (path, _) in opened.items():
            rates = [
                f"{median(reads[name, side]):.0f} ({min(reads[name, side]):.0f} to "
                f"{max(reads[name, side]):.0f})" if side in sides else "-"
                for side in SIDES
            ]  # fmt: skip
            size = size_mb(path)
            rows.append(
                f"| {name} | {median(writes[name]):.2f} | {size:.1f} | "
                f"{image.nbytes / 1e6 / size:.2f} | " + " | ".join(rates) + " |"
            )
    return rows


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=HERE / "store.md")
    options = parser.parse_args()
    scans = {"a simulated scan": to_model_grid(simulate_patient(0).volume, 1.0).voxels}
    if "OSTEOMET_REAL_DATA" in os.environ:
        volume = read_scan(Path(os.environ["OSTEOMET_REAL_DATA"]) / REAL).volume
        scans["real CT, abdomen and pelvis"] = to_model_grid(volume, 1.0).voxels
    lines = [
        "# What a scan is kept in",
        "",
        "Repeat with `OSTEOMET_REAL_DATA=FOLDER python benchmarks/store.py --rounds "
        f"{options.rounds}`.",
        "",
        f"blosc2 {blosc2.__version__}, zarr {zarr.__version__}, NumPy {np.__version__}, Python "
        f"{platform.python_version()}, {os.cpu_count()} cores that others were using too, so all "
        "times are CPU times. int16 HU on a grid of 1 mm; every variant gave back the very voxels. "
        "`64 / 32` are the sides of chunk and block. Reads are of random cubes that start at no "
        "chunk's border, files in the page cache: median (lowest to highest) of the rounds, 20 "
        "cubes each, the variants in turn.",
    ]  # fmt: skip
    lines += [
        "",
        "What follows: a compressed read costs about 1 ms of a core for 64-cubed, a step of the "
        "smallest model some 190 ms a patch (2,500 steps of 4 patches in 16 minutes of two "
        "cores): less than a hundredth, for half the disk. zarr costs ten times that. LZ4 and "
        "not zstd: a seventh more disk for half the time. LZ4HC reads a third faster still but "
        "takes ten times as long to write, which thousands of patches of each scan would have "
        "to earn back. osteomet reads chunk by chunk and decompresses without Python's lock, "
        "which slicing a Blosc2 array keeps, by its source: that costs a fifth to a third more "
        "on one core, so that threads can read at once. What it gains on many cores is not "
        "measured here: on two busy ones no difference showed.",
    ]
    for title, image in scans.items():
        shape = " x ".join(map(str, image.shape))
        lines += [
            "",
            f"## {title[0].upper() + title[1:]}, {shape} voxels, {image.nbytes / 1e6:.0f} MB",
            "",
            "| variant | write, CPU s | MB | smaller | 64-cubed reads a CPU-second | 96-cubed | "
            "128-cubed |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *measure(image, options.rounds),
        ]
    options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
