"""Simulate a few patients, train a tiny detector, calibrate it: python examples/train_tiny.py OUT.

A few minutes on one CPU core. The result finds little; that it runs is the point.
"""

import sys
from pathlib import Path

from osteomet.checkpoint import load_weights
from osteomet.config import load_config
from osteomet.data.manifest import read_cohort
from osteomet.simulate import write_cohort
from osteomet.training.calibrate import calibrate
from osteomet.training.run import train

TINY = Path(__file__).parents[1] / "configs" / "tiny.toml"


def main(out: Path, patients: int = 12, steps: int = 300) -> None:
    """Write a cohort, a run and calibrated weights below ``out``."""
    table = write_cohort(out / "cohort", patients, splits={"train": 0.7, "val": 0.3})
    config = load_config(TINY).updated({"training.max_steps": steps})
    result = train(table, config, out / "run", device="cpu")
    print(f"validation loss {result.best_loss:.3f} at step {result.best_step}: {result.weights}")
    chosen = calibrate(
        load_weights(result.weights),
        read_cohort(table).of_split("val"),
        out / "tiny.safetensors",
        device="cpu",
    )
    print(chosen)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
