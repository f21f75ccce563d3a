"""What a prediction costs: seconds of each stage, and the peak of memory."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

try:
    import resource
except ImportError:  # Windows has no getrusage
    resource = None  # type: ignore[assignment]  # the module stands for itself elsewhere


class StageClock:
    """Wall-clock seconds of named stages.

    Args:
        device: whose queued work is waited for, so that a stage pays for its own.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block; a stage that is entered again adds up."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._wait()
            passed = time.perf_counter() - start
            self.seconds[name] = round(self.seconds.get(name, 0.0) + passed, 4)

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
