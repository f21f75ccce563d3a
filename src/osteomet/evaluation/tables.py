"""Figures as tables: Markdown for people, CSV for spreadsheets, JSON for programs.

Beside every figure stand its interval, what it was taken over and how many events it counts.
A figure that is not defined is a dash in Markdown, empty in CSV and null in JSON.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from osteomet.evaluation.cohort import Band, Evaluation
from osteomet.evaluation.comparison import Difference
from osteomet.evaluation.lung_threshold import KEY
from osteomet.evaluation.statistics import BOOTSTRAP, CONFIDENCE, Estimate

DASH = "\N{EN DASH}"


def to_markdown(estimates: Sequence[Estimate]) -> str:
    """Return a Markdown table."""
    rows = [("Figure", "Value", f"{CONFIDENCE:.0%} interval", "n", "Events", "Note")]
    rows += [
        (
            one.name,
            number(one.value),
            interval(one.low, one.high),
            f"{one.n} {one.unit}",
            DASH if one.events is None else str(one.events),
            note_with_method(one),
        )
        for one in estimates
    ]
    return _markdown(rows)


def full_markdown(evaluation: Evaluation, differences: Sequence[Difference] = ()) -> str:
    """Return every figure under its heading, and the comparison where there is one."""
    parts = [
        f"{evaluation.patients} patients, {len(evaluation.scans)} scans; bootstrap of "
        f"{evaluation.resamples} resamples of patients, seed {evaluation.seed}.\n"
    ]
    parts += [
        f"## {section}\n\n{to_markdown(estimates)}"
        for section, estimates in evaluation.sections.items()
    ]
    if differences:
        parts.append(f"## Difference of two models\n\n{differences_markdown(differences)}")
    return "\n".join(parts)


def differences_markdown(differences: Sequence[Difference]) -> str:
    """Return a Markdown table of a comparison."""
    rows = [("Figure", "Ours", "Theirs", "Difference", "95% interval", "p", "n", "By")]
    rows += [
        (
            one.name,
            number(one.ours),
            number(one.theirs),
            number(one.difference),
            interval(one.low, one.high),
            number(one.p_value, 4),
            counts(one),
            one.method,
        )
        for one in differences
    ]
    return _markdown(rows)


def to_csv(rows: Sequence[Estimate]) -> str:
    """Return CSV with a header; the columns are the fields of ``Estimate``."""
    return _csv([field.name for field in fields(Estimate)], [asdict(one) for one in rows])


def full_csv(evaluation: Evaluation) -> str:
    """Return CSV of every figure, its section first."""
    rows = [
        {"section": section, **asdict(one)}
        for section, estimates in evaluation.sections.items()
        for one in estimates
    ]
    return _csv(["section", *(field.name for field in fields(Estimate))], rows)


def differences_csv(differences: Sequence[Difference]) -> str:
    """Return CSV of a comparison; the columns are the fields of ``Difference``."""
    names = [field.name for field in fields(Difference)]
    return _csv(names, [asdict(one) for one in differences])


def to_json(evaluation: Evaluation, differences: Sequence[Difference] = ()) -> str:
    """Return figures, curves and one entry per scan and patient as JSON."""
    threshold = evaluation.options.lung_threshold
    best, index = evaluation.curves.roc.youden()
    content = {
        "confidence": CONFIDENCE,
        "resamples": evaluation.resamples,
        "seed": evaluation.seed,
        "scans": len(evaluation.scans),
        "patients": evaluation.patients,
        "operating_threshold": evaluation.operating_threshold,
        "lung_threshold": {"value": threshold.value, "source": threshold.source},
        # Of these patients, and so never for them.
        KEY: {"value": _finite(best) if np.isfinite(index) else None, "youden": _finite(index)},
        "surface_tolerance_mm": evaluation.options.tolerance_mm,
        "figures": [asdict(one) for one in evaluation.estimates],
        "sections": {
            section: [asdict(one) for one in estimates]
            for section, estimates in evaluation.sections.items()
        },
        **_curves(evaluation),
        "differences": [asdict(one) for one in differences],
        "by_scan": _by_scan(evaluation),
        "by_patient": [
            {"patient_id": one.patient_id, "primary": one.primary, "p_lung": one.p_lung}
            for one in evaluation.cohort.primaries
        ],
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def number(value: float | None, digits: int = 3) -> str:
    """Write a figure, or a dash where it is not defined."""
    return DASH if value is None else f"{value:.{digits}f}"


def interval(low: float | None, high: float | None) -> str:
    """Write an interval, or a dash where there is none."""
    return DASH if low is None or high is None else f"{low:.3f} to {high:.3f}"


def note_with_method(one: Estimate) -> str:
    """Return the note, beginning with where the interval comes from if not the bootstrap."""
    if one.method == BOOTSTRAP or one.low is None:
        return one.note
    return f"{one.method} interval; {one.note}" if one.note else f"{one.method} interval"


def counts(one: Difference) -> str:
    """Write how much a difference rests on: one number where both models have the same."""
    n = str(one.n) if one.n == one.n_theirs else f"{one.n} and {one.n_theirs}"
    return f"{n} {one.unit}"


def _markdown(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _curves(evaluation: Evaluation) -> dict[str, Any]:
    curves = evaluation.curves
    bins = curves.reliability
    return {
        "froc": {
            "thresholds": _plain(curves.froc.thresholds),
            "sensitivity": _plain(curves.froc.sensitivity),
            "false_positives_per_scan": _plain(curves.froc.false_positives),
            "band": _band("false_positives_per_scan", curves.froc_band),
        },
        "roc": {
            "thresholds": _plain(curves.roc.thresholds),
            "sensitivity": _plain(curves.roc.sensitivity),
            "specificity": _plain(curves.roc.specificity),
            "band": _band("specificity", curves.roc_band),
        },
        "calibration": {
            "edges": _plain(bins.edges),
            "patients": _plain(bins.patients),
            "lung": _plain(bins.lung),
            "band": _band("predicted", curves.reliability_band),
        },
        "decision": {
            "band": _band("threshold", curves.benefit),
            "acting_on_all": _plain(curves.benefit_of_all),
        },
    }


def _by_scan(evaluation: Evaluation) -> list[dict[str, Any]]:
    return [
        {
            "scan_id": scan.scan_id,
            "patient_id": scan.patient_id,
            "lesions": scan.reported.lesions,
            "hits": int(scan.reported.hits.sum()),
            "false_positives": int((~scan.reported.hits).sum()),
            "dice_per_lesion": _plain(scan.dice),
            "surface_agreement_per_lesion": _plain(scan.surface_agreement),
            "diameters_mm": _plain(scan.diameters_mm.round(2)),
            "dice": _finite(scan.overlap.dice),
            "surface_agreement": _finite(scan.surfaces.agreement),
            "primary": scan.primary,
            "p_lung": scan.p_lung,
        }
        for scan in evaluation.scans
    ]


def _band(axis: str, band: Band) -> dict[str, list[float | None]]:
    return {
        axis: _plain(band.at),
        "value": _plain(band.value),
        "low": _plain(band.low),
        "high": _plain(band.high),
    }


def _plain(values: np.ndarray) -> list[float | None]:
    return [_finite(value) for value in values.tolist()]


def _finite(value: float) -> float | None:
    """JSON has no infinity and no NaN: null stands for both."""
    return value if np.isfinite(value) else None
