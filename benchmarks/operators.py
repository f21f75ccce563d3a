"""The 3D operators against what torch and MONAI offer, and against what the machine allows.

    GOMP_SPINCOUNT=1000 python benchmarks/operators.py --output benchmarks/operators.md

What OpenMP's threads spend on waiting for work counts as CPU time of whatever runs then, hence the
setting, with which `osteomet` runs as well.

MONAI is compared where it is installed (``pip install osteomet[bench]``). Every operator of
``osteomet.ops`` is here, at sizes that occur in training with ``configs/default.toml`` and in
prediction; ``operator_cases.py`` and ``box_cases.py`` have the sizes, the alternatives and the
least work of each.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import torch
from box_cases import box_arithmetic, mask_resampling, monai, suppression
from machine import Machine, description, measure
from operator_cases import (
    OURS,
    Case,
    Run,
    Work,
    binary_losses,
    bottlenecks,
    cubes,
    dense,
    depthwise,
    layer_norms,
    linear_maps,
    roi_alignment,
)
from timing import SHORTEST_MS, Timing, compare

from osteomet.ops.freed_memory import keep_freed_memory

SECTIONS: dict[str, tuple[str, Callable[[], Iterator[Case]]]] = {
    "depthwise": ("Depthwise 7 x 7 x 7 convolution", depthwise),
    "bottleneck": (
        "Linear map to four times the channels, GELU, global response normalisation and map back",
        bottlenecks,
    ),
    "linear": ("Linear maps of each voxel's channels", linear_maps),
    "norm": ("Layer normalisation", layer_norms),
    "dense": ("Dense 3 x 3 x 3 convolution", dense),
    "losses": ("Losses of masks", binary_losses),
    "cubes": ("Cubes of voxels into channels", cubes),
    "roi": ("RoIAlign, one sample a bin", roi_alignment),
    "nms": ("Suppression and clustering", suppression),
    "boxes": ("Boxes", box_arithmetic),
    "masks": ("Masks", mask_resampling),
}
HEAD = "| case | variant | CPU ms | wall ms | faster, CPU | faster, wall | times the limit |"
NOISE = 1.05
"""Ratio from which one is slower than another, where three rounds of four say at least as much."""


class Report:
    """The tables, and which cases are slower than their alternative."""

    def __init__(self, machine: Machine, rounds: int) -> None:
        self.machine, self.rounds = machine, rounds
        self.slower: list[str] = []

    def section(self, title: str, cases: Iterator[Case]) -> list[str]:
        """Time the cases of one kind and return their table."""
        lines = [f"## {title}", "", HEAD, "| --- " * 7 + "|"]
        for case in cases:
            there_and_back = bool(case.backward)
            name = f"{case.name}, forward" if there_and_back else case.name
            lines += self._rows(name, case.variants, case.work)
            if there_and_back:
                lines += self._rows(f"{case.name}, backward", case.backward, case.work_back)
        return [*lines, ""]

    def _rows(self, name: str, variants: dict[str, Run], work: Work) -> Iterator[str]:
        timings = compare(variants, self.rounds)
        limit = self.machine.floor_ms(work.operations, work.moved)
        first = next(iter(timings.values()))
        ours, others = timings[OURS], [t for key, t in timings.items() if not key.startswith(OURS)]
        slower = ours.times_of(min(others, key=lambda t: t.cpu_ms)) if others else 1.0
        if slower > NOISE:
            self.slower.append(f"{name} ({slower:.2f} times as long)")
        for key, t in timings.items():
            yield _row(name, key, t, first, limit)


def _row(case: str, variant: str, t: Timing, first: Timing, limit: float) -> str:
    return (
        f"| {case} | {variant} | {t.cpu_ms:.4g} | {t.wall_ms:.4g} "
        f"| {first.cpu_ms / t.cpu_ms:.2f}x | {first.wall_ms / t.wall_ms:.2f}x "
        f"| {t.cpu_ms / limit:.1f} |"
    )


def page(threads: int, rounds: int, chosen: list[str]) -> str:
    """Run everything and return the page."""
    machine = measure(threads)
    about = description(threads)
    report = Report(machine, rounds)
    tables = [line for key in chosen for line in report.section(*_titled(key))]
    again = measure(threads)
    version = f"MONAI {metadata.version('monai')}" if monai is not None else "MONAI not installed"
    slower = "; ".join(report.slower) or "none"
    return "\n".join(
        [
            "# Operators: against torch and MONAI, and against the machine",
            "",
            "Repeat with `GOMP_SPINCOUNT=1000 python benchmarks/operators.py`.",
            "",
            f"{about}, {version}. Medians of {rounds} samples or fewer, the variants of a case in "
            f"turn, after one that compiles; of what takes less than {SHORTEST_MS:.0f} ms a sample "
            "is as many runs. CPU ms adds up all threads and bears company best.",
            "",
            "**Times the limit**: CPU time over the larger of operations over the rate of a matrix "
            "product and bytes over the bandwidth of arrays of that size, both per CPU second as "
            "measured here. Operations and bytes are the least by the definition "
            "(`operator_cases.py`, `box_cases.py`): of a convolution the taps inside the map, of "
            "others without intermediate results. A microsecond of Python is most of a small case, "
            "and no code reaches the limit where operations are comparisons or products of few.",
            "",
            *machine.table(),
            "",
            f"At the end a matrix product ran at {again.operations / 1e9:.0f} Gflop a CPU second.",
            "",
            f"Slower than the best alternative in three rounds of four or more: {slower}.",
            "",
            *tables,
        ]
    )


def _titled(key: str) -> tuple[str, Iterator[Case]]:
    title, cases = SECTIONS[key]
    return title, cases()


def main() -> None:
    """Read the options, run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--output", type=Path, help="file to write the tables to")
    options = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    text = page(options.threads, options.rounds, options.only)
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
