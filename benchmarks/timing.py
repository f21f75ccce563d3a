"""Time alternatives side by side, on a machine that others may be using."""

import time
from collections.abc import Callable
from statistics import median
from typing import NamedTuple


class Timing(NamedTuple):
    """Medians in milliseconds: CPU time of all threads together, and time by the clock."""

    cpu_ms: float
    wall_ms: float


def compare(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Run every variant once a round, so that what disturbs one disturbs them all.

    A first run of each, which compiles and allocates, is not counted.
    """
    for run in variants.values():
        run()
    samples: dict[str, list[Timing]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            samples[name].append(Timing(1000 * cpu, 1000 * wall))
    return {
        name: Timing(median(s.cpu_ms for s in taken), median(s.wall_ms for s in taken))
        for name, taken in samples.items()
    }


def markdown_table(case_name: str, cases: dict[str, dict[str, Timing]], baseline: str) -> list[str]:
    """Return a row a case and variant, with how many times faster than ``baseline`` it is."""
    lines = [
        f"| {case_name} | variant | CPU ms | wall ms | faster, CPU | faster, wall |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for case, timings in cases.items():
        base = timings[baseline]
        for name, t in timings.items():
            lines.append(
                f"| {case} | {name} | {t.cpu_ms:.4g} | {t.wall_ms:.4g} "
                f"| {base.cpu_ms / t.cpu_ms:.1f}x | {base.wall_ms / t.wall_ms:.1f}x |"
            )
    return lines
