"""One scan resampled, cropped to the body and compressed, in a folder of a store.

The folder is named by a digest of what the scan's files hold, of the settings and of the format.
Whatever changes, the name changes, so nothing stale is ever read. It appears in one step when all
of it is on the disk.

HU stay whole numbers. The network's constants are measured on the training scans, so another split
or window needs no other store, and int16 halves what float32 takes before it is compressed.
"""

import fcntl
import io
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import numpy as np
from jaxtyping import Int16, Int64

from osteomet.data.annotations import Annotations, mask_box, read_annotations
from osteomet.data.body import BODY_MARGIN_MM, body_window
from osteomet.data.chunks import CHUNK_VOX, compress_image
from osteomet.data.content import content_digest
from osteomet.data.manifest import Case
from osteomet.data.preprocess import ModelGrid
from osteomet.data.resample import resample_slabs
from osteomet.errors import StoreError
from osteomet.io.scan import read_scan
from osteomet.volume import Volume, Window

FORMAT = 3
"""Raised whenever what is written, or how it is computed, changes."""

HISTOGRAM_HU = (-1024, 3072)
"""Range of the stored histogram of HU; values outside are counted at its ends."""

BONE_FROM_HU = 180
"""Voxels above may be bone; contrast in vessels too, which does no harm here."""

BONE_BLOCK_VOX = 8
BONE_SHARE = 0.05
"""A block counts as bone if this share of it is above ``BONE_FROM_HU``."""

PARTIAL = ".partial-"
"""Begins the name of a folder that is not all written."""

LOCK = "lock"
"""A file in such a folder, locked by who writes it: the system lets go when that process dies."""

YOUNG_S = 5.0
"""Between making a folder and locking it less time passes."""

ABANDONED_AFTER_S = 24 * 3600
"""Age after which a folder counts as abandoned where locks cannot tell, as on some networks."""


def prepare_scan(case: Case, store: Path, spacing_mm: float) -> tuple[Path, bool]:
    """Prepare one scan unless it is in the store; return its folder, and whether it was.

    Raises:
        InputError: the scan or its annotations cannot be used.
        StoreError: the store cannot be written.
    """
    target = store / f"{_safe_name(case.scan_id)}-{_digest(case, store, spacing_mm)}"
    if target.is_dir():
        return target, True
    scan = read_scan(case.image)
    grid = ModelGrid.of(scan.volume, spacing_mm)
    annotations = read_annotations(case, scan.volume, spacing_mm)
    upright = scan.volume.closest_lps()
    window = _body_window(upright, grid, annotations)
    files = _image_files(upright, grid, window)
    record = {
        "native_shape": grid.native_shape,
        "native_affine": grid.native_affine.tolist(),
        "spacing_mm": grid.spacing_mm,
        "image_corner": [part.start for part in window],
        "image_shape": [part.stop - part.start for part in window],
        "image_bytes": len(files["image.b2nd"]),
        "lesions": _lesion_records(annotations),
        "boxes": annotations.boxes.tolist(),
        "ignore": annotations.ignore.tolist(),
        "warnings": [*scan.warnings, *annotations.warnings],
    }
    masks = [one.mask.ravel() for one in annotations.masks]
    files["masks.npy"] = _npy(np.concatenate([np.zeros(0, dtype=bool), *masks]))
    files["scan.json"] = json.dumps(record).encode()
    _write_folder(target, files)
    return target, False


def _body_window(upright: Volume, grid: ModelGrid, annotations: Annotations) -> Window:
    """Return the model voxels that hold the body and all that is annotated."""
    body = body_window(upright)
    low = np.floor([part.start / step for part, step in zip(body, grid.step, strict=True)])
    high = np.ceil([part.stop / step for part, step in zip(body, grid.step, strict=True)])
    masked = np.array([mask_box(one) for one in annotations.masks]).reshape(-1, 6)
    boxes = np.concatenate([masked, annotations.boxes, annotations.ignore])
    if len(boxes):
        margin = BODY_MARGIN_MM / grid.spacing_mm
        low = np.minimum(low, np.floor(boxes[:, :3].min(axis=0) - margin))
        high = np.maximum(high, np.ceil(boxes[:, 3:].max(axis=0) + margin))
    low, high = low.clip(0, grid.shape), high.clip(0, grid.shape)
    z, y, x = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return z, y, x


