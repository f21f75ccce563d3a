"""Examine many scans at once, and keep what was measured, so that a stopped run goes on.

One file a scan, named by a digest of the state of the scan's files (path, size, time of change),
of what its row says, and of the version of the measurements. Whatever changes, the name changes,
so nothing stale is read. A file appears in one step when all of it is written.
"""

import hashlib
import io
import json
import multiprocessing
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from osteomet.checkup import ScanRecord, ScanViews, View
from osteomet.data.examination import examine, record_of
from osteomet.data.manifest import Case
from osteomet.errors import InputError

FORMAT = 1
"""Raised whenever what is measured, or how, changes."""

Progress = Callable[[int, int], None]


def examine_cohort(
    cases: Sequence[Case], folder: Path, *, workers: int = 1, progress: Progress | None = None
) -> list[Path]:
    """Measure the scans that were not measured before; return where each one's record is.

    Args:
        cases: the scans.
        folder: of the measurements; made if it is missing.
        workers: processes; each takes about four times its scan in memory.
        progress: called with scans done and in all, after each.

    Raises:
        InputError: the folder cannot be written, or a worker was killed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); give another") from error
    paths: dict[int, Path] = {}
    for index, path in _examined(cases, partial(examine_once, folder=folder), workers):
        paths[index] = path
        if progress is not None:
            progress(len(paths), len(cases))
    return [paths[index] for index in range(len(cases))]


def examine_once(case: Case, folder: Path) -> Path:
    """Measure one scan unless that was done before; return where its record is."""
    path = folder / f"{_safe_name(case.scan_id)}-{_digest(case)}.npz"
    if not path.is_file():
        try:
            record, views = examine(case)
        except Exception as error:  # one scan's surprise must not hide the others' faults
            record, views = _surprise(case, error), ScanViews()
        _write(path, record, views)
    return path


def read_record(path: Path) -> ScanRecord:
    """Read what was measured.

    Raises:
        InputError: the file is damaged.
    """
    try:
        # NumPy leaves a file that it opened itself open where it is no archive.
        with path.open("rb") as file, np.load(file) as stored:
            return ScanRecord.model_validate_json(stored["record"].tobytes())
    except (OSError, KeyError, ValueError, ValidationError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: is damaged; delete this file and run again") from error


def read_views(path: Path) -> ScanViews:
    """Read the pictures of a scan; see ``read_record``."""
    with np.load(path) as stored:
        views = {name: stored[name] for name in stored.files if name != "record"}
    labels = [int(name.removeprefix("hu-")) for name in views if name.startswith("hu-")]
    return ScanViews(
        front=View(views["front"], None, _pair(views["front-mm"])) if "front" in views else None,
        lesions={
            label: View(views[f"hu-{label}"], views[f"labels-{label}"], _pair(views[f"mm-{label}"]))
            for label in labels
        },
        thumbnail=views.get("thumbnail"),
    )


def _examined(
    cases: Sequence[Case], one: Callable[[Case], Path], workers: int
) -> Iterator[tuple[int, Path]]:
    """Yield the number of each case, and where it is, in the order in which they are done."""
    if min(workers, len(cases)) <= 1:
        yield from ((index, one(case)) for index, case in enumerate(cases))
        return
    # A fresh interpreter per worker: forking after numba or torch started threads hangs.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(cases)), mp_context=context) as pool:
        futures = {pool.submit(one, case): index for index, case in enumerate(cases)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise InputError(
                "a worker was killed, most likely because memory ran out; run again with fewer "
                "--workers: what was measured is kept"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _surprise(case: Case, error: Exception) -> ScanRecord:
    fault = f"{case.image}: {type(error).__name__}: {error}"
    return record_of(case).model_copy(update={"image_fault": fault})


def _write(path: Path, record: ScanRecord, views: ScanViews) -> None:
    arrays: dict[str, np.ndarray] = {
        "record": np.frombuffer(record.model_dump_json().encode(), dtype=np.uint8)
    }
    if views.front is not None:
        arrays |= {"front": views.front.values, "front-mm": np.array(views.front.spacing_mm)}
    if views.thumbnail is not None:
        arrays["thumbnail"] = views.thumbnail
    for label, view in views.lesions.items():
        arrays[f"hu-{label}"] = view.values
        arrays[f"mm-{label}"] = np.array(view.spacing_mm)
        if view.labels is not None:
            arrays[f"labels-{label}"] = view.labels
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(buffer.getvalue())
        unfinished.replace(path)
    except OSError as error:
        raise InputError(
            f"{path.parent}: cannot be written ({error.strerror}); expected a writable folder"
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)


def _digest(case: Case) -> str:
    files = [case.image, case.mask, case.boxes, case.ignore]
    row = [case.patient_id, case.centre, case.primary.value, case.split, case.age, case.sex]
    content = [FORMAT, row, case.mask_kind.value, [_state(file) for file in files]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _state(path: Path | None) -> list[tuple[str, int, int]]:
    """Return what changes when a file, or any file below a folder, is replaced."""
    if path is None:
        return []
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    states = [(str(file.resolve()), file.stat()) for file in files]
    return [(name, state.st_size, state.st_mtime_ns) for name, state in states]


def _safe_name(scan_id: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in scan_id)[:60].lstrip(".")


def _pair(values: np.ndarray) -> tuple[float, float]:
    rows, columns = values.tolist()
    return rows, columns
