"""Figure 4: the ROC curves of all architectures, for lung and for other, training and test."""

import io

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from osteomet.reporting.evaluation_plots import DPI, GREY, STYLE
from osteomet.reporting.reproduce_paper import SIDES, paper_row, printed
from osteomet.reporting.reproduce_results import Reproduction

COLOURS = ("#0b5cad", "#d06a00", "#2f8f4e", "#a23b72", "#5b5f97", "#7a5c00", "#00798c")
DASHES = ("-", "--", "-.", ":")
"""With the colours, so that curves can be told apart in grey too."""
SIZE_INCHES = (9.4, 8.6)
TITLES = {"train": "training patients", "test": "test patients"}


def draw_figure_4(reproduction: Reproduction) -> tuple[bytes, bytes]:
    """Return the figure as PNG and as SVG; a curve that is not defined is left out."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        for row, side in enumerate(SIDES):
            for column, kind in enumerate(("lung", "other")):
                axes = figure.add_subplot(2, 2, 2 * row + column + 1)
                axes.set_title(f"{kind}, {TITLES[side]}")
                _draw(axes, reproduction, side, kind)
        pictures = []
        for form, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=form, dpi=DPI, metadata=metadata)
            pictures.append(buffer.getvalue())
    return pictures[0], pictures[1]


def _draw(axes: Axes, reproduction: Reproduction, side: str, kind: str) -> None:
    axes.set(
        xlabel="1 - specificity",
        ylabel=f"Sensitivity for {kind}",
        xlim=(-0.01, 1.01),
        ylim=(0, 1.02),
    )
    axes.plot([0, 1], [0, 1], "-", color=GREY, linewidth=0.8)
    for place, result in enumerate(reproduction.results):
        area = result.sides[side].figures["AUC, all patients"].value
        if area is None:
            continue
        curve = result.sides[side].roc(lung=kind == "lung")
        paper = printed("AUC", paper_row(result.name), side).table
        axes.plot(
            1 - curve.specificity,
            curve.sensitivity,
            DASHES[place % len(DASHES)],
            color=COLOURS[place % len(COLOURS)],
            label=f"{result.name}: {area:.3f} (paper {paper})",
        )
    if len(axes.lines) == 1:
        return
    lung, other = reproduction.patients[side]
    axes.legend(loc="lower right", title=f"AUC; {lung} lung, {other} other", fontsize=8)