def _image_files(upright: Volume, grid: ModelGrid, window: Window) -> dict[str, bytes]:
    """Return image, histogram and blocks of bone; the resampled scan is never whole in memory."""
    histogram = np.zeros(HISTOGRAM_HU[1] - HISTOGRAM_HU[0], dtype=np.int64)
    corner = np.array([part.start for part in window])
    bone: list[Int16[np.ndarray, "k 3"]] = []

    def watched() -> Iterator[Int16[np.ndarray, "planes y x"]]:
        for slab in resample_slabs(upright.voxels, grid.step, window, CHUNK_VOX):
            _count_hu(slab, histogram)
            bone.append(_bone_blocks(slab) + corner.astype(np.int16))
            corner[0] += len(slab)
            yield slab

    z, y, x = (part.stop - part.start for part in window)
    return {
        "image.b2nd": compress_image(watched(), (z, y, x)),
        "histogram.npy": _npy(histogram),
        "bone.npy": _npy(np.concatenate(bone)),
    }


def _lesion_records(annotations: Annotations) -> list[dict[str, object]]:
    lesions, offset = [], 0
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
        offset += one.mask.size
    return lesions


def remove_abandoned(store: Path) -> None:
    """Remove what killed runs left, and nothing that another process may be at work on."""
    for unfinished in store.glob(f"{PARTIAL}*"):
        with suppress(FileNotFoundError):  # another run removes it, or finished it
            age_s = time.time() - unfinished.stat().st_mtime
            if age_s > ABANDONED_AFTER_S or (age_s > YOUNG_S and not _is_locked(unfinished)):
                shutil.rmtree(unfinished, ignore_errors=True)


def _is_locked(unfinished: Path) -> bool:
    try:
        with (unfinished / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # locked; or nothing to lock, or no way: let its age tell
        return True
    return False


def _write_folder(target: Path, files: dict[str, bytes]) -> None:
    """Write a scan's folder under another name, then rename it."""
    unfinished = target.with_name(f"{PARTIAL}{os.urandom(8).hex()}")
    try:
        unfinished.mkdir()
        with (unfinished / LOCK).open("wb") as lock:
            with suppress(OSError):  # without locks it works too, see ABANDONED_AFTER_S
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for name, content in files.items():
                with (unfinished / name).open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())  # else a power cut may leave names without bytes
            (unfinished / LOCK).unlink()
            unfinished.rename(target)
    except OSError as error:
        if not target.is_dir():  # else another process was faster, with the same content
            raise StoreError(
                f"{target.parent}: cannot be written ({error.strerror}); expected a writable "
                "folder with room for the resampled scans"
            ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _digest(case: Case, store: Path, spacing_mm: float) -> str:
    files = [case.image, case.mask, case.boxes, case.ignore]
    # Rows of a file of boxes are told apart by the image's name.
    name = case.image.name if case.boxes is not None else None
    content = [content_digest(file, store) for file in files]
    settings = [FORMAT, spacing_mm, case.mask_kind.value, name, content]
    return sha256(json.dumps(settings).encode()).hexdigest()[:16]


def _safe_name(scan_id: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in scan_id)[:60].lstrip(".")


def _npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def _count_hu(slab: Int16[np.ndarray, "z y x"], counts: Int64[np.ndarray, " hu"]) -> None:
    low, high = HISTOGRAM_HU
    for plane in slab:
        counts += np.bincount((plane.clip(low, high - 1) - low).ravel(), minlength=high - low)


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
