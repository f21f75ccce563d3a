"""Many scans, one after another: a scan that fails does not stop the others."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from osteomet.errors import InputError, OsteometError
from osteomet.findings import Findings, SeriesInfo
from osteomet.inference.cohort_scan import ScanOutcome
from osteomet.inference.outputs import FINDINGS, write_results
from osteomet.inference.pipeline import Predictor, Progress
from osteomet.inference.scan_id import distinct
from osteomet.io.scan import Scan

EXIT_FAILED = 2


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one input.

    Attributes:
        source: the input; the name in its series for a scan already read.
        folder: where its results lie; None where it failed.
        findings: what was found; None where it failed.
        error: one line that says why it failed; None where it did not.
    """

    source: Path
    folder: Path | None = None
    findings: Findings | None = None
    error: str | None = None


def predict_many(
    sources: Sequence[Path | Scan],
    out: Path,
    predictor: Predictor,
    *,
    report: Callable[[Outcome], None] = lambda outcome: None,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Predict each input and write its results to ``out/<scan_id>``.

    Two inputs never share a folder: the second of one name gets ``-2``. A result from an
    earlier run is replaced by one of the same series only.

    Args:
        sources: files and folders, each one scan, or scans already read.
        out: the folder of the results' folders.
        predictor: the weights on their device.
        report: told of each outcome as soon as it is known.
        progress: told of the tiles done in the scan at work.

    Returns:
        One outcome per input, in order.
    """
    outcomes: list[Outcome] = []
    taken: list[str] = []
    for given in sources:
        source = Path(given.info.source) if isinstance(given, Scan) else given
        try:
            prediction = predictor.predict(given, progress=progress)
            scan_id = _free_name(prediction.findings, out, taken)
            taken.append(scan_id)
            prediction = prediction.renamed(scan_id)
            folder = write_results(prediction, out)
            outcomes.append(Outcome(source, folder, prediction.findings))
        except OsteometError as error:
            outcomes.append(Outcome(source, error=_one_line(str(error))))
        except Exception as error:  # one scan's surprise must not cost a night's batch
            outcomes.append(
                Outcome(source, error=_one_line(f"{source}: {type(error).__name__}: {error}"))
            )
        report(outcomes[-1])
    return outcomes


def exit_status(outcomes: Iterable[Outcome | ScanOutcome]) -> int:
    """Return 0 if every scan was predicted, else 2."""
    return EXIT_FAILED if any(outcome.error for outcome in outcomes) else 0


def _free_name(findings: Findings, out: Path, taken: Sequence[str]) -> str:
    """Return the scan id, numbered past this run's and past results of other series."""
    used = list(taken)
    while True:
        name = distinct(findings.scan_id, used)
        if _is_of(findings.series, out / name):
            return name
        used.append(name)


def _is_of(series: SeriesInfo, folder: Path) -> bool:
    """Tell whether a folder is free or holds an older result of this series."""
    if not (folder / FINDINGS).is_file():
        return True
    try:
        return Findings.read(folder / FINDINGS).series == series
    except InputError:  # of another version of the schema
        return False


def _one_line(message: str) -> str:
    return " ".join(message.split())
