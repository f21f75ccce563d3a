"""What the processor can do at most: the limits that operators and steps are measured against.

    python benchmarks/machine.py --threads 2
    python benchmarks/machine.py --processes 2

Rates are per CPU second, all threads added up, so that they hold on a machine that others use.
"""

import argparse
import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import mean

import torch

SIDE = 1024
"""Of the matrices whose product gives the rate; 12 MB in all."""

NARROW = (16384, 192, 48)
"""Rows, inner side and columns of the product that a step of the default model has most of."""

WORKING_SETS = (2**19, 2**22, 2**24, 2**28)
"""Bytes of the arrays whose sum gives a bandwidth: in a core's own cache, in the shared one, at
its edge, and in memory."""

SAMPLES, SAMPLE_S = 5, 0.02
"""How often a rate is taken, and the CPU seconds of one sample at least."""


@dataclass(frozen=True)
class Machine:
    """Rates per CPU second.

    Attributes:
        threads: that torch uses.
        operations: multiplications and additions a second of a float32 matrix product, of the
            fastest sample.
        narrow: the same of ``NARROW``; no limit is taken from it, but it says what of a step's
            distance from its limit lies in the library's products.
        bandwidths: of each of ``WORKING_SETS``, bytes a second read and written.
    """

    threads: int
    operations: float
    narrow: float
    bandwidths: tuple[float, ...]

    def bandwidth(self, working_set: float) -> float:
        """Return bytes a second where so many bytes are touched in turn."""
        for size, rate in zip(WORKING_SETS, self.bandwidths, strict=True):
            if working_set <= size:
                return rate
        return self.bandwidths[-1]

    def floor_ms(self, operations: float, moved: float) -> float:
        """Return the CPU ms below which work cannot end, whatever its code.

        Args:
            operations: multiplications and additions, each counted as one.
            moved: bytes that must be read and written once.
        """
        return 1000 * max(operations / self.operations, moved / self.bandwidth(moved))

    def or_faster(self, other: "Machine") -> "Machine":
        """Return the better of each rate: a machine that others use is not always as fast."""
        bandwidths = zip(self.bandwidths, other.bandwidths, strict=True)
        return Machine(
            self.threads,
            max(self.operations, other.operations),
            max(self.narrow, other.narrow),
            tuple(max(both) for both in bandwidths),
        )

    def table(self) -> list[str]:
        """Return the rates as a Markdown table."""
        of = "1 thread" if self.threads == 1 else f"1 or {self.threads} threads, the faster"
        lines = [
            f"| limit, {of} | a CPU second |",
            "| --- | --- |",
            f"| float32 matrix product, {SIDE}-squared | {self.operations / 1e9:.0f} Gflop |",
        ]
        rows, inner, columns = NARROW
        shape = f"{rows} x {inner} by {inner} x {columns}"
        lines.append(f"| the same, {shape} (no limit) | {self.narrow / 1e9:.0f} Gflop |")
        for size, rate in zip(WORKING_SETS, self.bandwidths, strict=True):
            lines.append(
                f"| sum of two arrays, {size / 2**20:g} MB touched | {rate / 1e9:.1f} GB |"
            )
        return lines


def measure(threads: int) -> Machine:
    """Measure what ``threads`` threads reach together, or one alone where that is more.

    Two threads that share a small array wait for each other more than they add; a limit taken
    from them would flatter. torch is left with as many as were asked for.
    """
    rates = []
    for count in sorted({1, threads}):
        torch.set_num_threads(count)
        rates.append([rate() for rate in _RATES])
    operations, narrow, *bandwidths = (max(both) for both in zip(*rates, strict=True))
    return Machine(threads, operations, narrow, tuple(bandwidths))


def measure_together(processes: int) -> Machine:
    """Measure what processes of one thread reach while all of them do the same, on average."""
    if processes == 1:
        return measure(1)
    spawn = multiprocessing.get_context("spawn")
    barrier, queue = spawn.Barrier(processes), spawn.SimpleQueue()
    started = [
        spawn.Process(target=_measure_beside, args=(barrier, queue)) for _ in range(processes)
    ]
    for process in started:
        process.start()
    rates = [queue.get() for _ in started]
    for process in started:
        process.join()
    operations, narrow, *bandwidths = (mean(all_of) for all_of in zip(*rates, strict=True))
    return Machine(1, operations, narrow, tuple(bandwidths))


def _measure_beside(barrier: Barrier, queue: "multiprocessing.SimpleQueue[list[float]]") -> None:
    torch.set_num_threads(1)
    rates = []
    for rate in _RATES:
        barrier.wait()
        rates.append(rate())
    queue.put(rates)


def _rate(rows: int, inner: int, columns: int) -> float:
    """Return multiplications and additions a second of a matrix product."""
    a, b, c = torch.randn(rows, inner), torch.randn(inner, columns), torch.empty(rows, columns)
    return 2 * rows * inner * columns / fastest(lambda: torch.mm(a, b, out=c))


def _bandwidth(working_set: int) -> float:
    """Return bytes a second of ``a = b + c``."""
    b, c, a = (torch.ones(working_set // 12) for _ in range(3))
    return 12 * len(a) / fastest(lambda: torch.add(b, c, out=a))


_RATES = (
    partial(_rate, SIDE, SIDE, SIDE),
    partial(_rate, *NARROW),
    *(partial(_bandwidth, size) for size in WORKING_SETS),
)


def fastest(run: Callable[[], object]) -> float:
    """Return the CPU seconds of one run: the least of some samples, each of enough runs."""
    run()
    repeats, taken = 1, 0.0
    while taken < SAMPLE_S / 2:
        repeats *= 2
        taken = _cpu_s(run, repeats)
    return min(_cpu_s(run, repeats) for _ in range(SAMPLES)) / repeats


def _cpu_s(run: Callable[[], object], repeats: int) -> float:
    began = time.process_time()
    for _ in range(repeats):
        run()
    return time.process_time() - began


def description(threads: int | None = None) -> str:
    """Return processor, its vectors, cores, threads and versions, and how busy the machine is."""
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    vectors = torch.backends.cpu.get_cpu_capability()
    used = "" if threads is None else f", {threads} threads"
    return (
        f"{processor()}, {vectors}; {os.cpu_count()} cores{used}; Python "
        f"{platform.python_version()}, torch {torch.__version__}; load average {load}"
    )


def processor() -> str:
    """Return the name of the CPU, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((row.split(":")[1].strip() for row in lines if row.startswith("model name")), "CPU")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--processes", type=int, default=1, help="at once, of one thread each")
    options = parser.parse_args()
    if options.processes > 1:
        machine, threads = measure_together(options.processes), 1
    else:
        machine, threads = measure(options.threads), options.threads
    print(description(threads))
    print("\n".join(["", *machine.table()]))


if __name__ == "__main__":
    main()
