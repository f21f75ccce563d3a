"""``evaluation.html``: an evaluation on one page that needs nothing else, and the files beside it.

The figures to quote stand first, then the curves, then every figure under its heading. n and
events stand beside each.
"""

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from osteomet.errors import ReportError
from osteomet.evaluation import tables
from osteomet.evaluation.cohort import Evaluation
from osteomet.evaluation.comparison import Difference
from osteomet.evaluation.statistics import CONFIDENCE, Estimate
from osteomet.reporting.evaluation_plots import Plot, draw_plots
from osteomet.reporting.files import write_atomically
from osteomet.reporting.html import NOTICE, page_environment

PAGE = "evaluation.html"


@dataclass(frozen=True)
class Row:
    """A figure as the page writes it."""

    name: str
    value: str
    interval: str
    n: str
    events: str
    note: str


def write_evaluation(
    evaluation: Evaluation,
    folder: Path,
    differences: Sequence[Difference] = (),
    title: str = "",
) -> Path:
    """Write an evaluation as Markdown, CSV, JSON, PNG and one page; return the page.

    ``evaluation.md`` holds the figures to quote first, ``evaluation_full.md`` all of them.

    Args:
        evaluation: what was measured.
        folder: made where it is missing; old files are replaced, each in one step.
        differences: of another model on the same patients.
        title: what was evaluated, for the page.

    Raises:
        ReportError: a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReportError(
            f"{folder}: tables cannot be written: {error.strerror}; expected a writable folder"
        ) from error
    plots = draw_plots(evaluation)
    texts = {
        "evaluation.md": tables.to_markdown(evaluation.estimates),
        "evaluation_full.md": tables.full_markdown(evaluation, differences),
        "evaluation.csv": tables.full_csv(evaluation),
        "evaluation.json": tables.to_json(evaluation, differences),
        PAGE: render_page(evaluation, plots, differences, title),
    }
    if differences:
        texts["differences.csv"] = tables.differences_csv(differences)
    for name, text in texts.items():
        write_atomically(folder / name, text.encode())
    for plot in plots:
        write_atomically(folder / f"{plot.name}.png", plot.png)
    return folder / PAGE


def render_page(
    evaluation: Evaluation,
    plots: Sequence[Plot],
    differences: Sequence[Difference] = (),
    title: str = "",
) -> str:
    """Return the page of ``write_evaluation`` as text."""
    lesions = [scan.reported.lesions for scan in evaluation.scans]
    primaries = Counter(one.primary.value for one in evaluation.cohort.primaries)
    return (
        page_environment()
        .get_template("evaluation.html.j2")
        .render(
            title=title,
            notice=NOTICE,
            confidence=f"{CONFIDENCE:.0%}",
            evaluation=evaluation,
            patients=evaluation.patients,
            lesion_free=int((evaluation.cohort.lesions_per_patient == 0).sum()),
            lesions=sum(lesions),
            primaries=primaries,
            headline=[_row(one) for one in evaluation.estimates],
            sections={
                section: [_row(one) for one in estimates]
                for section, estimates in evaluation.sections.items()
            },
            plots=[(plot, _data_uri(plot.svg)) for plot in plots],
            differences=[_difference(one) for one in differences],
        )
    )


def _row(one: Estimate) -> Row:
    return Row(
        one.name,
        tables.number(one.value),
        tables.interval(one.low, one.high),
        f"{one.n} {one.unit}",
        tables.DASH if one.events is None else str(one.events),
        tables.note_with_method(one),
    )


def _difference(one: Difference) -> dict[str, str]:
    apart = one.low is not None and one.high is not None and not one.low <= 0 <= one.high
    return {
        "name": one.name,
        "ours": tables.number(one.ours),
        "theirs": tables.number(one.theirs),
        "difference": tables.number(one.difference),
        "interval": tables.interval(one.low, one.high),
        "p": tables.number(one.p_value, 4),
        "n": tables.counts(one),
        "method": one.method,
        "kind": "apart" if apart else "",
    }


def _data_uri(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
