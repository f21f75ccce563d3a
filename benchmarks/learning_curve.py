"""What the recipe learns from scratch in minutes: `python benchmarks/learning_curve.py FOLDER`.

Simulates patients, trains on 60 of them within a wall-clock budget, predicts patients that were
neither trained nor validated on, and writes `learning_curve.md`: the validation figures on the way,
and the figures on whole scans at the end. An interrupted run goes on where it was.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

from osteomet.simulate.cohort import write_cohort

TRAIN, VALIDATE, TEST = 60, 12, 60
SHOWN = ("step", "loss", "sensitivity", "dice", "segmentation")
FIGURES = ("sensitivity at 1 FP/scan", "Dice per matched lesion", "Dice per lesion")


def osteomet(*arguments: str) -> None:
    """Run one command of osteomet."""
    subprocess.run([sys.executable, "-m", "osteomet.cli", *arguments], check=True)


def measure(folder: Path, minutes: float, processes: int) -> str:
    """Train and evaluate in ``folder``; return Markdown."""
    both = TRAIN + VALIDATE
    shares = {"train": TRAIN / both, "val": VALIDATE / both}
    learning = write_cohort(folder / "learning", both, seed=11, workers=2, splits=shares)
    unseen = write_cohort(folder / "unseen", TEST, seed=12, workers=2, splits={"test": 1.0})
    run = folder / "run"
    resume = ["--resume"] if (run / "last.ckpt").exists() else []
    settings = [f"training.budget_minutes={minutes}", "training.validate_every=250"]
    chosen = [part for text in settings for part in ("--set", text)]
    where = ["--cohort", str(learning), "-o", str(run), "--device", "cpu"]
    osteomet("train", *where, "--processes", str(processes), *chosen, *resume)
    cohort = ["--cohort", str(unseen), "--split", "test"]
    weights = str(run / "weights.safetensors")
    osteomet("predict", *cohort, "--weights", weights, "-o", str(folder / "found"))
    osteomet("evaluate", str(folder / "found"), *cohort, "-o", str(folder / "tables"))
    return "\n\n".join([_curve(run / "validation.csv"), _figures(folder / "tables")])


def _curve(path: Path) -> str:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = [f"| {' | '.join(SHOWN)} |", f"|{' --- |' * len(SHOWN)}"]
    for row in rows:
        values = [row["step"], *(f"{float(row[name]):.3f}" for name in SHOWN[1:])]
        lines.append(f"| {' | '.join(values)} |")
    return "\n".join(lines)


def _figures(folder: Path) -> str:
    content = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    lines = ["| whole scans, unseen patients | value | 95 % interval |", "| --- | --- | --- |"]
    for figure in content["figures"]:
        if figure["name"] in FIGURES:
            low, high = figure["low"], figure["high"]
            lines.append(f"| {figure['name']} | {figure['value']:.3f} | {low:.3f} to {high:.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the table beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for patients and runs; kept")
    parser.add_argument("--minutes", type=float, default=16.0)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    table = measure(options.folder, options.minutes, options.processes)
    text = (
        f"# {options.minutes:g} minutes from scratch on {TRAIN} simulated patients\n\n"
        "Repeat with `python benchmarks/learning_curve.py FOLDER`. Default recipe, two cores, "
        f"{options.processes} processes; validation on patches of {VALIDATE} patients, then whole "
        f"scans of {TEST} others.\n\n{table}\n"
    )
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
