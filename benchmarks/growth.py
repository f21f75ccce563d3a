"""How seconds and memory grow: with the size of the scan, and with the number of lesions in it.

`python benchmarks/growth.py` takes about five minutes of two idle cores and writes `growth.md` and
`growth.png` beside this file. Every case runs in a process of its own (`growth_cases.py`); scans
are made below `--folder` and deleted again. A run that was killed goes on with `--resume`.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from whole_scan import make_trunk

HERE = Path(__file__).parent
CASES = HERE / "growth_cases.py"
SIZES = (
    (128, 128, 128),
    (256, 256, 256),
    (200, 512, 512),
    (350, 512, 512),
    (700, 512, 512),
    (1200, 512, 512),
    (2000, 512, 512),
)
"""Voxels (z, y, x)."""

LESIONS = (0, 1, 5, 20, 100, 250, 500)
SLICES = (250, 1000)
"""Of the two scans of 512 x 512 with planted lesions."""

AFTER_MODEL = ("merge", "lesions", "primary", "write")
NOT_COUNTED = ("load weights", "make")
PICTURED = 40
"""So many lesions at most have pictures in the report, so beyond it they cost less."""

BYTE_LABELS = 255
"""Beyond it a label takes two bytes in the file, which costs more to compress."""

Case = dict[str, Any]
"""What `growth_cases.py` printed, and `kind`, `round` and what the case was."""


class Line(NamedTuple):
    """A straight line through points, and how far they lie from it."""

    slope: float
    intercept: float
    r2: float
    worst: float

    @classmethod
    def through(cls, x: list[float], y: list[float]) -> "Line":
        """Return the least-squares line; ``worst`` is the largest residual as a share of y."""
        slope, intercept = np.polyfit(x, y, 1)
        residuals = np.array(y) - (slope * np.array(x) + intercept)
        spread = float(((np.array(y) - np.mean(y)) ** 2).sum())
        r2 = 1 - float((residuals**2).sum()) / spread if spread else 1.0
        return cls(float(slope), float(intercept), r2, float(np.abs(residuals / y).max()))


def run_case(*arguments: object) -> Case:
    """Run one case in a process of its own; its errors go to the screen."""
    command = [sys.executable, str(CASES), *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: Case = json.loads(done.stdout.splitlines()[-1])
    return found


def predict_size(trunk: Path, shape: tuple[int, ...], folder: Path) -> Case:
    """Make a scan, predict it, and delete it."""
    series = folder / "growth-dicom"
    shutil.rmtree(series, ignore_errors=True)
    made = run_case("trunk", trunk, series, *shape)
    try:
        return made | run_case("predict", series)
    finally:
        shutil.rmtree(series, ignore_errors=True)


class Log:
    """Results of cases, one a line, so that a killed run can go on.

    Args:
        path: the file.
        resume: keep what an earlier run has left there.
    """

    def __init__(self, path: Path, resume: bool) -> None:
        self.path = path
        if not resume:
            path.unlink(missing_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        self.cases: list[Case] = [json.loads(line) for line in lines]

    def has(self, name: Case) -> bool:
        """Tell whether a case is there."""
        return any(name.items() <= case.items() for case in self.cases)

    def add(self, case: Case) -> None:
        """Keep a case."""
        self.cases.append(case)
        with self.path.open("a") as file:
            file.write(json.dumps(case) + "\n")

    def of(self, kind: str) -> list[Case]:
        """Return the cases of a kind."""
        return [case for case in self.cases if case["kind"] == kind]


def total(case: Case, what: str, stages: tuple[str, ...] = ()) -> float:
    """Return the sum over stages, all that count where none is named."""
    costs: dict[str, dict[str, float]] = case["costs"]
    return sum(cost[what] for name, cost in costs.items() if name in (stages or set(costs)))


def counted(case: Case) -> tuple[str, ...]:
    """Return the stages of a prediction: neither imports nor weights nor the making of a scan."""
    return tuple(name for name in case["costs"] if name not in NOT_COUNTED)


def peak_mb(case: Case, stages: tuple[str, ...] = ()) -> float:
    """Return the largest memory in any stage that counts."""
    return max(float(case["costs"][name]["peak_mb"]) for name in stages or counted(case))


def medians(cases: list[Case]) -> list[Case]:
    """Join the rounds of each case: medians of seconds, the largest memory."""
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        groups[json.dumps([case.get("shape"), case.get("slices"), case.get("count")])].append(case)
    joined = []
    for group in groups.values():
        costs = {
            stage: {
                "cpu": median(case["costs"][stage]["cpu"] for case in group),
                "wall": median(case["costs"][stage]["wall"] for case in group),
                "peak_mb": max(case["costs"][stage]["peak_mb"] for case in group),
            }
            for stage in group[0]["costs"]
        }
        joined.append(group[0] | {"costs": costs})
    return joined


def size_tables(cases: list[Case]) -> list[str]:
    """Return what each size is and costs, and the stages' share in it."""
    stages = counted(cases[0])
    lines = [
        "| voxels (z, y, x) | scan MB | bone, 1e6 | tiles | in tiles, 1e6 | lesions | CPU s | "
        "wall s | peak MB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case in cases:
        lines.append(
            f"| {' x '.join(map(str, case['shape']))} | {case['mb']:.0f} | "
            f"{case['bone'] / 1e6:.2f} | {case['tiles']} | {case['tile_voxels'] / 1e6:.0f} | "
            f"{case['lesions']} | {total(case, 'cpu', stages):.2f} | "
            f"{total(case, 'wall', stages):.2f} | {peak_mb(case):.0f} |"
        )
    for what, digits, title in (("cpu", 2, "CPU seconds"), ("peak_mb", 0, "Peak MB")):
        lines += ["", f"{title} by stage:", "", f"| slices | {' | '.join(stages)} |"]
        lines.append("| --- " * (len(stages) + 1) + "|")
        for case in cases:
            values = (f"{case['costs'][stage][what]:.{digits}f}" for stage in stages)
            lines.append(f"| {case['shape'][0]} | {' | '.join(values)} |")
    return lines


def size_lines(cases: list[Case]) -> dict[str, Line]:
    """Return the fits over the size of the scan."""
    seconds = [total(case, "cpu", counted(case)) for case in cases]
    return {
        "tiles": Line.through([case["tile_voxels"] / 1e6 for case in cases], seconds),
        "bone": Line.through([case["bone"] / 1e6 for case in cases], seconds),
        "memory": Line.through([case["mb"] for case in cases], [peak_mb(case) for case in cases]),
    }


def size_text(cases: list[Case]) -> list[str]:
    """Return the fits in words."""
    lines = size_lines(cases)
    rows = ["| line | slope | at 0 | R² | largest residual |", "| --- | --- | --- | --- | --- |"]
    for name, label, unit in (
        ("tiles", "CPU s over 1e6 voxels in tiles", "s"),
        ("bone", "CPU s over 1e6 voxels of bone", "s"),
        ("memory", "peak MB over MB of the scan", "MB"),
    ):
        line = lines[name]
        rows.append(
            f"| {label} | {line.slope:.3f} | {line.intercept:.2f} {unit} | {line.r2:.4f} | "
            f"{line.worst:.1%} |"
        )
    memory = lines["memory"]
    return [
        *rows,
        "",
        f"So the process holds {memory.intercept:.0f} MB whatever the scan, and "
        f"{memory.slope:.2f} times the scan, itself included.",
    ]


def lesion_tables(cases: list[Case]) -> list[str]:
    """Return the stages after the model by number of lesions, a table a size."""
    heads = [f"{stage}, CPU s" for stage in AFTER_MODEL] + [f"{s}, MB" for s in AFTER_MODEL]
    lines = []
    for slices in sorted({case["slices"] for case in cases}):
        lines += [
            f"{slices} slices:", "", f"| lesions | {' | '.join(heads)} |",
            "| --- " * (len(heads) + 1) + "|",
        ]  # fmt: skip
        for case in (one for one in cases if one["slices"] == slices):
            seconds = [f"{case['costs'][stage]['cpu']:.3f}" for stage in AFTER_MODEL]
            memory = [f"{case['costs'][stage]['peak_mb']:.0f}" for stage in AFTER_MODEL]
            lines.append(f"| {case['count']} | {' | '.join(seconds + memory)} |")
        lines.append("")
    return lines


def lesion_lines(cases: list[Case], what: str) -> dict[tuple[str, int], Line]:
    """Return by stage and slices the line over lesions: of CPU seconds, or of peak MB."""
    lines = {}
    for slices in sorted({case["slices"] for case in cases}):
        here = [case for case in cases if case["slices"] == slices]
        for stage in AFTER_MODEL:
            fewest = PICTURED if stage == "write" else -1
            points = [one for one in here if fewest < one["count"] <= BYTE_LABELS]
            if len(points) > 1:
                values = [float(one["costs"][stage][what]) for one in points]
                lines[stage, slices] = Line.through([one["count"] for one in points], values)
    return lines


def lesion_text(cases: list[Case]) -> list[str]:
    """Return what one lesion costs in each stage, at each size."""
    seconds, memory = lesion_lines(cases, "cpu"), lesion_lines(cases, "peak_mb")
    rows = [
        "| stage | slices | at 0, CPU s | ms a lesion | MB a lesion |",
        "| --- | --- | --- | --- | --- |",
    ]
    for (stage, slices), line in sorted(
        seconds.items(), key=lambda item: AFTER_MODEL.index(item[0][0])
    ):
        rows.append(
            f"| {stage} | {slices} | {line.intercept:.3f} | {1000 * line.slope:.2f} | "
            f"{memory[stage, slices].slope:.3f} |"
        )
    return rows


def draw(sizes: list[Case], lesions: list[Case], path: Path) -> None:
    """Draw seconds and memory over size, and seconds over lesions."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    if len(sizes) > 1:
        lines = size_lines(sizes)
        seconds = [total(case, "cpu", counted(case)) for case in sizes]
        _points(axes[0], [case["tile_voxels"] / 1e6 for case in sizes], seconds, lines["tiles"])
        axes[0].set(xlabel="voxels in tiles, 1e6", ylabel="CPU s", title="Time")
        peaks = [peak_mb(case) for case in sizes]
        _points(axes[1], [case["mb"] for case in sizes], peaks, lines["memory"])
        axes[1].set(xlabel="scan in memory, MB", ylabel="peak MB", title="Memory")
    for slices, marker in zip(sorted({case["slices"] for case in lesions}), "osv^", strict=False):
        here = [case for case in lesions if case["slices"] == slices]
        counts = [case["count"] for case in here]
        seconds = [total(case, "cpu", AFTER_MODEL) for case in here]
        axes[2].plot(counts, seconds, marker=marker, label=f"{slices} slices")
    axes[2].set(xlabel="lesions", ylabel="CPU s after the model", title="Lesions")
    if lesions:
        axes[2].legend(frameon=False)
    for one in axes:
        one.set_xlim(left=0)
        one.set_ylim(bottom=0)
        one.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def _points(axes: Axes, x: list[float], y: list[float], line: Line) -> None:
    ends = np.array([0.0, max(x)])
    axes.plot(ends, line.slope * ends + line.intercept, color="0.6")
    axes.plot(x, y, "o", color="C0")
    axes.annotate(
        f"{line.intercept:.3g} + {line.slope:.3g} x\nR² {line.r2:.4f}, worst {line.worst:.1%}",
        (0.05, 0.85),
        xycoords="axes fraction",
    )


def page(sizes: list[Case], lesions: list[Case]) -> str:
    """Return the page."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    threads = os.environ.get("OMP_NUM_THREADS", os.cpu_count())
    spacing = " x ".join(f"{mm:.2g}" for mm in sizes[0]["spacing_mm"])
    return "\n".join(
        [
            "# Growth: with the scan, and with its lesions",
            "",
            "Repeat with `python benchmarks/growth.py`. Every case has a process of its own; CPU "
            "seconds add up all threads and bear company, wall seconds do not. Neither imports nor "
            "the loading of weights are counted in seconds; memory is all that the process holds "
            "(VmHWM, set back before each stage). "
            f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {threads} "
            f"threads, Python {platform.python_version()}, torch {torch.__version__}, load average "
            f"{load} at the end.",
            "",
            "![Seconds over voxels in tiles, memory over the scan, seconds over lesions]"
            "(growth.png)",
            "",
            "## Size of the scan",
            "",
            "DICOM folder to all results with the bundled weights. The scans are pieces of one "
            f"simulated trunk of 700 x 512 x 512 voxels of {spacing} mm, int16, about "
            "the middle of its bone; those with more slices begin again at its lower end, with a "
            "seam. Bone is counted in the scan's own voxels above 200 HU; tiles lie on the model's "
            "grid of 1 mm, and are counted with their overlap.",
            "",
            *size_tables(sizes),
            "",
            *(size_text(sizes) if len(sizes) > 1 else []),
            "",
            "## Number of lesions",
            "",
            "Scans of 512 x 512 voxels of 1.0 x 0.8 x 0.8 mm: a rod of bone in soft tissue with "
            "balls of 6 mm, spread evenly over the rod. A stand-in for the network finds them "
            "exactly, tile by tile, and everything after it is the program's own, with "
            "`inference.max_candidates` raised to 1000. A case in which another number of lesions "
            "comes out is refused.",
            "",
            *lesion_tables(lesions),
            f"What one more lesion costs up to {BYTE_LABELS}, and in `write` beyond the {PICTURED} "
            "that have pictures. From there on a label takes two bytes in the file, whatever their "
            "number; the first merge of a process also loads compiled code:",
            "",
            *lesion_text(lesions),
            "",
        ]
    )


def measure(options: argparse.Namespace, log: Log) -> None:
    """Run the cases that the log does not have yet, and say how far they are."""
    wanted: list[Case] = []
    for turn in range(options.rounds):
        wanted += [
            {"kind": "size", "shape": [*shape], "round": turn}
            for shape in SIZES
            if shape[0] <= options.largest
        ]
        wanted += [
            {"kind": "lesions", "slices": slices, "count": count, "round": turn}
            for count in LESIONS
            for slices in SLICES
        ]
    trunk = make_trunk(options.folder)
    if not all(log.has(name) for name in wanted):
        predict_size(trunk, SIZES[0], options.folder)  # compiles the kernels
    for place, name in enumerate(wanted, start=1):
        if log.has(name):
            continue
        print(f"{place} of {len(wanted)}: {name}", flush=True)
        if name["kind"] == "size":
            log.add(name | predict_size(trunk, tuple(name["shape"]), options.folder))
        else:
            log.add(name | run_case("lesions", name["slices"], name["count"]))


def main() -> None:
    """Measure, and write the page and the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(tempfile.gettempdir()) / "osteomet-growth"
    parser.add_argument("--folder", type=Path, default=default, help="where scans are made")
    parser.add_argument("--rounds", type=int, default=1, help="of all cases, in turn")
    parser.add_argument("--largest", type=int, default=2000, help="slices of the largest scan")
    parser.add_argument("--resume", action="store_true", help="keep what an earlier run measured")
    parser.add_argument("--output", type=Path, default=HERE, help="where the page is written")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    log = Log(options.folder / "growth.jsonl", options.resume)
    measure(options, log)
    sizes, lesions = medians(log.of("size")), medians(log.of("lesions"))
    draw(sizes, lesions, options.output / "growth.png")
    (options.output / "growth.md").write_text(page(sizes, lesions), encoding="utf-8")


if __name__ == "__main__":
    main()
