"""Time alternatives side by side, on a machine that others may be using."""

import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple


class Timing(NamedTuple):
    """Medians in milliseconds: CPU time of all threads together, and time by the clock."""

    cpu_ms: float
    wall_ms: float


BUDGET_S = 6.0
"""CPU seconds of one comparison, beyond which it makes do with ``FEWEST`` rounds."""
FEWEST = 3


def compare(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Run every variant once a round, so that what disturbs one disturbs them all.

    A first run of each, which compiles and allocates, is not counted. Where a round takes long,
    there are fewer.
    """
    for run in variants.values():
        run()
    samples: dict[str, list[Timing]] = {name: [] for name in variants}
    began = time.process_time()
    for number in range(rounds):
        if number >= FEWEST and time.process_time() - began > BUDGET_S:
            break
        for name, run in variants.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            samples[name].append(Timing(1000 * cpu, 1000 * wall))
    return {
        name: Timing(median(s.cpu_ms for s in taken), median(s.wall_ms for s in taken))
        for name, taken in samples.items()
    }
