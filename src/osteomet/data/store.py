"""Scans on the model's grid, resampled once and read by patches.

One folder a scan, named by a digest of its files (path, size, time of change), of the settings
and of the format. Whatever changes, the folder's name changes, so nothing stale is ever read. A
folder appears in one step when all of it is written: a build that was stopped goes on where it
was. Images are ``.npy`` files, mapped and not loaded; lesions are kept as tight masks, since a
whole label map would be as large as its scan and nearly all zero.
"""

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int16, Integer

from osteomet.data.annotations import Annotations, read_annotations
from osteomet.data.manifest import Case
from osteomet.data.preprocess import AIR_HU, ModelGrid, to_model_grid
from osteomet.errors import InputError, OsteometError
from osteomet.io.scan import read_scan
from osteomet.volume import ShapeZYX

FORMAT = 1
"""Raised whenever what is written, or how it is computed, changes."""

BODY_FROM_HU = -200
"""Voxels below are air or lung and do not count for the normalisation constants."""

HISTOGRAM_HU = (-1024, 3072)
"""Range of the stored histogram of HU; values outside are counted at its ends."""

BONE_FROM_HU = 180
"""Voxels above may be bone; contrast in vessels too, which does no harm here."""

BONE_BLOCK_VOX = 8
BONE_SHARE = 0.05
"""A block counts as bone if this share of it is above ``BONE_FROM_HU``."""

PARTIAL = ".partial-"
ABANDONED_AFTER_S = 24 * 3600

OPEN_MAPS = 256
"""Mapped files kept open."""


@dataclass(frozen=True, eq=False)
class StoredLesion:
    """One lesion with a mask.

    Attributes:
        instance_id: 1, 2, ... in this scan; the value in patches.
        label: its value in the label map.
        corner: first voxel of its tight mask.
        shape: voxels of that mask.
        voxels: how many of them are inside.
        offset: where the mask starts in the file of all masks.
    """

    instance_id: int
    label: int
    corner: ShapeZYX
    shape: ShapeZYX
    voxels: int
    offset: int

    @property
    def box(self) -> Float[np.ndarray, " 6"]:
        """Tight box in voxel edges."""
        corner = np.array(self.corner, dtype=float)
        return np.concatenate([corner, corner + self.shape])


@dataclass(frozen=True, eq=False)
class StoredScan:
    """One scan on the model's grid.

    Attributes:
        case: its row in the cohort.
        folder: where its files are.
        grid: the map to the scan as it was read.
        lesions: those with a mask.
        boxes: ``(n, 6)`` lesions without a mask.
        ignore: ``(m, 6)`` regions neither rewarded nor punished.
        bone: ``(k, 3)`` centres of blocks that hold bone, in voxel edges; may be empty.
        warnings: what reading the scan and its annotations warned of.
    """

    case: Case
    folder: Path
    grid: ModelGrid
    lesions: tuple[StoredLesion, ...]
    boxes: Float[np.ndarray, "n 6"]
    ignore: Float[np.ndarray, "m 6"]
    bone: Int16[np.ndarray, "k 3"]
    warnings: tuple[str, ...]

    @property
    def shape(self) -> ShapeZYX:
        return self.grid.shape

    @property
    def image(self) -> Int16[np.ndarray, "z y x"]:
        """HU, mapped from the disk; read only."""
        return _open_map(self.folder / "image.npy")

    def mask(self, lesion: StoredLesion) -> Bool[np.ndarray, "z y x"]:
        """Return the tight mask of a lesion."""
        flat = _open_map(self.folder / "masks.npy")
        size = int(np.prod(lesion.shape))
        return flat[lesion.offset : lesion.offset + size].reshape(lesion.shape)

    def read_hu(self, corner: ShapeZYX, shape: ShapeZYX) -> Int16[np.ndarray, "Z Y X"]:
        """Return a block of HU that may reach beyond the scan, where there is air.

        The result may be a read-only view of the file.
        """
        source, target = _overlap(corner, shape, (0, 0, 0), self.shape)
        block = self.image[source]
        if block.shape == shape:
            return block
        padded = np.full(shape, AIR_HU, dtype=np.int16)
        padded[target] = block
        return padded

    def read_instances(
        self, corner: ShapeZYX, shape: ShapeZYX
    ) -> tuple[Int16[np.ndarray, "Z Y X"], dict[int, int]]:
        """Return a block of the instance map, and how many voxels of each lesion are in it."""
        block = np.zeros(shape, dtype=np.int16)
        visible = {}
        for lesion in self.lesions:
            source, target = _overlap(corner, shape, lesion.corner, lesion.shape)
            mask = self.mask(lesion)[source]
            count = int(np.count_nonzero(mask))
            if count:
                block[target][mask] = lesion.instance_id
                visible[lesion.instance_id] = count
        return block, visible


