"""One architecture, stage by stage; a stage that is done is noted and not done again."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from osteomet.checkpoint import load_weights
from osteomet.config import Config
from osteomet.data.manifest import Cohort, read_cohort
from osteomet.errors import InputError, ReportError
from osteomet.evaluation.cohort import Options
from osteomet.evaluation.lung_threshold import LungThreshold
from osteomet.inference.cohort import predict_cohort
from osteomet.inference.cohort_evaluation import evaluate_cohort
from osteomet.inference.pipeline import Predictor
from osteomet.reporting.evaluation_html import write_evaluation
from osteomet.reporting.files import write_atomically
from osteomet.reporting.reproduce_results import ArchitectureResult, read_side
from osteomet.training.calibrate import RECORD, calibrate
from osteomet.training.run import train
from osteomet.training.run_folder import RunFolder

NOTES = "stages.json"
MEASURED = ("train", "test")


class Stopped(Exception):  # noqa: N818 - no error: a signal asked for it
    """Training was asked to stop, and has kept its state."""


@dataclass(frozen=True)
class Work:
    """One architecture and where it is done.

    Attributes:
        name: of the backbone.
        config: all settings.
        folder: of this architecture.
        cohort: file with the split.
        store: where resampled scans are kept.
        device: auto, cpu, cuda or mps.
        resamples: bootstrap draws.
        console: for progress; None is silent.
    """

    name: str
    config: Config
    folder: Path
    cohort: Path
    store: Path
    device: str
    resamples: int
    console: Console | None

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def predictions(self) -> Path:
        return self.folder / "predictions"

    def evaluation(self, side: str) -> Path:
        """Return the folder of a side's evaluation."""
        return self.folder / "evaluation" / side

    def say(self, text: str) -> None:
        """Tell the user, if there is one."""
        if self.console is not None:
            self.console.print(f"{self.name}: {text}", highlight=False, markup=False)


@dataclass(frozen=True)
class Note:
    """What is known of a stage that is done.

    Attributes:
        seconds: that it took; where it was killed, of the last time it ran.
        outcome: in words.
    """

    seconds: float
    outcome: str


def do_all(work: Work) -> ArchitectureResult:
    """Do the stages that are not done yet, and return what they gave.

    Raises:
        Stopped: a signal asked the training to stop.
        OsteometError: a stage cannot be done.
    """
    try:
        work.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReportError(f"{work.folder}: cannot be made: {error.strerror}") from error
    notes = _read_notes(work.folder / NOTES)
    for stage, do in STAGES.items():
        if stage in notes:
            continue
        work.say(stage)
        began = time.perf_counter()
        outcome = do(work)
        notes[stage] = Note(time.perf_counter() - began, outcome)
        _write_notes(work.folder / NOTES, notes)
    return ArchitectureResult(
        work.name,
        {side: read_side(work.evaluation(side) / "evaluation.json") for side in MEASURED},
        {stage: note.seconds for stage, note in notes.items()},
        notes["train"].outcome,
    )


def _train(work: Work) -> str:
    run = work.folder / "run"
    resume = RunFolder(run).state.is_file()
    result = train(
        work.cohort,
        work.config,
        run,
        resume=resume,
        device=work.device,
        store_dir=work.store,
        provenance={"command": "osteomet reproduce"},
        console=work.console,
    )
    if result.outcome == "interrupted":
        raise Stopped
    return (
        f"{result.outcome} after {result.step} steps, {result.seconds / 60:.1f} minutes; best "
        f"validation at step {result.best_step}"
    )


def _calibrate(work: Work) -> str:
    loaded = load_weights(RunFolder(work.folder / "run").weights)
    result = calibrate(loaded, _cohort(work).of_split("val"), work.weights, device=work.device)
    told, checked = _told, result.out_of_fold
    return (
        f"operating threshold {result.operating_threshold:.4g}; second stage fitted on "
        f"{result.primary_patients} patients; of {checked.patients} scored by one fitted to "
        f"others: AUC {told(checked.auc)}, Brier score {told(checked.brier)}, expected calibration "
        f"error {told(checked.expected_calibration_error)}, calibration slope "
        f"{told(checked.calibration_slope)}"
    )


def _told(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3g}"


def _predict(work: Work) -> str:
    """Predict all patients; what these weights have predicted before is kept."""
    cases = _cohort(work).cases
    outcomes = predict_cohort(cases, work.predictions, lambda: Predictor(work.weights, work.device))
    failed = [outcome.error for outcome in outcomes if outcome.error]
    if failed:
        raise InputError(
            f"{work.name}: {len(failed)} of {len(cases)} scans cannot be predicted; the first: "
            f"{failed[0]}"
        )
    return f"{len(cases)} scans"


def _evaluate(work: Work) -> str:
    """Evaluate training and test patients at the threshold that validation patients gave."""
    cohort = _cohort(work)
    options = Options(lung_threshold_of(load_weights(work.weights).provenance))
    for side in MEASURED:
        evaluation = evaluate_cohort(
            work.predictions, cohort.of_split(side), resamples=work.resamples, options=options
        )
        title = f"{work.name}, {side} patients"
        write_evaluation(evaluation, work.evaluation(side), title=title)
    return f"called lung from p(lung) {options.lung_threshold.value:.4g}"


def lung_threshold_of(provenance: Mapping[str, Any]) -> LungThreshold:
    """Return the threshold that calibration chose, as the provenance of its weights tells.

    Where it chose none, the source says why: too few validation patients of either primary, no
    threshold better than chance, or weights from before thresholds were chosen out of fold.
    """
    checked = provenance.get(RECORD, {}).get("out_of_fold")
    if checked is None:
        return LungThreshold(source="not chosen: the weights were calibrated by an older osteomet")
    if checked["lung_threshold"] is None:
        return LungThreshold(
            source="not chosen: the validation patients told no threshold from chance"
        )
    return LungThreshold(
        checked["lung_threshold"],
        f"largest Youden index of {checked['patients']} validation patients, each scored by a "
        "second stage fitted to the others",
    )


STAGES: dict[str, Callable[[Work], str]] = {
    "train": _train,
    "calibrate": _calibrate,
    "predict": _predict,
    "evaluate": _evaluate,
}
"""In order; each reads what the one before has written, and may be repeated from its start."""


def _cohort(work: Work) -> Cohort:
    return read_cohort(work.cohort)


def _read_notes(path: Path) -> dict[str, Note]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {stage: Note(**note) for stage, note in content.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: cannot be read; remove it to do this architecture's stages again"
        ) from error


def _write_notes(path: Path, notes: dict[str, Note]) -> None:
    content = {
        stage: {"seconds": round(note.seconds, 1), "outcome": note.outcome}
        for stage, note in notes.items()
    }
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())
