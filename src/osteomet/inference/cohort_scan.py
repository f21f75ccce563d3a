"""One scan of a cohort: predicted once, finished once, whoever works on it and however often.

The primary belongs to the patient. A scan whose patient has no other is predicted and written at
once. Of a patient with several, each scan is predicted and its lesions are kept below
``OUT/.lesions``; when all are there, each is read again and written with the primary that the
lesions of all give. So a worker never holds more than one scan, whatever a patient has.

What is there already is known by a digest of all that it depends on, and is not made again.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import torch

import osteomet
from osteomet.data.manifest import Case
from osteomet.errors import InputError, OsteometError
from osteomet.findings import Findings
from osteomet.inference.kept_lesions import KEPT_LESIONS, is_whole, keep_lesions, read_lesions
from osteomet.inference.outputs import FINDINGS, write_results
from osteomet.inference.pipeline import Prediction, Predictor
from osteomet.io.scan import read_scan
from osteomet.structures import Detections


class Step(StrEnum):
    """What is to be done with a scan."""

    PREDICT = "predict"
    JOIN = "join"


class State(StrEnum):
    """What became of a scan."""

    FINISHED = "finished"
    KEPT = "kept"
    WAITING = "waiting"
    FAILED = "failed"


@dataclass(frozen=True)
class ScanTask:
    """One step of one scan.

    Attributes:
        case: the scan.
        scans: those whose lesions give the patient's primary, in the cohort's order; ``case`` is
            one of them.
        step: to predict it, or to write it once all of ``scans`` are predicted.
    """

    case: Case
    scans: tuple[Case, ...]
    step: Step = Step.PREDICT


@dataclass(frozen=True)
class ScanOutcome:
    """What became of one scan, in a few hundred bytes.

    Attributes:
        case: the scan.
        state: FINISHED now, KEPT from an earlier run, WAITING for the patient's other scans, or
            FAILED.
        folder: of its results; None where there are none yet.
        error: one line that says why it failed; None where it did not.
        lesions: how many.
        p_lung: None without a lesion.
        seconds: of the prediction, without writing.
        peak_memory_mb: of the worker so far.
        warnings: of the findings.
        attempts: how many workers it took; counted by whoever hands out the tasks.
    """

    case: Case
    state: State
    folder: Path | None = None
    error: str | None = None
    lesions: int = 0
    p_lung: float | None = None
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    warnings: tuple[str, ...] = field(default=())
    attempts: int = 1


@dataclass(frozen=True)
class ScanWorkerMaker:
    """Makes the worker of a process; picklable, as the process may be elsewhere.

    Attributes:
        make_predictor: called once in each process.
        out: the folder of the results' folders, the same for all processes.
        threads: of torch in each process; None leaves them as they are.
    """

    make_predictor: Callable[[], Predictor]
    out: Path
    threads: int | None = None

    def __call__(self) -> "ScanWorker":
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return ScanWorker(self.make_predictor(), self.out)


class ScanWorker:
    """Does one step of one scan after another, with one model."""

    def __init__(self, predictor: Predictor, out: Path) -> None:
        self.predictor = predictor
        self.out = out

    def __call__(self, task: ScanTask) -> ScanOutcome:
        """Do one step; what goes wrong is in the outcome."""
        try:
            return self._work(task)
        except OsteometError as error:
            return failed(task.case, str(error))
        except Exception as error:  # one scan's surprise must not cost a night's batch
            return failed(task.case, f"{task.case.image}: {type(error).__name__}: {error}")

    def _work(self, task: ScanTask) -> ScanOutcome:
        case = task.case
        digests = [self._digest(one) for one in task.scans]
        own = self._digest(case)
        inputs = _sha256([own, digests])
        folder = self.out / case.scan_id
        kept = _findings_of(folder, inputs)
        if kept is not None:
            return _outcome(case, State.KEPT, folder, kept)
        if task.step is Step.JOIN:
            return self._join(task, dict(zip(task.scans, digests, strict=True)), inputs)
        if len(task.scans) > 1:
            return self._predict_part(case, own)
        prediction = self.predictor.predict(case.image, scan_id=case.scan_id)
        return self._write(case, _stamped(prediction, case, inputs))

    def _predict_part(self, case: Case, digest: str) -> ScanOutcome:
        path = self._lesions_path(digest)
        if not is_whole(path):
            prediction = self.predictor.predict(case.image, scan_id=case.scan_id)
            keep_lesions(prediction, path)
        return ScanOutcome(case, State.WAITING)

    def _join(self, task: ScanTask, digests: dict[Case, str], inputs: str) -> ScanOutcome:
        """Write a scan whose lesions are kept, with the primary of all the patient's lesions."""
        parts = {case: read_lesions(self._lesions_path(digest)) for case, digest in digests.items()}
        mine = parts[task.case]
        findings = mine.findings
        if len(parts) > 1:
            lesions = Detections.concatenate([part.reported for part in parts.values()])
            primary = self.predictor.predict_primary(lesions)
            aggregation = f"{primary.aggregation}, of all {len(parts)} scans of the patient"
            primary = primary.model_copy(update={"aggregation": aggregation})
            findings = findings.model_copy(update={"primary": primary})
        scan = read_scan(task.case.image)
        if scan.info != findings.series:
            raise InputError(
                f"{task.case.image}: changed while the patient's other scans were predicted; "
                "expected the same series: run again"
            )
        labels = mine.labels_on(scan.volume)
        prediction = Prediction(findings, scan, labels, mine.reported)
        return self._write(task.case, _stamped(prediction, task.case, inputs))

    def _write(self, case: Case, prediction: Prediction) -> ScanOutcome:
        folder = write_results(prediction, self.out)
        return _outcome(case, State.FINISHED, folder, prediction.findings)

    def _lesions_path(self, digest: str) -> Path:
        return self.out / KEPT_LESIONS / digest[:2] / f"{digest}.npz"

    def _digest(self, case: Case) -> str:
        """Return what changes with the scan's file, the weights and the settings.

        Where the file lies does not count: a cluster may see it elsewhere.
        """
        return _sha256(
            [
                osteomet.__version__,
                self.predictor.weights.sha256,
                self.predictor.config.sha256(),
                self.predictor.prior_lung,
                case.scan_id,
                case.patient_id,
                _file_state(case.image),
            ]
        )


