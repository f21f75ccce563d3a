"""What an audit says, in Markdown."""

from collections.abc import Sequence

from osteomet.evaluation.audit import (
    Matrix,
    PrintedRow,
    all_matrices,
    common_sizes,
    implied_share,
    matrices,
)
from osteomet.evaluation.tables import DASH

LISTED = 12
"""Matrices and sizes that are listed; the others are counted."""


def audit_markdown(
    rows: Sequence[PrintedRow], cohorts: Sequence[tuple[int, int]], max_patients: int
) -> str:
    """Return which counts can lie behind printed figures.

    Args:
        rows: of one table, at least one.
        cohorts: positives and negatives that the paper states, to be tried.
        max_patients: how many patients are tried otherwise.
    """
    parts = [_row_text(row, max_patients) for row in rows]
    if len(rows) > 1:
        parts.append(_common_text(rows, max_patients))
    parts += [_cohort_text(rows, cohort) for cohort in cohorts]
    return "\n".join(parts)


def _row_text(row: PrintedRow, max_patients: int) -> str:
    found = all_matrices(row, max_patients)
    lines = [f"## {row.name}", "", _printed(row), ""]
    share = implied_share(row)
    if share is not None:
        low, high = share
        lines.append(f"The three shares of patients imply {low:.1%} to {high:.1%} positive.")
    if not found:
        lines.append(f"No confusion matrix of up to {max_patients} patients gives these figures.")
        return "\n".join(lines) + "\n"
    lines += [
        f"{len(found)} confusion matrices of up to {max_patients} patients give these figures; "
        + ("the smallest:" if len(found) > LISTED else "all:"),
        "",
        "| n | Positive | Negative | TP | FN | FP | TN |",
        "|---|----------|----------|----|----|----|----|",
        *(
            f"| {m.n} | {m.positives} | {m.negatives} | {m.tp} | {m.fn} | {m.fp} | {m.tn} |"
            for m in found[:LISTED]
        ),
        "",
        "Exact 95% intervals of the smallest:",
        "",
        *_intervals(found[0]),
    ]
    return "\n".join(lines) + "\n"


def _common_text(rows: Sequence[PrintedRow], max_patients: int) -> str:
    sizes = common_sizes(rows, max_patients)
    if not sizes:
        return f"## All rows\n\nNo cohort of up to {max_patients} patients gives all rows.\n"
    shown = ", ".join(f"{p + n} = {p}/{n}" for p, n in sizes[:LISTED])
    rest = len(sizes) - LISTED
    more = f", and {rest} more" if rest > 0 else ""
    return (
        f"## All rows\n\nCohorts of up to {max_patients} patients that give every row, as "
        f"positive/negative: {shown}{more}.\n"
    )


def _cohort_text(rows: Sequence[PrintedRow], cohort: tuple[int, int]) -> str:
    positives, negatives = cohort
    lines = [f"## Stated cohort {positives + negatives} = {positives}/{negatives}", ""]
    for row in rows:
        found = list(matrices(row, positives, negatives))
        if found:
            listed = "; ".join(f"TP {m.tp}, FN {m.fn}, FP {m.fp}, TN {m.tn}" for m in found[:3])
            lines.append(f"- {row.name}: possible: {listed}" + ("; ..." if len(found) > 3 else ""))
        else:
            lines.append(f"- {row.name}: impossible: no confusion matrix of this cohort gives it")
    return "\n".join(lines) + "\n"


def _printed(row: PrintedRow) -> str:
    figures = {
        "accuracy": row.accuracy,
        "sensitivity": row.sensitivity,
        "specificity": row.specificity,
        "F1": row.f1,
    }
    return "Printed: " + ", ".join(
        f"{name} {figure.text}" for name, figure in figures.items() if figure is not None
    )


def _intervals(matrix: Matrix) -> list[str]:
    lines = ["| Figure | Count | 95% interval |", "|--------|-------|--------------|"]
    for name, (events, n, bounds) in matrix.intervals().items():
        text = DASH if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"
        lines.append(f"| {name} | {events}/{n} | {text} |")
    return lines
