"""Does pretraining lower the loss after so many steps? `python benchmarks/pretraining.py FOLDER`.

Simulates patients, pretrains a backbone on the scans of some of them without their labels (and on
other scans, if given), then trains the same detector on few labelled patients for the same number
of steps, with and without the pretrained backbone, once for each seed. Beside itself it writes
validation losses on the way, and the difference at the end. Interrupted, it goes on where it was.
"""

import argparse
import csv
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from osteomet.data.manifest import read_cohort
from osteomet.simulate.cohort import write_cohort

UNLABELLED_SEED, LABELLED_SEED = 21, 22
TRAIN_SHARE = 2 / 3
SHOWN = ("loss", "segmentation", "classes", "mask_dice", "sensitivity", "dice")


def osteomet(*arguments: str) -> None:
    """Run one command of osteomet."""
    subprocess.run([sys.executable, "-m", "osteomet.cli", *arguments], check=True)


def run_once(command: str, given: Sequence[str], run: Path, options: Sequence[str]) -> None:
    """Start, go on with, or leave alone a finished run."""
    resume = ["--resume"] if (run / "last.ckpt").is_file() else []
    osteomet(command, *given, "-o", str(run), "--device", "cpu", *options, *resume)


def settings(options: argparse.Namespace, steps: int, seed: int) -> list[str]:
    """Return what both kinds of run share."""
    chosen = [
        f"training.max_steps={steps}",
        f"training.seed={seed}",
        f"training.validate_every={max(1, steps // 8)}",
        f"training.checkpoint_every={max(1, steps // 8)}",
        *options.set,
    ]
    config = ["--config", str(options.config)] if options.config else []
    return [*config, *(part for text in chosen for part in ("--set", text))]


def measure(options: argparse.Namespace) -> str:
    """Pretrain, train with and without it, and return the tables."""
    folder: Path = options.folder
    unlabelled = write_cohort(
        folder / "unlabelled", options.unlabelled, UNLABELLED_SEED, workers=2, splits={"train": 1.0}
    )
    labelled = write_cohort(
        folder / "labelled", options.labelled, LABELLED_SEED, workers=2,
        splits={"train": TRAIN_SHARE, "val": 1 - TRAIN_SHARE},
    )  # fmt: skip
    images = [str(case.image) for case in read_cohort(unlabelled).cases]
    images += [str(path) for path in options.more]
    pretrained = folder / "pretrained"
    run_once("pretrain", images, pretrained, settings(options, options.pretraining_steps, 0))
    for seed in options.seeds:
        for start in ("scratch", "pretrained"):
            init = ["--init", str(pretrained / "weights.safetensors")]
            run_once(
                "train",
                ["--cohort", str(labelled), *(init if start == "pretrained" else [])],
                folder / f"{start}-{seed}",
                settings(options, options.steps, seed),
            )
    return "\n\n".join(
        [
            _loss_of_pretraining(pretrained),
            _on_the_way(folder, options.seeds[0]),
            _at_the_end(folder, options.seeds),
        ]
    )


def rows(run: Path) -> list[dict[str, str]]:
    """Return the validations of a run."""
    with (run / "validation.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines))


def _loss_of_pretraining(run: Path) -> str:
    lines = [[row["step"], f"{float(row['loss']):.4f}"] for row in rows(run)]
    return _table(["step of pretraining", "reconstruction loss, held-out scans"], lines)


def _on_the_way(folder: Path, seed: int) -> str:
    runs = [rows(folder / f"{start}-{seed}") for start in ("scratch", "pretrained")]
    lines = [
        [a["step"], f"{float(a['loss']):.4f}", f"{float(b['loss']):.4f}"]
        for a, b in zip(*runs, strict=True)
    ]
    return _table([f"step, seed {seed}", "validation loss, scratch", "pretrained"], lines)


def shown(value: float, sign: str = "") -> str:
    """Write a figure; ``none`` where there is none, such as a Dice without a lesion found."""
    return f"{value:{sign}.4f}" if math.isfinite(value) else "none"


def _at_the_end(folder: Path, seeds: Sequence[int]) -> str:
    """Return the last validations, and the mean of the differences pair by pair."""
    lines = []
    for name in SHOWN:
        differences = []
        for seed in seeds:
            last = [rows(folder / f"{start}-{seed}")[-1] for start in ("scratch", "pretrained")]
            before, after = (float(row.get(name, "nan")) for row in last)
            differences.append(after - before)
            lines.append([name, str(seed), shown(before), shown(after), shown(after - before, "+")])
        differences = [value for value in differences if math.isfinite(value)]
        if not differences:
            continue
        spread = f" ± {statistics.stdev(differences):.4f}" if len(differences) > 1 else ""
        lines.append([name, "mean", "", "", f"{statistics.mean(differences):+.4f}{spread}"])
    return _table(["last validation", "seed", "scratch", "pretrained", "difference"], lines)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for patients and runs; kept")
    parser.add_argument("--unlabelled", type=int, default=60, help="simulated scans to pretrain on")
    parser.add_argument("--labelled", type=int, default=24, help="simulated patients to train on")
    parser.add_argument("--pretraining-steps", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--config", type=Path, help="TOML file; none takes the defaults")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value")
    parser.add_argument(
        "--more", type=Path, nargs="*", default=[], help="other scans, such as real CT"
    )
    return parser.parse_args()


def command(options: argparse.Namespace) -> str:
    """Return what repeats this, but for other scans, which are the user's own."""
    config = f" --config {options.config}" if options.config else ""
    return (
        f"python benchmarks/pretraining.py FOLDER{config} --unlabelled {options.unlabelled} "
        f"--labelled {options.labelled} --pretraining-steps {options.pretraining_steps} "
        f"--steps {options.steps} --seeds {' '.join(map(str, options.seeds))}"
        f"{' --more SCAN...' * bool(options.more)}"
        f"{''.join(f' --set {text}' for text in options.set)}"
    )


def main() -> None:
    """Measure, and write the tables beside this file."""
    options = parse()
    tables = measure(options)
    training = round(TRAIN_SHARE * options.labelled)
    text = (
        f"# Pretraining: {options.steps} steps with and without it\n\n"
        f"Repeat with `{command(options)}`. Pretrained for "
        f"{options.pretraining_steps} steps on {options.unlabelled} simulated scans and "
        f"{len(options.more)} other inputs, without labels; then trained on "
        f"{training} other simulated patients and measured on {options.labelled - training}. Same "
        "settings, seed and number of steps; the difference is pretrained less scratch. The "
        f"spread is the standard deviation over {len(options.seeds)} seeds.\n\n{tables}\n"
    )
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
