"""The curves of an evaluation, drawn once each, as PNG for files and as SVG for the page.

Every plot says over how many patients or lesions it was drawn, and shades the 95 % interval.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from osteomet.evaluation.cohort import Band, Evaluation
from osteomet.evaluation.detection_figures import BY_SIZE
from osteomet.evaluation.statistics import Estimate

BLUE, ORANGE, GREY = "#0b5cad", "#d06a00", "#6b7a88"
SIZE_INCHES = (4.6, 4.0)
DPI = 160
STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e8ed",
    "axes.axisbelow": True,
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    # The same evaluation gives the same bytes.
    "svg.hashsalt": "osteomet",
}

Draw = Callable[[Axes, Evaluation], None]


@dataclass(frozen=True)
class Plot:
    """A drawn curve.

    Attributes:
        name: of its file, without suffix.
        caption: what it shows and how to read it.
    """

    name: str
    title: str
    caption: str
    png: bytes
    svg: bytes


def draw_plots(evaluation: Evaluation) -> list[Plot]:
    """Draw the curves of an evaluation; one that is not defined says so."""
    return [_plot(name, title, caption, draw, evaluation) for name, title, caption, draw in PLOTS]


def _plot(name: str, title: str, caption: str, draw: Draw, evaluation: Evaluation) -> Plot:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title)
        draw(axes, evaluation)
        pictures = []
        for form, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=form, dpi=DPI, metadata=metadata)
            pictures.append(buffer.getvalue())
    return Plot(name, title, caption, *pictures)


def _froc(axes: Axes, evaluation: Evaluation) -> None:
    curve, band = evaluation.froc, evaluation.curves.froc_band
    axes.set(xlabel="False positives per scan", ylabel="Sensitivity per lesion", ylim=(0, 1.02))
    axes.set_xscale("log", base=2)
    axes.set_xlim(band.at[0], band.at[-1])
    axes.set_xticks([0.125, 0.25, 0.5, 1, 2, 4, 8], ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    if not curve.lesions:
        _say(axes, "no lesion: no sensitivity")
        return
    _shade(axes, band)
    label = f"{int(curve.lesions)} lesions, {int(curve.scans)} scans"
    axes.step(curve.false_positives, curve.sensitivity, where="post", color=BLUE, label=label)
    reported = evaluation["sensitivity as reported"].value
    at = evaluation["false positives per scan as reported"].value
    if reported is not None and at is not None:
        axes.plot([at], [reported], "o", color=ORANGE, label="as reported")
    axes.legend(loc="lower right")


def _roc(axes: Axes, evaluation: Evaluation) -> None:
    curve, band = evaluation.curves.roc, evaluation.curves.roc_band
    area = evaluation["AUC"]
    axes.set(
        xlabel="1 - specificity", ylabel="Sensitivity for lung", xlim=(-0.01, 1.01), ylim=(0, 1.02)
    )
    axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=0.8)
    if area.value is None:
        _say(axes, "patients of one kind only: no ROC")
        return
    order = np.argsort(1 - band.at)
    _shade(axes, Band(1 - band.at[order], band.value[order], band.low[order], band.high[order]))
    label = f"AUC {_with_interval(area)}\n{area.events} lung, {area.n - (area.events or 0)} other"
    axes.plot(1 - curve.specificity, curve.sensitivity, color=BLUE, label=label)
    sensitivity, specificity = evaluation["sensitivity"], evaluation["specificity"]
    if sensitivity.value is not None and specificity.value is not None:
        threshold = evaluation.options.lung_threshold.value
        axes.plot(
            [1 - specificity.value],
            [sensitivity.value],
            "o",
            color=ORANGE,
            label=f"threshold {threshold:.3g}",
        )
    axes.legend(loc="lower right")


def _calibration(axes: Axes, evaluation: Evaluation) -> None:
    bins, band = evaluation.curves.reliability, evaluation.curves.reliability_band
    axes.set(xlabel="Predicted p(lung)", ylabel="Share of lung", xlim=(0, 1), ylim=(0, 1.02))
    axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=0.8)
    there = np.isfinite(band.value)
    if not there.any():
        _say(axes, "no patient with a prediction")
        return
    error = np.abs(np.stack([band.value - band.low, band.high - band.value]))[:, there]
    axes.errorbar(
        band.at[there], band.value[there], yerr=error, fmt="o", color=BLUE, capsize=2, linewidth=1
    )
    for x, y, n in zip(
        band.at[there], band.value[there], bins.patients[there].astype(int), strict=True
    ):
        axes.annotate(f"n={n}", (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7.5)
    axes.text(0.03, 0.95, f"ECE {_with_interval(evaluation['expected calibration error'])}")


def _benefit(axes: Axes, evaluation: Evaluation) -> None:
    band, everyone = evaluation.curves.benefit, evaluation.curves.benefit_of_all
    axes.set(xlabel="Acting from p(lung) of", ylabel="Net benefit", xlim=(0, 1))
    if not np.isfinite(band.value).any():
        _say(axes, "no patient with a prediction")
        return
    axes.axhline(0, color=GREY, linewidth=0.8, label="act on no one")
    axes.plot(band.at, everyone, "--", color=ORANGE, label="act on everyone")
    _shade(axes, band)
    n = evaluation["AUC"].n
    axes.plot(band.at, band.value, color=BLUE, label=f"act on the prediction, {n} patients")
    top = float(np.nanmax([*band.value, *everyone, 0.01]))
    axes.set_ylim(-0.35 * top, 1.15 * top)
    axes.legend(loc="upper right")


def _sizes(axes: Axes, evaluation: Evaluation) -> None:
    rows = evaluation.sections[BY_SIZE]
    axes.set(ylabel="Sensitivity as reported", ylim=(0, 1.02), xlabel="Diameter of the lesion")
    axes.grid(visible=False, axis="x")
    for place, one in enumerate(rows):
        if one.value is None:
            continue
        axes.bar(place, one.value, color=BLUE, alpha=0.75, width=0.6)
        if one.low is not None and one.high is not None:
            axes.vlines(place, one.low, one.high, color="black", linewidth=1)
    names = [one.name.removeprefix("sensitivity, ") + f"\nn={one.n}" for one in rows]
    axes.set_xticks(range(len(rows)), names)


def _shade(axes: Axes, band: Band) -> None:
    there = np.isfinite(band.low)
    axes.fill_between(
        band.at[there], band.low[there], band.high[there], color=BLUE, alpha=0.15, linewidth=0
    )


def _say(axes: Axes, sentence: str) -> None:
    axes.text(0.5, 0.5, sentence, transform=axes.transAxes, ha="center", color=GREY)


def _with_interval(one: Estimate) -> str:
    if one.value is None:
        return "not defined"
    if one.low is None or one.high is None:
        return f"{one.value:.3f}"
    return f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})"


PLOTS: tuple[tuple[str, str, str, Draw], ...] = (
    (
        "froc",
        "FROC, per scan",
        "Lesions found against false positives per scan, for every score from which a candidate "
        "could be reported. Band: 95 % interval over resampled patients.",
        _froc,
    ),
    (
        "sizes",
        "Sensitivity by lesion size",
        "Lesions found at the operating threshold, by the diameter of a sphere of the lesion's "
        "volume. Lines: 95 % interval over resampled patients.",
        _sizes,
    ),
    (
        "roc",
        "ROC of the primary, per patient",
        "Patients of known primary for whom there is a prediction. Band: 95 % interval of the "
        "sensitivity over resampled patients; the interval of the AUC is DeLong's.",
        _roc,
    ),
    (
        "calibration",
        "Calibration of p(lung)",
        "Share of lung patients against the mean prediction in ten bins. Lines: exact 95 % "
        "interval of each share. On the diagonal a probability means what it says.",
        _calibration,
    ),
    (
        "decision",
        "Decision curve of p(lung)",
        "What acting on the prediction is worth, in lung patients per patient, for anyone who "
        "would act from a given probability. It helps where it is above both other lines.",
        _benefit,
    ),
)
