"""Time alternatives side by side, on a machine that others may be using."""

import math
import time
from collections.abc import Callable, Sequence
from statistics import median, quantiles
from typing import NamedTuple


class Sample(NamedTuple):
    """Milliseconds: CPU time of all threads together, and time by the clock."""

    cpu_ms: float
    wall_ms: float


class Timing(NamedTuple):
    """Medians of samples, and the CPU times of all of them in turn."""

    cpu_ms: float
    wall_ms: float
    all_cpu_ms: tuple[float, ...]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> "Timing":
        """Sum up samples."""
        cpu = tuple(sample.cpu_ms for sample in samples)
        return cls(median(cpu), median(sample.wall_ms for sample in samples), cpu)

    def times_of(self, other: "Timing") -> float:
        """Return how many times as much CPU time this takes as another that ran in turn.

        It is the quartile nearer to 1 of what the rounds say, and 1 if 1 lies between the
        quartiles: a difference that the noise does not explain.
        """
        pairs = zip(self.all_cpu_ms, other.all_cpu_ms, strict=True)
        lower, _, upper = quantiles([ours / theirs for ours, theirs in pairs], n=4)
        return lower if lower > 1 else min(upper, 1.0)


BUDGET_S = 6.0
"""CPU seconds of one comparison, beyond which it makes do with ``FEWEST`` rounds."""
FEWEST = 3
SHORTEST_MS = 8.0
"""What a sample takes at least: of what takes less, as many runs as take that long."""


def compare(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Run every variant once a round, so that what disturbs one disturbs them all.

    A first run of each, which compiles and allocates, is not counted. Where a round takes long,
    there are fewer.
    """
    for run in variants.values():
        run()
    repeats = {name: _repeats(run) for name, run in variants.items()}
    samples: dict[str, list[Sample]] = {name: [] for name in variants}
    began = time.process_time()
    for number in range(rounds):
        if number >= FEWEST and time.process_time() - began > BUDGET_S:
            break
        for name, run in variants.items():
            samples[name].append(_sample(run, repeats[name]))
    return {name: Timing.of(taken) for name, taken in samples.items()}


def _repeats(run: Callable[[], object]) -> int:
    return max(1, math.ceil(SHORTEST_MS / _sample(run, 1).wall_ms))


def _sample(run: Callable[[], object], repeats: int) -> Sample:
    """Return the mean of some runs, one right after the other."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        run()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return Sample(1000 * cpu / repeats, 1000 * wall / repeats)
