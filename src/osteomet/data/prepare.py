"""Many scans prepared at once, in processes; one that cannot be read does not stop the others.

A run that was stopped, killed too, goes on where it was.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from osteomet.config import Config
from osteomet.data.manifest import Case, survey_cohort
from osteomet.data.prepared_scan import prepare_scan, remove_abandoned
from osteomet.errors import InputError, OsteometError, StoreError

STORE_FOLDER = "osteomet-store"
"""Beside ``cohort.csv``, unless another place is given; runs of the same scans share it."""


@dataclass(frozen=True)
class Prepared:
    """What came of one scan.

    Attributes:
        index: which one.
        folder: where it is in the store; None where there is an error.
        kept: whether it was there before.
        error: why it is not there; names the scan.
    """

    index: int
    folder: Path | None = None
    kept: bool = False
    error: OsteometError | None = None


@dataclass(frozen=True)
class Preparation:
    """What came of a cohort.

    Attributes:
        store: the folder.
        done: scans that were prepared now.
        kept: scans that were there before.
        failed: scans, and rows of ``cohort.csv``, that cannot be used.
        size_mb: of the done and kept scans on the disk, in 1e6 bytes.
        seconds: by the clock.
    """

    store: Path
    done: int
    kept: int
    failed: int
    size_mb: float
    seconds: float


def prepare_cohort(
    cohort_file: Path,
    config: Config,
    store: Path | None = None,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    report: Callable[[OsteometError], None] | None = None,
) -> Preparation:
    """Prepare all scans of a cohort, whatever their split.

    Args:
        cohort_file: ``cohort.csv``.
        config: only ``preprocess.spacing_mm`` counts.
        store: where to; None is beside ``cohort.csv``, where training looks.
        workers: processes; see ``prepare_scans``.
        progress: called with scans done and in all, after each.
        report: called with each error of a row or a scan.

    Raises:
        InputError: ``cohort.csv`` cannot be read at all, or a worker was killed.
        StoreError: the store cannot be written.
    """
    started = time.perf_counter()
    cohort, faults = survey_cohort(cohort_file)
    store = store or cohort_file.parent / STORE_FOLDER
    errors: list[OsteometError] = list(faults)
    for fault in faults:
        if report is not None:
            report(fault)
    folders: list[Path] = []
    kept = seen = 0
    spacing_mm = config.preprocess.spacing_mm
    for seen, one in enumerate(prepare_scans(cohort.cases, store, spacing_mm, workers), start=1):
        kept += one.kept
        if one.folder is not None:
            folders.append(one.folder)
        if one.error is not None:
            errors.append(one.error)
            if report is not None:
                report(one.error)
        if progress is not None:
            progress(seen, len(cohort.cases))
    size = sum(file.stat().st_size for folder in set(folders) for file in folder.iterdir())
    seconds = time.perf_counter() - started
    return Preparation(store, len(folders) - kept, kept, len(errors), size / 1e6, seconds)


def prepare_scans(
    cases: Sequence[Case], store: Path, spacing_mm: float, workers: int = 1
) -> Iterator[Prepared]:
    """Prepare the scans that are not yet in a store; yield what came of each, as it is done.

    Args:
        cases: the scans.
        store: made if it is missing; may be shared by other cohorts and settings.
        spacing_mm: voxel size of the model's grid.
        workers: processes, each at one scan; 1 works in this one. A scan takes its
            size and its mask's as they were read, and about 150 MB besides.

    Raises:
        InputError: a worker was killed.
        StoreError: the store cannot be written, which would befall the other scans too.
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{store}: cannot be made ({error.strerror}); give another") from error
    remove_abandoned(store)
    one = partial(_prepare_numbered, store=store, spacing_mm=spacing_mm)
    if min(workers, len(cases)) <= 1:
        yield from map(one, enumerate(cases))
        return
    # A fresh interpreter per worker: forking after a library started threads may hang.
    context = multiprocessing.get_context("spawn")
    count = min(workers, len(cases))
    with ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker) as pool:
        futures = [pool.submit(one, numbered) for numbered in enumerate(cases)]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise InputError(
                "a worker was killed, most likely because memory ran out; run again with fewer "
                "workers: what was prepared is kept"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _prepare_numbered(numbered: tuple[int, Case], store: Path, spacing_mm: float) -> Prepared:
    index, case = numbered
    try:
        folder, kept = prepare_scan(case, store, spacing_mm)
    except StoreError:
        raise
    except OsteometError as error:
        return Prepared(index, error=type(error)(f"scan {case.scan_id!r}: {error}"))
    except Exception as error:  # one scan's surprise must not stop the others
        text = f"scan {case.scan_id!r}: {case.image}: {type(error).__name__}: {error}"
        return Prepared(index, error=InputError(text))
    return Prepared(index, folder, kept)


def _start_worker() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Do not outlive a killed parent: a pool's workers would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