@dataclass(frozen=True, eq=False)
class Store:
    """The scans that a network trains or is validated on, on one model grid spacing."""

    scans: tuple[StoredScan, ...]
    spacing_mm: float


def build_store(
    cases: Sequence[Case],
    folder: Path,
    spacing_mm: float,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Store:
    """Resample the scans that are not yet in ``folder``, and open them all.

    Args:
        cases: the scans; the store keeps their order.
        folder: made if it is missing; may be shared by other cohorts and settings.
        spacing_mm: voxel size of the model's grid.
        workers: scans prepared at once; each takes about three times its size in memory.
        progress: called with scans done and in all, after each.

    Raises:
        InputError: a scan or its annotations cannot be used; the message names the scan.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder)
    pool = ThreadPoolExecutor(max_workers=max(1, workers), thread_name_prefix="osteomet-store")
    with pool:
        futures = {
            pool.submit(_open_or_build, case, folder, spacing_mm): index
            for index, case in enumerate(cases)
        }
        scans: dict[int, StoredScan] = {}
        try:
            for future in as_completed(futures):
                scans[futures[future]] = future.result()
                if progress is not None:
                    progress(len(scans), len(cases))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return Store(tuple(scans[index] for index in range(len(cases))), spacing_mm)


def hu_statistics(store: Store, window_hu: tuple[float, float]) -> tuple[float, float]:
    """Return mean and standard deviation of HU in the body, clipped to the window.

    The body is every voxel of at least ``BODY_FROM_HU``. They become ``mean_hu`` and ``std_hu``
    of the preprocessing.

    Raises:
        InputError: no voxel is in the body, or all of them have one value.
    """
    counts = np.zeros(HISTOGRAM_HU[1] - HISTOGRAM_HU[0], dtype=np.int64)
    for scan in store.scans:
        counts += np.load(scan.folder / "histogram.npy")
    hu = np.arange(*HISTOGRAM_HU)
    counts, clipped = counts[hu >= BODY_FROM_HU], hu[hu >= BODY_FROM_HU].clip(*window_hu)
    if not counts.sum():
        raise InputError(f"no voxel of the training scans is above {BODY_FROM_HU} HU: is it CT?")
    mean = float(np.average(clipped, weights=counts))
    deviation = float(np.sqrt(np.average((clipped - mean) ** 2, weights=counts)))
    if deviation == 0:
        raise InputError(
            f"all body voxels of the training scans are {mean:.0f} HU within the window "
            f"{window_hu}; expected CT, or another preprocess.window_hu"
        )
    return mean, deviation


def _open_or_build(case: Case, folder: Path, spacing_mm: float) -> StoredScan:
    try:
        target = folder / f"{_safe_name(case.scan_id)}-{_digest(case, spacing_mm)}"
        if not target.is_dir():
            _build(case, target, spacing_mm)
        return _open(case, target)
    except OsteometError as error:
        raise type(error)(f"scan {case.scan_id!r}: {error}") from error


def _build(case: Case, target: Path, spacing_mm: float) -> None:
    """Write a scan's folder under another name, then rename it."""
    partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=target.parent))
    try:
        scan = read_scan(case.image)
        grid = ModelGrid.of(scan.volume, spacing_mm)
        annotations = read_annotations(case, scan.volume, spacing_mm)
        image = to_model_grid(scan.volume, spacing_mm).voxels
        np.save(partial / "image.npy", image)
        np.save(partial / "histogram.npy", _histogram(image))
        np.save(partial / "bone.npy", _bone_blocks(image))
        _write_annotations(partial, annotations, grid, scan.warnings)
        partial.rename(target)
    except OSError as error:
        if not target.is_dir():  # else another process was faster, with the same content
            raise InputError(
                f"{target.parent}: cannot be written ({error.strerror}); expected a writable "
                "folder with room for the resampled scans"
            ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed builds left; young folders may be another process's work."""
    for partial in folder.glob(f"{PARTIAL}*"):
        try:
            if time.time() - partial.stat().st_mtime > ABANDONED_AFTER_S:
                shutil.rmtree(partial, ignore_errors=True)
        except FileNotFoundError:
            continue


def _write_annotations(
    folder: Path, annotations: Annotations, grid: ModelGrid, warnings: tuple[str, ...]
) -> None:
    lesions, flat, offset = [], [np.zeros(0, dtype=bool)], 0
    for instance_id, one in enumerate(annotations.masks, start=1):
        lesions.append(
            {
                "instance_id": instance_id,
                "label": one.label,
                "corner": one.corner,
                "shape": one.mask.shape,
                "voxels": int(np.count_nonzero(one.mask)),
                "offset": offset,
            }
        )
        flat.append(one.mask.ravel())
        offset += one.mask.size
    np.save(folder / "masks.npy", np.concatenate(flat))
    record = {
        "native_shape": grid.native_shape,
        "native_affine": grid.native_affine.tolist(),
        "spacing_mm": grid.spacing_mm,
        "lesions": lesions,
        "boxes": annotations.boxes.tolist(),
        "ignore": annotations.ignore.tolist(),
        "warnings": [*warnings, *annotations.warnings],
    }
    (folder / "scan.json").write_text(json.dumps(record), encoding="utf-8")


def _open(case: Case, folder: Path) -> StoredScan:
    try:
        record = json.loads((folder / "scan.json").read_text(encoding="utf-8"))
        bone = np.load(folder / "bone.npy")
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: is damaged ({error}); delete this folder") from error
    lesions = tuple(
        StoredLesion(**{**one, "corner": tuple(one["corner"]), "shape": tuple(one["shape"])})
        for one in record["lesions"]
    )
    z, y, x = record["native_shape"]
    return StoredScan(
        case=case,
        folder=folder,
        grid=ModelGrid((z, y, x), np.array(record["native_affine"]), record["spacing_mm"]),
        lesions=lesions,
        boxes=np.array(record["boxes"], dtype=float).reshape(-1, 6),
        ignore=np.array(record["ignore"], dtype=float).reshape(-1, 6),
        bone=bone,
        warnings=tuple(record["warnings"]),
    )


@lru_cache(maxsize=OPEN_MAPS)
def _open_map(path: Path) -> np.ndarray:
    return np.asarray(np.load(path, mmap_mode="r"))


def _digest(case: Case, spacing_mm: float) -> str:
    files = [case.image, case.mask, case.boxes, case.ignore]
    content = [FORMAT, spacing_mm, case.mask_kind.value, [_state(file) for file in files]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _state(path: Path | None) -> list[tuple[str, int, int]]:
    """Return what changes when a file, or any file below a folder, is replaced."""
    if path is None:
        return []
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    try:
        stats = [(str(file.resolve()), file.stat()) for file in files]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a file") from error
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _safe_name(scan_id: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in scan_id)[:60].lstrip(".")


def _histogram(image: Int16[np.ndarray, "z y x"]) -> Integer[np.ndarray, " hu"]:
    low, high = HISTOGRAM_HU
    counts = np.zeros(high - low, dtype=np.int64)
    for plane in image:
        counts += np.bincount((plane.clip(low, high - 1) - low).ravel(), minlength=high - low)
    return counts


def _bone_blocks(image: Int16[np.ndarray, "z y x"]) -> Int16[np.ndarray, "k 3"]:
    """Return the centres of blocks that hold bone, in voxel edges."""
    n = BONE_BLOCK_VOX
    centers = []
    for z in range(0, image.shape[0], n):
        bone = image[z : z + n] > BONE_FROM_HU
        padding = [(0, 0)] + [(0, -side % n) for side in bone.shape[1:]]
        bone = np.pad(bone, padding)
        rows, columns = (side // n for side in bone.shape[1:])
        counts = bone.reshape(len(bone), rows, n, columns, n).sum(axis=(0, 2, 4))
        y, x = (counts > BONE_SHARE * n**3).nonzero()
        centers.append(np.stack([np.full_like(y, z), y * n, x * n], axis=1) + n // 2)
    return np.concatenate(centers).astype(np.int16)


def _overlap(
    corner: ShapeZYX, shape: ShapeZYX, other_corner: ShapeZYX, other_shape: ShapeZYX
) -> tuple[tuple[slice, slice, slice], tuple[slice, slice, slice]]:
    """Return where two blocks overlap, in the second and in the first; may be empty."""
    inside, here = [], []
    for a, n, b, m in zip(corner, shape, other_corner, other_shape, strict=True):
        low = max(a, b)
        high = max(low, min(a + n, b + m))
        inside.append(slice(low - b, high - b))
        here.append(slice(low - a, high - a))
    return (inside[0], inside[1], inside[2]), (here[0], here[1], here[2])