def failed(case: Case, message: str) -> ScanOutcome:
    """Return the outcome of a scan that cannot be predicted, with its error in one line."""
    return ScanOutcome(case, State.FAILED, error=" ".join(message.split()))


def _outcome(case: Case, state: State, folder: Path, findings: Findings) -> ScanOutcome:
    provenance = findings.provenance
    return ScanOutcome(
        case,
        state,
        folder,
        lesions=len(findings.lesions),
        p_lung=findings.primary.p_lung,
        seconds=provenance.seconds["total"],
        peak_memory_mb=provenance.peak_memory_mb,
        warnings=findings.warnings,
    )


def _stamped(prediction: Prediction, case: Case, inputs_sha256: str) -> Prediction:
    """Return the prediction with the patient's name and what it depends on."""
    findings = prediction.findings
    update = {"inputs_sha256": inputs_sha256}
    provenance = findings.provenance.model_copy(update=update)
    return replace(
        prediction,
        findings=findings.model_copy(
            update={"patient_id": case.patient_id, "provenance": provenance}
        ),
    )


def _findings_of(folder: Path, inputs_sha256: str) -> Findings | None:
    """Return the findings in a folder if they were made from just these inputs."""
    if not (folder / FINDINGS).is_file():
        return None
    try:
        findings = Findings.read(folder / FINDINGS)
    except InputError:  # of another version of the schema: it will be replaced
        return None
    return findings if findings.provenance.inputs_sha256 == inputs_sha256 else None


def _file_state(path: Path) -> tuple[int, int] | None:
    """Return size and time of change; of a folder the time alone, which is that of its list."""
    try:
        state = path.stat()
    except OSError:  # reading it will say why
        return None
    return (0 if path.is_dir() else state.st_size), state.st_mtime_ns


def _sha256(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
