"""What a training step costs, where its time goes, and how near it is to what the machine allows.

    python benchmarks/training_step.py --output benchmarks/training_step.md
    git worktree add /tmp/before COMMIT
    python benchmarks/training_step.py --against /tmp/before --output benchmarks/training_step.md

Patches are simulated, or those of ``--cohort``; the same batches go around everywhere. A step is
the training loop's own: losses, checks, backward, clipping, optimiser, average of the weights.
Times are CPU time of the process, all threads added up; they bear company on the machine best.

With ``--against`` the code of another working copy takes the same steps in a process of its own,
in turn with this one's, step by step, and the losses are compared.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, replace
from pathlib import Path
from statistics import mean, median
from typing import Any, cast

import torch
from machine import Machine, description, measure
from step_limit import Item, StepCount, limits
from step_parts import BACKWARD, PartClock
from torch import Tensor, nn

from osteomet.config import Config, load_config
from osteomet.data.loader import Batch, PatchLoader
from osteomet.data.manifest import read_cohort
from osteomet.data.patches import PatchSampler
from osteomet.data.store import build_store
from osteomet.models.mask_rcnn import MaskRCNN
from osteomet.ops.freed_memory import keep_freed_memory
from osteomet.simulate.cohort import write_cohort
from osteomet.structures import Targets
from osteomet.training.fabric import make_fabric
from osteomet.training.loop import Trainer, TrainingData
from osteomet.training.run_folder import RunFolder
from osteomet.training.task import DETECTION

ROOT = Path(__file__).parents[1]
CONFIGS = ("default", "tiny")
PATIENTS = 3
BATCHES = 4
"""That go around."""
SPINS = "1000"
"""As the command sets it (``osteomet.cli``); code before may not have."""
WARM = BATCHES
"""Steps that compile and allocate; they are not counted."""

PUBLISHED = {"A100 80 GB": (312e12, 19.5e12, 2.04e12), "H100 SXM": (989e12, 67e12, 3.35e12)}
"""Of NVIDIA's data sheets: bf16 operations a second of dense tensor cores, float32 ones of the
other units, and bytes a second of memory."""


class Stepper:
    """Takes the steps of a real run, one at a time."""

    def __init__(self, config: Config, batches: Sequence[Batch], folder: Path) -> None:
        every = ("training.max_steps", "training.validate_every", "training.checkpoint_every")
        config = config.updated(dict.fromkeys(every, 10**6))
        run = RunFolder(folder)
        run.open(resume=False)
        data = TrainingData(_no_batches, [], 10**6, "benchmark", {})
        task = replace(DETECTION, losses=self._noting)
        self.trainer = Trainer(make_fabric("cpu", "32"), run, config, data, task=task)
        self.trainer.model.train()
        self.model = cast("MaskRCNN", self.trainer.learner.model)
        self.batches, self.step, self.loss = batches, 0, 0.0

    def take(self) -> dict[str, float]:
        """Take the next step; return its CPU and wall ms and its loss."""
        batch = self.batches[self.step % len(self.batches)]
        self.step += 1
        wall, cpu = time.perf_counter(), time.process_time()
        self.trainer._step(batch)  # the run's own loop ends only with the run
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        return {"cpu_ms": 1000 * cpu, "wall_ms": 1000 * wall, "loss": self.loss}

    def parts(self) -> list[tuple[str, str, float]]:
        """Take as many steps as there are batches; return the CPU ms of a step by part."""
        clock = PartClock()
        with clock.on(self.trainer, self.model):
            for _ in self.batches:
                self.take()
        return [(*part, ms / len(self.batches)) for part, ms in clock.cpu_ms.items()]

    def count(self) -> dict[str, Any]:
        """Take as many steps as there are batches; return what one must do at least."""
        items: list[Item] = []
        operators = 0
        for _ in self.batches:
            counted = StepCount()
            with counted.counting(self.model):
                self.take()
            items += counted.items
            operators += counted.operators
        parameters = sum(p.numel() for p in self.model.parameters())
        return {
            "items": [astuple(item) for item in items],
            "operators": operators / len(self.batches),
            "parameters": parameters,
        }

    def _noting(
        self, model: nn.Module, images: Tensor, targets: list[Targets]
    ) -> dict[str, Tensor]:
        losses = DETECTION.losses(model, images, targets)
        self.loss = sum(loss.item() for loss in losses.values())
        return losses


@contextmanager
def _no_batches(_: int) -> Iterator[Iterator[Batch]]:
    yield iter(())


class Worker:
    """A ``Stepper`` in a process of its own, on the code of a working copy."""

    def __init__(self, source: Path, config: Path, batches: Path, threads: int) -> None:
        command = [sys.executable, __file__, "--serve", str(batches), "--threads", str(threads)]
        spins = {"GOMP_SPINCOUNT": SPINS} if source == ROOT else {}
        self._process = subprocess.Popen(
            [*command, "--config", str(config)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **spins, "PYTHONPATH": str(source / "src")},
        )  # fmt: skip

    def ask(self, what: str) -> Any:
        """Call a method of the other process's ``Stepper``."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the worker has no pipes")
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the worker ended with code {self._process.wait()}; see above")
        return json.loads(answer)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # closes its input, on which it ends


