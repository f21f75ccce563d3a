"""Figures as tables: Markdown for people, CSV for spreadsheets, JSON for programs.

Beside every figure stand its interval, what it was taken over and how many events it counts.
A figure that is not defined is a dash in Markdown, empty in CSV and null in JSON.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from osteomet.errors import ReportError
from osteomet.evaluation.cohort import Evaluation
from osteomet.evaluation.statistics import CONFIDENCE, Estimate

DASH = "\N{EN DASH}"


def to_markdown(estimates: Sequence[Estimate]) -> str:
    """Return a Markdown table."""
    rows = [("Figure", "Value", f"{CONFIDENCE:.0%} interval", "n", "Events", "Note")]
    for one in estimates:
        interval = (
            DASH if one.low is None or one.high is None else f"{one.low:.3f} to {one.high:.3f}"
        )
        rows.append(
            (
                one.name,
                DASH if one.value is None else f"{one.value:.3f}",
                interval,
                f"{one.n} {one.unit}",
                DASH if one.events is None else str(one.events),
                one.note,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"


def to_csv(estimates: Sequence[Estimate]) -> str:
    """Return CSV with a header; the columns are the fields of ``Estimate``."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Estimate)], lineterminator="\n")
    writer.writeheader()
    for one in estimates:
        writer.writerow(asdict(one))
    return text.getvalue()


def to_json(evaluation: Evaluation) -> str:
    """Return the figures, the FROC curve and one entry per scan as JSON."""
    curve = evaluation.froc
    content = {
        "confidence": CONFIDENCE,
        "resamples": evaluation.resamples,
        "seed": evaluation.seed,
        "scans": len(evaluation.scans),
        "patients": evaluation.patients,
        "operating_threshold": evaluation.operating_threshold,
        "figures": [asdict(one) for one in evaluation.estimates],
        "froc": {
            "thresholds": _plain(curve.thresholds),
            "sensitivity": _plain(curve.sensitivity),
            "false_positives_per_scan": _plain(curve.false_positives),
        },
        "by_scan": [
            {
                "scan_id": scan.scan_id,
                "patient_id": scan.patient_id,
                "lesions": scan.reported.lesions,
                "hits": int(scan.reported.hits.sum()),
                "false_positives": int((~scan.reported.hits).sum()),
                "dice_per_lesion": _plain(scan.dice),
                "dice": _plain(np.array([scan.overlap.dice]))[0],
                "primary": scan.primary,
                "p_lung": scan.p_lung,
            }
            for scan in evaluation.scans
        ],
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def write_tables(evaluation: Evaluation, folder: Path) -> None:
    """Write ``evaluation.md``, ``.csv`` and ``.json``.

    Raises:
        ReportError: a file cannot be written.
    """
    texts = {
        "evaluation.md": to_markdown(evaluation.estimates),
        "evaluation.csv": to_csv(evaluation.estimates),
        "evaluation.json": to_json(evaluation),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ReportError(
            f"{folder}: tables cannot be written: {error.strerror}; expected a writable folder"
        ) from error


def _plain(values: np.ndarray) -> list[float | None]:
    """JSON has no infinity and no NaN: null stands for both."""
    return [value if np.isfinite(value) else None for value in values.tolist()]
