"""How long a training step takes with several processes, against threads, and against code before.

    python benchmarks/training_processes.py --output benchmarks/training_processes.md
    python benchmarks/training_processes.py --against /tmp/before

Each way to train is the command's own run on simulated patients, from drawing patches to updating
weights, in turn with the others. A step's time is the median distance between two notes of the
log, after those that compile. Every way takes the steps of the same batches.

Its share of the limit is that of ``training_step.py``, but of a whole step by the wall: with its
data, and with all that processes wait for. Rates are those of as many processes at once, the best
of one measurement before each run.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from statistics import median

from machine import Machine, description, measure, measure_together
from step_limit import Item, limits
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_step import BATCHES, Worker, draw_batches

from osteomet.config import load_config
from osteomet.simulate.cohort import write_cohort

ROOT = Path(__file__).parents[1]
PATIENTS = 8
STEPS, WARM = 60, 20
"""Steps of a run, and those of them that are not counted."""
WAYS = ((1, 1), (1, 2), (2, 1))
"""Processes, and threads of each."""


def train(source: Path, cohort: Path, folder: Path, processes: int, threads: int) -> float:
    """Return the ms between two steps."""
    command = [sys.executable, "-m", "osteomet.cli", "train", "--device", "cpu"]
    settings = {"max_steps": STEPS, "validate_every": 10**6, "checkpoint_every": 10**6}
    given = [f"--set=training.{name}={value}" for name, value in settings.items()]
    subprocess.run(
        [*command, "--cohort", cohort, "-o", folder, f"--processes={processes}", *given],
        env={**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(source / "src")},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    name = next(tag for tag in events.Tags()["scalars"] if tag.endswith("loss"))
    at = [event.wall_time for event in events.Scalars(name)][WARM:STEPS]
    return 1000 * median(later - sooner for sooner, later in pairwise(at))


def count_step(cohort: Path, folder: Path) -> list[Item]:
    """Return what a step must do at least, several times over: of ``BATCHES`` steps."""
    path = ROOT / "configs" / "default.toml"
    batches, _ = draw_batches(load_config(path), cohort, folder)
    with Worker(ROOT, path, batches, 1) as worker:
        return [Item(*item) for item in worker.ask("count")["items"]]


def fastest_rates(processes: int, before: Machine | None) -> Machine:
    """Return the rates of as many processes at once, or those before where they are better.

    Those of one process are of one thread or of all, whichever is faster.
    """
    now = measure_together(processes) if processes > 1 else measure(os.cpu_count() or 1)
    return now if before is None else now.or_faster(before)


def page(options: argparse.Namespace) -> str:
    """Run everything and return the page."""
    sources = {"this code": ROOT}
    if options.against is not None:
        sources["before"] = options.against
    spent: dict[tuple[int, int, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cohort = write_cohort(folder / "cohort", PATIENTS, seed=5)
        items = count_step(cohort, folder)
        machines: dict[int, Machine] = {}
        for turn in range(options.rounds):
            for processes, threads in WAYS:
                machines[processes] = fastest_rates(processes, machines.get(processes))
                for code, source in sources.items():
                    run = folder / f"run-{turn}-{processes}-{threads}-{code.replace(' ', '-')}"
                    spent[processes, threads, code].append(
                        train(source, cohort, run, processes, threads)
                    )
    lines = [
        "# Training by several processes",
        "",
        "Repeat with `python benchmarks/training_processes.py`"
        + (", and `--against` a working copy of the code before" if options.against else "")
        + ".",
        "",
        f"{description()}. configs/default.toml, {STEPS - WARM} steps counted in each of "
        f"{options.rounds} runs, in turn; median time of a step with its data, by the wall.",
        "",
        "| processes | threads of each | code | a step, ms | all runs | times one of each "
        "| limit, ms | share of it |",
        "| --- " * 8 + "|",
    ]
    for (processes, threads, code), every in spent.items():
        alone = median(spent[1, 1, code])
        shown = ", ".join(f"{one:.0f}" for one in every)
        by_kind = limits(items, machines[processes], "kind").values()
        limit = sum(least for _, _, least in by_kind) / BATCHES / (processes * threads)
        lines.append(
            f"| {processes} | {threads} | {code} | {median(every):.0f} | {shown} "
            f"| {alone / median(every):.2f} "
            f"| {limit:.0f} | {100 * limit / median(every):.0f} %, fastest run "
            f"{100 * limit / min(every):.0f} % |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Read the options, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="runs of each way")
    parser.add_argument("--against", type=Path, help="working copy of the code before")
    parser.add_argument("--output", type=Path, help="file to write the page to")
    options = parser.parse_args()
    text = page(options)
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