def serve(batches: Path, config: Path, threads: int) -> None:
    """Do what each line of the input names, and answer with a line of JSON."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    loaded = [
        Batch(step, images, [Targets(**fields) for fields in targets])
        for step, images, targets in torch.load(batches)
    ]
    with tempfile.TemporaryDirectory() as folder:
        stepper = Stepper(load_config(config), loaded, Path(folder) / "run")
        for line in sys.stdin:
            print(json.dumps(getattr(stepper, line.strip())()), flush=True)


def draw_batches(config: Config, cohort: Path, folder: Path) -> tuple[Path, float]:
    """Draw the batches and save them; return the file, and the CPU ms of drawing one."""
    store = build_store(read_cohort(cohort).cases[:PATIENTS], folder, config.preprocess.spacing_mm)
    drawn, spent = [], []
    with PatchLoader(PatchSampler(store, config, 0), config.training.batch_size, workers=0) as them:
        for _ in range(3 * BATCHES):  # the first compile
            began = time.process_time()
            drawn.append(next(them))
            spent.append(1000 * (time.process_time() - began))
    saved = [(b.step, b.images, [vars(target) for target in b.targets]) for b in drawn[:BATCHES]]
    torch.save(saved, folder / "batches.pt")
    return folder / "batches.pt", median(spent[BATCHES:])


def compare(workers: Mapping[str, Worker], rounds: int) -> dict[str, list[dict[str, float]]]:
    """Let the workers take the same steps in turn, and return them all."""
    steps: dict[str, list[dict[str, float]]] = defaultdict(list)
    for _ in range(WARM + rounds):
        for name, worker in workers.items():
            steps[name].append(worker.ask("take"))
    return steps


def undisturbed(steps: Sequence[dict[str, float]]) -> float:
    """Return the CPU ms of a step that nothing else held up: each batch's fastest, averaged."""
    return mean(min(step["cpu_ms"] for step in steps[i::BATCHES]) for i in range(BATCHES))


def section(name: str, options: argparse.Namespace, cohort: Path) -> list[str]:
    """Measure one configuration and return its part of the page."""
    machine = measure(options.threads)
    path = ROOT / "configs" / f"{name}.toml"
    config = load_config(path)
    with tempfile.TemporaryDirectory() as folder:
        batches, data_ms = draw_batches(config, cohort, Path(folder))
        sources = {"this code": ROOT}
        if options.against is not None:
            sources["before"] = options.against
        workers = {
            key: Worker(source, path, batches, options.threads) for key, source in sources.items()
        }
        steps = compare(workers, options.rounds)
        count = workers["this code"].ask("count")
        parts = workers["this code"].ask("parts")
        for worker in workers.values():
            worker.__exit__()
    machine = machine.or_faster(measure(options.threads))
    size = config.training.batch_size
    now = undisturbed(steps["this code"][WARM:])
    return [
        f"## configs/{name}.toml",
        "",
        f"{count['parameters'] / 1e6:.1f} M parameters, {size} patches of "
        f"{config.data.patch_size[0]}-cubed a step; medians of {options.rounds} steps.",
        "",
        *speeds(steps, size, options.threads, data_ms),
        "",
        "### Against the limit",
        "",
        "Rates are the better of before and after the steps.",
        "",
        *machine.table(),
        "",
        *against_limit(count["items"], machine, now),
        "",
        "### Where the time goes",
        "",
        *by_part(parts, limits([Item(*item) for item in count["items"]], machine, "part"), data_ms),
        "",
        "### What a GPU could do: an estimate",
        "",
        *on_a_gpu(count["items"], count["operators"]),
        "",
    ]


def speeds(
    steps: Mapping[str, list[dict[str, float]]], size: int, threads: int, data_ms: float
) -> list[str]:
    """Return patches a second, and how code and losses compare with those before."""
    lines = [
        "| code | step, CPU ms | fastest | slowest | step, ms | patches a CPU second "
        f"| patches a second, {threads} threads | with the data, a CPU second |",
        "| --- " * 8 + "|",
    ]
    for name, every in steps.items():
        taken = every[WARM:]
        cpu = [step["cpu_ms"] for step in taken]
        middle, wall = median(cpu), median(step["wall_ms"] for step in taken)
        lines.append(
            f"| {name} | {middle:.0f} | {min(cpu):.0f} | {max(cpu):.0f} | {wall:.0f} "
            f"| {1000 * size / middle:.2f} | {1000 * size / wall:.2f} "
            f"| {1000 * size / (middle + data_ms):.2f} |"
        )
    if "before" in steps:
        pairs = list(zip(steps["before"], steps["this code"], strict=True))
        ratios = sorted(before["cpu_ms"] / now["cpu_ms"] for before, now in pairs[WARM:])
        apart = [abs(before["loss"] / now["loss"] - 1) for before, now in pairs]
        shown = {number: apart[number - 1] for number in (1, 2, 4, len(apart))}
        lines += [
            "",
            f"Before / now, step by step in turn: median {median(ratios):.2f}, {ratios[0]:.2f} to "
            f"{ratios[-1]:.2f}. The losses of step {', '.join(map(str, shown))} are "
            f"{', '.join(f'{one:.0e}' for one in shown.values())} apart, relatively: rounding, "
            "which grows as it decides which negatives are the hardest.",
        ]
    return lines


