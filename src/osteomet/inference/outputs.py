"""One folder per scan, ``OUT/<scan_id>/``, that appears whole or not at all."""

import shutil
import uuid
from pathlib import Path

from osteomet.errors import ReportError
from osteomet.inference.pipeline import Prediction
from osteomet.io.nifti_writer import write_label_map
from osteomet.reporting.files import write_atomically
from osteomet.reporting.html import write_report
from osteomet.reporting.lesions_csv import write_lesions_csv

FINDINGS = "findings.json"
LESIONS_CSV = "lesions.csv"
LABELS = "lesions.nii.gz"
REPORT = "report.html"


def write_results(prediction: Prediction, out: Path) -> Path:
    """Write ``findings.json``, ``lesions.csv``, ``lesions.nii.gz`` and ``report.html``.

    All are written to a hidden folder beside the result, which then takes its place. An older
    result of the same scan stays until then.

    Returns:
        The result's folder.

    Raises:
        ReportError: the disk is full or not writable, or the folder holds something else
            than an older result.
    """
    folder = out / prediction.findings.scan_id
    partial = out / f".{folder.name}.{uuid.uuid4().hex[:8]}.partial"
    _check_replaceable(folder)
    try:
        partial.mkdir(parents=True)
        _write_all(prediction, partial)
        _replace(folder, partial)
    except OSError as error:
        raise ReportError(
            f"{folder}: cannot be written: {error.strerror or error}; expected a writable folder "
            "with space: nothing was left behind"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _write_all(prediction: Prediction, folder: Path) -> None:
    findings, scan = prediction.findings, prediction.scan
    write_lesions_csv(findings, folder / LESIONS_CSV)
    write_label_map(folder / LABELS, prediction.labels)
    write_report(findings, scan.volume, prediction.labels, folder / REPORT)
    write_atomically(folder / FINDINGS, findings.to_json().encode())


def _check_replaceable(folder: Path) -> None:
    """Refuse to replace what is not ours."""
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / FINDINGS).is_file()):
        raise ReportError(
            f"{folder}: exists and is no result of osteomet (it has no {FINDINGS}); choose "
            "another output folder"
        )


def _replace(folder: Path, partial: Path) -> None:
    """Put ``partial`` in the place of ``folder``, which returns if that fails."""
    if not folder.exists():
        partial.rename(folder)
        return
    old = partial.with_suffix(".old")
    folder.rename(old)
    try:
        partial.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
