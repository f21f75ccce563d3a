"""What a prediction costs: seconds of each stage, and the peak of memory."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows has no getrusage
    resource = None  # type: ignore[assignment]  # the module stands for itself elsewhere


class StageClock:
    """What named stages cost.

    Args:
        device: whose queued work is waited for, so that a stage pays for its own.
        watch_memory: also note the peak of each stage, for which the process's own peak is
            set back before each: ``peak_memory_mb`` then knows the last stage only. Linux.

    Attributes:
        seconds: by the clock on the wall.
        cpu_seconds: of all threads of this process together, which other programs on the
            machine hardly change.
        peak_mb: memory at its largest during the stage; empty unless watched.
    """

    def __init__(self, device: torch.device, *, watch_memory: bool = False) -> None:
        self.device = device
        self.watch_memory = watch_memory
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}
        self.peak_mb: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block; a stage that is entered again adds up."""
        if self.watch_memory:
            _forget_peak()
        start, cpu_start = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self._wait()
            passed, cpu = time.perf_counter() - start, time.process_time() - cpu_start
            self.seconds[name] = round(self.seconds.get(name, 0.0) + passed, 4)
            self.cpu_seconds[name] = round(self.cpu_seconds.get(name, 0.0) + cpu, 4)
            if self.watch_memory:
                self.peak_mb[name] = max(self.peak_mb.get(name, 0.0), _current_peak_mb())

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()


def peak_memory_mb() -> float:
    """Return the largest memory this process has held so far, in MB; 0 where unknown."""
    if resource is None:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3 / 1.024), 1)


def _forget_peak() -> None:
    """Let the kernel measure the largest resident memory anew (proc(5), ``clear_refs``)."""
    Path("/proc/self/clear_refs").write_text("5")


def _current_peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = next(line.split()[1] for line in lines if line.startswith("VmHWM"))
    return round(int(kib) * 1024 / 1e6, 1)