def against_limit(
    items: Sequence[tuple[str, float, float, str]], machine: Machine, step_ms: float
) -> list[str]:
    """Return the limit by kind of layer, and the share of it that the step attains."""
    lines = ["| layers, both directions | Gflop | MB | limit, CPU ms |", "| --- " * 4 + "|"]
    flop = size = limit = 0.0
    by_kind = limits([Item(*item) for item in items], machine, "kind")
    for kind, (of_kind, bytes_of_kind, least) in by_kind.items():
        row = (of_kind / BATCHES, bytes_of_kind / BATCHES, least / BATCHES)
        flop, size, limit = flop + row[0], size + row[1], limit + row[2]
        lines.append(f"| {kind} | {row[0]:.2f} | {row[1]:.0f} | {row[2]:.1f} |")
    roof = machine.floor_ms(1e9 * flop, 1e6 * size)
    return [
        *lines,
        f"| all | {flop:.2f} | {size:.0f} | {limit:.1f} |",
        "",
        f"Undisturbed, each batch's fastest averaged, a step takes {step_ms:.0f} CPU ms: "
        f"**{100 * limit / step_ms:.0f} %** of it is the "
        "limit, where each layer is bound by its operations or by its bytes, whichever takes "
        f"longer. If all bytes could move while others multiply, the limit were {roof:.0f} ms, "
        f"{100 * roof / step_ms:.0f} % of the step.",
    ]


def by_part(
    parts: Sequence[tuple[str, str, float]],
    least: Mapping[str, tuple[float, float, float]],
    data_ms: float,
) -> list[str]:
    """Return the CPU time by part of the network and direction, the largest first."""
    table: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for part, direction, spent in parts:
        table[part][direction == BACKWARD] += spent
    total = sum(sum(both) for both in table.values())
    lines = ["| part | forward, CPU ms | backward | share | limit |", "| --- " * 5 + "|"]
    for part, (forward, backward) in sorted(table.items(), key=lambda row: -sum(row[1])):
        share = 100 * (forward + backward) / total
        limit = least[part][2] / BATCHES if part in least else 0.0
        lines.append(f"| {part} | {forward:.1f} | {backward:.1f} | {share:.1f} % | {limit:.1f} |")
    return [
        *lines,
        f"| beside it, in the loader's threads: data | {data_ms:.1f} | | "
        f"{100 * data_ms / total:.1f} % | |",
    ]


def on_a_gpu(items: Sequence[tuple[str, float, float, str]], operators: float) -> list[str]:
    """Return what published peaks would allow, in bf16 with float32 optimiser."""
    lines = ["| card | products | depthwise | bytes | limit, ms |", "| --- " * 5 + "|"]
    for card, (tensor, vector, bandwidth) in PUBLISHED.items():
        products = depthwise = moved = limit = 0.0
        for kind, operations, size, _ in items:
            rate = vector if kind == "depthwise convolution" else tensor
            size_here = size if kind == "optimiser" else size / 2
            limit += max(operations / rate, size_here / bandwidth)
            moved += size_here / bandwidth
            depthwise += operations / vector if rate == vector else 0.0
            products += operations / tensor if rate == tensor else 0.0
        shown = (1000 * value / BATCHES for value in (products, depthwise, moved, limit))
        lines.append(f"| {card} | {' | '.join(f'{value:.3f}' for value in shown)} |")
    return [
        *lines,
        "",
        "Not measured: from the layers' operations and half their bytes (bf16), at the peaks of "
        "the maker's data sheets, depthwise convolutions outside the tensor cores. A step asks for "
        f"{operators:.0f} operators that are no view; at about 5 microseconds to launch each (an "
        f"assumption) they take {operators * 0.005:.0f} ms, far more than the limit: on a GPU a "
        "step of this size waits for its launches, and CUDA graphs or larger batches are what "
        "would help.",
    ]


def page(options: argparse.Namespace) -> str:
    """Run everything and return the page."""
    lines = [
        "# A training step",
        "",
        "Repeat with `python benchmarks/training_step.py`"
        + (", and `--against` a working copy of the code before" if options.against else "")
        + ".",
        "",
        f"{description(options.threads)}.",
        "",
    ]
    with tempfile.TemporaryDirectory() as folder:
        cohort = options.cohort or write_cohort(Path(folder), PATIENTS, seed=5)
        for name in options.configs:
            lines += section(name, options, cohort)
    return "\n".join(lines)


def main() -> None:
    """Read the options, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=12, help="steps that are counted")
    parser.add_argument("--configs", nargs="+", default=CONFIGS)
    parser.add_argument("--cohort", type=Path, help="cohort.csv; simulated where none is given")
    parser.add_argument("--against", type=Path, help="working copy of the code before")
    parser.add_argument("--output", type=Path, help="file to write the page to")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--config", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.config, options.threads)
        return
    text = page(options)
    print(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
