"""A predictor that tells which process predicts which scan, and waits where it is told to."""

import os
import sys
import time
from functools import partial
from pathlib import Path

from blobs import BlobFinder, blob_weights

from osteomet.data.manifest import read_cohort
from osteomet.inference.cohort import predict_cohort
from osteomet.inference.engine_choice import choose_engine
from osteomet.inference.pipeline import Prediction, Predictor, Progress
from osteomet.io.scan import Scan


class WatchedPredictor(Predictor):
    """Leaves ``<scan>.<process>`` in a folder before each scan; ``hold-<scan>`` makes it wait."""

    def __init__(self, watch: Path) -> None:
        super().__init__(blob_weights(), "cpu", detector=BlobFinder())
        self.watch = watch
        (watch / f"made.{os.getpid()}").touch()

    def predict(
        self, source: Path | Scan, scan_id: str | None = None, progress: Progress | None = None
    ) -> Prediction:
        with (self.watch / "log").open("a", encoding="utf-8") as log:
            log.write(f"{scan_id} {os.getpid()}\n")
        while (self.watch / f"hold-{scan_id}").exists():
            time.sleep(0.02)
        return super().predict(source, scan_id, progress)


def drive(cohort: Path, out: Path, watch: Path, address: str | None) -> None:
    """Predict a cohort with two processes here, or on a Ray cluster."""
    engine, _ = choose_engine("local", workers=2)
    if address is not None:
        engine, _ = choose_engine("ray", address=address, memory_gb=0.5)
    make = partial(WatchedPredictor, watch)
    predict_cohort(read_cohort(cohort).cases, out, make, engine=engine, threads=1)


if __name__ == "__main__":
    folders = [Path(argument) for argument in sys.argv[1:4]]
    drive(*folders, address=sys.argv[4] if len(sys.argv) > 4 else None)
