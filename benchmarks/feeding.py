"""What it costs to feed training with patches, and that feeding never stalls, grows or differs.

    osteomet simulate -o cohort --patients 16
    python benchmarks/feeding.py --cohort cohort/cohort.csv --output benchmarks/feeding.md

CPU times add up what all threads of the process used; they bear company on the machine best.
"""

import argparse
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from osteomet.config import Config, load_config
from osteomet.data import render
from osteomet.data.loader import Batch, PatchLoader
from osteomet.data.manifest import read_cohort
from osteomet.data.patches import Patch, PatchSampler
from osteomet.data.store import Store, StoredScan, build_store
from osteomet.errors import InputError
from osteomet.io.volumes import write_labels, write_volume
from osteomet.ops.freed_memory import keep_freed_memory
from osteomet.training.fabric import make_fabric
from osteomet.training.loop import Trainer, TrainingData
from osteomet.training.run_folder import RunFolder
from osteomet.volume import Volume

ROOT = Path(__file__).parents[1]
SIDES = (64, 96, 128)
WORKERS = (0, 1, 2, 4)
STALLED_S = 120
WARM_STEPS = 5
CORES, WANTED_A_SECOND = 16, 100


class TimedSampler(PatchSampler):
    """Adds up the CPU time that its patches took, whichever thread made them."""

    cpu_s = 0.0

    def sample(self, index: int) -> Patch:
        began = time.thread_time()
        patch = super().sample(index)
        self.cpu_s += time.thread_time() - began
        return patch


class Meter:
    """Notes, whenever a batch is handed over, how long it was waited for and what was spent."""

    def __init__(self, sampler: TimedSampler, workers: int) -> None:
        self.sampler, self.workers = sampler, workers
        self.notes: list[tuple[float, float, float, float]] = []

    @contextmanager
    def batches(self, start: int) -> Iterator[Iterator[Batch]]:
        """Open the batches, as training does."""
        size = self.sampler.config.training.batch_size
        with PatchLoader(self.sampler, size, start, self.workers) as loader:
            yield self._noted(loader)

    def _noted(self, loader: PatchLoader) -> Iterator[Batch]:
        while True:
            began = time.perf_counter()
            batch = next(loader)
            ended = time.perf_counter()
            note = (ended, ended - began, time.process_time(), self.sampler.cpu_s)
            self.notes.append(note)
            yield batch

    def row(self) -> str:
        """Return the means over the steps after those that warm up."""
        first, last = self.notes[WARM_STEPS], self.notes[-1]
        steps = len(self.notes) - 1 - WARM_STEPS
        waited = sum(note[1] for note in self.notes[WARM_STEPS + 1 :])
        wall, cpu, data = (last[k] - first[k] for k in (0, 2, 3))
        return (
            f"| {self.workers} | {1000 * cpu / steps:.0f} | {1000 * data / steps:.1f} "
            f"| {100 * data / cpu:.1f} % | {1000 * wall / steps:.0f} "
            f"| {1000 * waited / steps:.2f} | {100 * waited / wall:.2f} % |"
        )


def share_of_a_step(store: Store, config: Config, steps: int) -> list[str]:
    """Train the smallest model for some steps, and tell how much of one is data."""
    every = ("training.max_steps", "training.validate_every", "training.checkpoint_every")
    config = config.updated(dict.fromkeys(every, steps))
    rows = []
    for workers in (0, 1):
        meter = Meter(TimedSampler(store, config, 0), workers)
        with tempfile.TemporaryDirectory() as folder:
            run = RunFolder(Path(folder) / "run")
            run.open(resume=False)
            data = TrainingData(meter.batches, [], "benchmark", {})
            Trainer(make_fabric("cpu", "32"), run, config, data).fit()
        rows.append(meter.row())
    return [
        "| workers | step, CPU ms | its data, CPU ms | share | step, ms | waits, ms | share |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *rows,
    ]


