"""Table 1, Table 2 and the points of Figure 4, ours beside the paper's, as Markdown and CSV."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from osteomet.evaluation.roc import AreaTest, delong_test
from osteomet.evaluation.statistics import Estimate
from osteomet.evaluation.tables import DASH, interval, number
from osteomet.reporting.reproduce_paper import (
    ACCURACY,
    AUC,
    DSC,
    F1,
    OURS,
    SENSITIVITY,
    SIDES,
    SPECIFICITY,
    VOXEL_SENSITIVITY,
    VOXEL_SPECIFICITY,
    Printed,
    paper_row,
    printed,
)
from osteomet.reporting.reproduce_results import Reproduction, SideResult

TABLE_1_FIGURES = (
    ("Dice per patient", DSC),
    ("Dice pooled", DSC),
    ("Dice per lesion", DSC),
    ("voxel sensitivity per patient", VOXEL_SENSITIVITY),
    ("voxel specificity per patient", VOXEL_SPECIFICITY),
)
"""Ours and the paper's name. It does not say over what its DSC is taken: each reading is here."""

TABLE_2_FIGURES = (
    ("accuracy, all patients", ACCURACY),
    ("AUC, all patients", AUC),
    ("sensitivity, all patients", SENSITIVITY),
    ("specificity, all patients", SPECIFICITY),
    ("F1, all patients", F1),
)
"""Of all patients: one in whom nothing was found counts as wrong, and as undecided for the AUC."""


@dataclass(frozen=True)
class Beside:
    """One figure of one architecture beside the paper's.

    Attributes:
        architecture: ours.
        row: the paper's, beside which it stands.
        side: train or test.
        figure: what ours is called in an evaluation.
        ours: measured.
        paper: printed.
    """

    architecture: str
    row: str
    side: str
    figure: str
    ours: Estimate
    paper: Printed


def table_1(reproduction: Reproduction) -> list[Beside]:
    """Return the figures of segmentation."""
    return list(_beside(reproduction, TABLE_1_FIGURES))


def table_2(reproduction: Reproduction) -> list[Beside]:
    """Return the figures of the primary."""
    return list(_beside(reproduction, TABLE_2_FIGURES))


def _beside(reproduction: Reproduction, figures: Sequence[tuple[str, str]]) -> Iterator[Beside]:
    for result in reproduction.results:
        row = paper_row(result.name)
        for side in SIDES:
            for ours, theirs in figures:
                estimate = result.sides[side].figures[ours]
                yield Beside(
                    result.name, row, side, ours, estimate, printed(theirs, row, side)
                )  # fmt: skip


def beside_csv(rows: Sequence[Beside]) -> str:
    """Return CSV, one figure a line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        (
            *("architecture", "paper_architecture", "patients", "figure"),
            *("value", "low", "high", "interval_by", "n", "unit", "events", "note"),
            *("paper_table", "paper_interval", "paper_abstract"),
        )
    )
    for one in rows:
        ours, paper = one.ours, one.paper
        writer.writerow(
            (
                *(one.architecture, one.row, one.side, one.figure),
                *(ours.value, ours.low, ours.high, ours.method),
                *(ours.n, ours.unit, ours.events, ours.note),
                *(paper.table, paper.interval, paper.abstract),
            )
        )
    return text.getvalue()


Table = tuple[tuple[str, ...], ...]
"""Rows of cells, the heading first."""


def readable_table_1(reproduction: Reproduction) -> Table:
    """Return Table 1 for people: ours, its interval, and both numbers of the paper."""
    whose = ("Architecture", "Patients", "Figure")
    head = (*whose, "Ours", "95% interval", "n", "Table 1", "Abstract")
    return (head, *(_readable(one) for one in table_1(reproduction)))


def _readable(one: Beside) -> tuple[str, ...]:
    ours = one.ours
    return (
        *(one.architecture, one.side, one.figure),
        *(number(ours.value), interval(ours.low, ours.high), f"{ours.n} {ours.unit}"),
        *(one.paper.table or DASH, one.paper.abstract or DASH),
    )


def readable_table_2(reproduction: Reproduction) -> Table:
    """Return Table 2 for people, in the paper's form: each cell is ours / the paper's.

    The last column tests the AUC against that of the paper's own architecture.
    """
    head = (
        *("Architecture", "Paper's row", "Patients", "n lung + other"),
        *("Accuracy", "AUC", "95% interval", "Sensitivity", "Specificity", "F1"),
        "p of AUC against ours",
    )
    rows = table_2(reproduction)
    lines = []
    for result in reproduction.results:
        for side in SIDES:
            cells = {
                one.figure: one
                for one in rows
                if (one.architecture, one.side) == (result.name, side)
            }
            area = cells["AUC, all patients"]
            at = result.sides[side]
            lines.append(
                (
                    *(result.name, paper_row(result.name), side, f"{at.lung} + {at.other}"),
                    _pair(cells["accuracy, all patients"]),
                    _pair(area),
                    f"{interval(area.ours.low, area.ours.high)} / {area.paper.interval}",
                    _pair(cells["sensitivity, all patients"]),
                    _pair(cells["specificity, all patients"]),
                    _pair(cells["F1, all patients"]),
                    _p_value(reproduction, result.name, side),
                )
            )
    return (head, *lines)


def _pair(one: Beside) -> str:
    return f"{number(one.ours.value)} / {one.paper.table}"


def _p_value(reproduction: Reproduction, name: str, side: str) -> str:
    tested = against_ours(reproduction, name, side)
    return DASH if tested is None else number(tested.p_value, 3)


def against_ours(reproduction: Reproduction, name: str, side: str) -> AreaTest | None:
    """Test an AUC against that of the paper's own architecture on the same patients.

    None where that is this one, or not done, or where DeLong's test needs more patients.
    """
    by_name = {result.name: result for result in reproduction.results}
    own = [one for one in by_name if paper_row(one) == OURS]
    if not own or name == own[0]:
        return None
    theirs, ours = by_name[own[0]].sides[side], by_name[name].sides[side]
    return delong_test(ours.is_lung, ours.p_lung, _in_order(theirs, ours.names))


def _in_order(side: SideResult, names: Sequence[str]) -> Float[np.ndarray, " n"]:
    place = {name: index for index, name in enumerate(side.names)}
    return side.p_lung[[place[name] for name in names]]


def to_markdown(table: Table) -> str:
    """Return a table as Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in table]
    lines.insert(1, "| " + " | ".join("---" for _ in table[0]) + " |")
    return "\n".join(lines) + "\n"


def figure_4_csv(reproduction: Reproduction) -> str:
    """Return the points of every curve."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ("architecture", "patients", "found", "threshold", "sensitivity", "specificity")
    )
    for result in reproduction.results:
        for side in SIDES:
            for kind in ("lung", "other"):
                curve = result.sides[side].roc(lung=kind == "lung")
                points = zip(
                    curve.thresholds.tolist(),
                    curve.sensitivity.tolist(),
                    curve.specificity.tolist(),
                    strict=True,
                )
                writer.writerows((result.name, side, kind, *point) for point in points)
    return text.getvalue()
