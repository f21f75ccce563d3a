"""The store: scans on the model's grid, prepared once and read by patches.

An image is read chunk by chunk, see ``chunks.py``. Lesions are kept as tight masks, since a whole
label map would be as large as its scan and nearly all zero; their file is mapped and not loaded.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int16

from osteomet.data.chunks import read_image
from osteomet.data.manifest import Case
from osteomet.data.prepare import prepare_scans
from osteomet.data.prepared_scan import HISTOGRAM_HU
from osteomet.data.preprocess import AIR_HU, ModelGrid
from osteomet.errors import InputError, StoreError
from osteomet.volume import ShapeZYX

BODY_FROM_HU = -200
"""Voxels below are air or lung and do not count for the normalisation constants."""

OPEN_MAPS = 128
"""Mapped files of masks kept open."""


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
        image_corner: first voxel that is stored; beyond the body there is air.
        image_shape: voxels that are stored.
        lesions: those with a mask.
        boxes: ``(n, 6)`` lesions without a mask.
        ignore: ``(m, 6)`` regions neither rewarded nor punished.
        bone: ``(k, 3)`` centres of blocks that hold bone, in voxel edges; may be empty.
        warnings: what reading the scan and its annotations warned of.
    """

    case: Case
    folder: Path
    grid: ModelGrid
    image_corner: ShapeZYX
    image_shape: ShapeZYX
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
        """All HU; whoever wants a part takes ``read_hu``."""
        return self.read_hu((0, 0, 0), self.shape)

    def mask(self, lesion: StoredLesion) -> Bool[np.ndarray, "z y x"]:
        """Return the tight mask of a lesion."""
        flat = _open_map(self.folder / "masks.npy")
        size = int(np.prod(lesion.shape))
        return flat[lesion.offset : lesion.offset + size].reshape(lesion.shape)

    def read_hu(self, corner: ShapeZYX, shape: ShapeZYX) -> Int16[np.ndarray, "Z Y X"]:
        """Return a block of HU that may reach beyond what is stored, where there is air.

        Any number of threads may read, and only the chunks that the block crosses are.

        Raises:
            StoreError: the image is damaged.
        """
        source, target = _overlap(corner, shape, self.image_corner, self.image_shape)
        z, y, x = (part.stop - part.start for part in source)
        if 0 in (z, y, x):
            return np.full(shape, AIR_HU, dtype=np.int16)
        first = (source[0].start, source[1].start, source[2].start)
        block = read_image(self.folder / "image.b2nd", first, (z, y, x))
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
    """Prepare the scans that are not yet in ``folder``, and open them all.

    Args:
        cases: the scans; the store keeps their order.
        folder: made if it is missing; may be shared by other cohorts and settings.
        spacing_mm: voxel size of the model's grid.
        workers: processes; see ``prepare_scans``.
        progress: called with scans done and in all, after each.

    Raises:
        InputError: a scan or its annotations cannot be used; the message names the scan.
        StoreError: the store cannot be written, or a folder in it is damaged.
    """
    scans: dict[int, StoredScan] = {}
    for one in prepare_scans(cases, folder, spacing_mm, workers):
        if one.error is not None:
            raise one.error
        if one.folder is not None:
            scans[one.index] = _open(cases[one.index], one.folder)
        if progress is not None:
            progress(len(scans), len(cases))
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


def _open(case: Case, folder: Path) -> StoredScan:
    try:
        record = json.loads((folder / "scan.json").read_text(encoding="utf-8"))
        bone = np.load(folder / "bone.npy")
        size = (folder / "image.b2nd").stat().st_size
    except (OSError, ValueError) as error:
        raise StoreError(f"{folder}: is damaged ({error}); delete this folder") from error
    if size != record["image_bytes"]:
        raise StoreError(
            f"{folder}: is damaged (image.b2nd has {size} bytes, expected "
            f"{record['image_bytes']}); delete this folder"
        )
    lesions = tuple(
        StoredLesion(**{**one, "corner": tuple(one["corner"]), "shape": tuple(one["shape"])})
        for one in record["lesions"]
    )
    native, corner, stored = (
        (z, y, x)
        for z, y, x in (record[key] for key in ("native_shape", "image_corner", "image_shape"))
    )
    return StoredScan(
        case=case,
        folder=folder,
        grid=ModelGrid(native, np.array(record["native_affine"]), record["spacing_mm"]),
        image_corner=corner,
        image_shape=stored,
        lesions=lesions,
        boxes=np.array(record["boxes"], dtype=float).reshape(-1, 6),
        ignore=np.array(record["ignore"], dtype=float).reshape(-1, 6),
        bone=bone,
        warnings=tuple(record["warnings"]),
    )


@lru_cache(maxsize=OPEN_MAPS)
def _open_map(path: Path) -> np.ndarray:
    return np.asarray(np.load(path, mmap_mode="r"))


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