def cost_of_a_patch(store: Store, config: Config, patches: int) -> list[str]:
    """Time whole patches as the CPU makes them, and windows as a GPU would be sent them."""
    lines = [
        "| scans | side | whole patch, CPU ms | a second and core | by torch, CPU ms "
        "| window, CPU ms | a second and core |",
        "| --- " * 7 + "|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        trunk = Store((large_scan(store.scans[0], Path(folder)),), store.spacing_mm)
        for name, scans in {"simulated": store, "27 times as large": trunk}.items():
            for side in SIDES:
                sized = config.updated({"data.patch_size": (side,) * 3})
                sampler = PatchSampler(scans, sized, 0)
                whole = cpu_ms(sampler.sample, patches)
                window = cpu_ms(sampler.draft, patches)
                torch_ms = cpu_ms(partial(made_by_torch, sampler), patches // 4)
                lines.append(
                    f"| {name} | {side} | {whole:.2f} | {1000 / whole:.0f} | {torch_ms:.2f} "
                    f"| {window:.2f} | {1000 / window:.0f} |"
                )
    tiny = PatchSampler(store, config.updated({"data.patch_size": (16,) * 3, **SMALL_LEVELS}), 0)
    locked = cpu_ms(tiny.draft, patches)
    return [
        *lines,
        "",
        "By torch is what a GPU does, done on the CPU.",
        "",
        f"An estimate, not a measurement: {CORES} cores at the rate of the last row read "
        f"{CORES * 1000 / window:.0f} windows of 128-cubed a second, and make "
        f"{CORES * 1000 / whole:.0f} whole patches; {WANTED_A_SECOND} are wanted. Python's lock "
        f"bounds the threads together: drawing and reading a patch of 16-cubed, nearly all of it "
        f"Python, takes {locked:.2f} ms, and each of some 190 chunks that a window of 128-cubed "
        "crosses about 0.008 ms more, so that no number of cores gives more than about "
        f"{1000 / (locked + 190 * 0.008):.0f} a second.",
    ]


def large_scan(scan: StoredScan, folder: Path) -> StoredScan:
    """Return a scan repeated three times along each axis, as large as a trunk at 1 mm."""
    voxels = np.tile(scan.read_hu((0, 0, 0), scan.shape), (3, 3, 3))
    one, _ = scan.read_instances((0, 0, 0), scan.shape)
    labels = np.zeros(voxels.shape, dtype=np.int16)
    for number, (z, y, x) in enumerate(np.ndindex(3, 3, 3)):
        place = tuple(slice(k * n, (k + 1) * n) for k, n in zip((z, y, x), scan.shape, strict=True))
        labels[place] = np.where(one > 0, one + number * len(scan.lesions), 0)
    volume = Volume.from_spacing(voxels, (scan.grid.spacing_mm,) * 3)
    write_volume(folder / "ct.nii", volume)
    write_labels(folder / "mask.nii", volume.with_voxels(labels))
    case = replace(scan.case, image=folder / "ct.nii", mask=folder / "mask.nii", lesions=None)
    return build_store([case], folder / "store", scan.grid.spacing_mm).scans[0]


def made_by_torch(sampler: PatchSampler, index: int) -> Patch:
    """Make a patch without the compiled loops."""
    compiled, render.NUMBA_ENABLED = render.NUMBA_ENABLED, False
    try:
        return sampler.sample(index)
    finally:
        render.NUMBA_ENABLED = compiled


BEFORE = """Against the version before (commit 680e4e9), both in turn, three times, on scans stored
without compression: a whole patch of 64-cubed 4.3 -> 3.6 CPU ms, of 128-cubed 35.7 -> 24.9; share
of a step with one worker 2.65 % -> 2.31 %. Lesions and boxes of 80 patches were the same, images
within 0.001 HU."""
"""Kept from the run that compared them."""

SMALL_LEVELS = {"model.neck.levels": (2,), "model.anchors.sizes_mm": ((8.0,),)}


def cpu_ms(make: Callable[[int], object], patches: int) -> float:
    """Return the mean CPU time of a patch, after some that warm up."""
    for index in range(10):
        make(index)
    began = time.process_time()
    for index in range(10, 10 + patches):
        make(index)
    return 1000 * (time.process_time() - began) / patches


def memory(store: Store, config: Config, patches: int) -> list[str]:
    """Return the process's memory while patches go by."""
    lines = ["| patches | own memory, MB | mapped files, MB |", "| --- | --- | --- |"]
    every = patches // 10
    with PatchLoader(PatchSampler(store, config, 0), 4, workers=2) as loader:
        for done in range(4, patches + 4, 4):
            next(loader)
            if done == 4 or done % every == 0:
                own, mapped = resident_mb()
                lines.append(f"| {done} | {own:.0f} | {mapped:.0f} |")
    return lines


def resident_mb() -> tuple[float, float]:
    """Return anonymous memory, and pages of files that the kernel may drop."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own, mapped = (float(status[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))
    return own, mapped


def starts(arguments: Sequence[str]) -> list[str]:
    """Start a process for each number of workers; it must end in time, and agree with the rest."""
    lines = ["| workers | digest of 8 batches | seconds | a patch that fails |", "| --- " * 4 + "|"]
    for workers in WORKERS:
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, __file__, *arguments, "--digest", str(workers)],
            capture_output=True, text=True, timeout=STALLED_S, check=True,
        )  # fmt: skip
        digest, error = done.stdout.strip().split("\n")[-2:]
        lines.append(f"| {workers} | {digest} | {time.perf_counter() - began:.1f} | {error} |")
    return lines


def digest(store: Store, config: Config, workers: int) -> list[str]:
    """Return a digest of the first batches, and what a patch that cannot be read leads to."""
    total = hashlib.sha256()
    with PatchLoader(PatchSampler(store, config, 0), 4, workers=workers) as loader:
        for _ in range(8):
            batch = next(loader)
            total.update(batch.images.numpy().tobytes())
            for one in batch.targets:
                for tensor in (one.boxes, one.labels, one.instances, one.ignore_boxes):
                    total.update(tensor.numpy().tobytes())

    class Failing(PatchSampler):
        def sample(self, index: int) -> Patch:
            if index == 6:
                raise InputError("the disk is gone")
            return super().sample(index)

    outcome = "no error"
    try:
        with PatchLoader(Failing(store, config, 0), 4, workers=workers) as loader:
            for _ in range(3):
                next(loader)
    except InputError as error:
        outcome = f"InputError: {error}"
    return [total.hexdigest()[:16], outcome]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--split", default=None, help="use these scans only")
    parser.add_argument("--scans", type=int, default=16)
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--patches", type=int, default=200, help="timed for each size")
    parser.add_argument("--memory-patches", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--digest", type=int, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=None)
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    cohort = read_cohort(arguments.cohort)
    cases = cohort.of_split(arguments.split) if arguments.split else cohort.cases
    folder = arguments.store or arguments.cohort.parent / "osteomet-store"
    store = build_store(cases[: arguments.scans], folder, 1.0)
    config = load_config(ROOT / "configs" / "default.toml")
    if arguments.digest is not None:
        print("\n".join(digest(store, config, arguments.digest)))
        return
    given = ["--cohort", str(arguments.cohort), "--scans", str(arguments.scans)]
    given += ["--split", arguments.split] if arguments.split else []
    given += ["--store", str(arguments.store)] if arguments.store else []
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    lines = [
        "# Feeding: what patches cost",
        "",
        "Repeat with `osteomet simulate -o cohort --patients 16` and",
        "`python benchmarks/feeding.py --cohort cohort/cohort.csv`.",
        "",
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads; Python "
        f"{platform.python_version()}, torch {torch.__version__}; {len(store.scans)} scans; load "
        f"average {load} at the start.",
        "",
        "## Share of a training step, configs/default.toml",
        "",
        *share_of_a_step(store, config, arguments.steps),
        "",
        "## A patch",
        "",
        *cost_of_a_patch(store, config, arguments.patches),
        "",
        BEFORE,
        "",
        "## Starts, and a worker that fails",
        "",
        *starts(given),
        "",
        f"## Memory over {arguments.memory_patches} patches, two workers",
        "",
        *memory(store, config, arguments.memory_patches),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
