"""``reproduce.html``: the paper's tables and figure with ours beside, and the files behind it."""

import base64
from collections.abc import Sequence
from pathlib import Path

from osteomet.errors import ReportError
from osteomet.reporting.files import write_atomically
from osteomet.reporting.html import NOTICE, page_environment
from osteomet.reporting.reproduce_plots import draw_figure_4
from osteomet.reporting.reproduce_results import Reproduction
from osteomet.reporting.reproduce_tables import (
    Table,
    beside_csv,
    figure_4_csv,
    readable_table_1,
    readable_table_2,
    table_1,
    table_2,
    to_markdown,
)

PAGE = "reproduce.html"

CAUTIONS = (
    "The paper gives two sets of figures: those of its abstract and those of its tables. They "
    "differ throughout, so both stand here.",
    "The patients of its Table 2 are neither of its two centres: the smallest numbers that give "
    "the printed digits are 53 lung and 49 other patients in training, 26 and 18 in test.",
    "It does not say over what its DSC is taken, nor how lesions became a patient's prediction, "
    "nor where its threshold comes from. Ours is chosen on validation patients; on those the "
    "second stage was fitted as well, so that it is somewhat too sure of them.",
    "Training figures flatter: the detector has seen these patients and their primaries.",
    "A difference within the intervals is no difference. The p-values are DeLong's, of the same "
    "patients, and are not corrected for their number.",
    "The curve of other is the curve of lung turned round, with the same area: one score, two "
    "names. Both are drawn because the caption of the paper's figure names both, while its text "
    "says training and test.",
)
"""What a reader must know before comparing; ``osteomet audit`` shows the counts."""


def write_reproduction(reproduction: Reproduction, folder: Path) -> Path:
    """Write tables, figure and page; return the page.

    ``table1``, ``table2`` and ``figure4`` as CSV, the tables also as Markdown and the figure as
    PNG, and ``reproduce.md`` with both tables. Each file is replaced in one step.

    Args:
        reproduction: at least one architecture is done.
        folder: exists.

    Raises:
        ReportError: a file cannot be written.
    """
    if not reproduction.results:
        raise ReportError(f"{folder}: no architecture is done; expected at least one")
    first, second = readable_table_1(reproduction), readable_table_2(reproduction)
    png, svg = draw_figure_4(reproduction)
    texts = {
        "table1.csv": beside_csv(table_1(reproduction)),
        "table2.csv": beside_csv(table_2(reproduction)),
        "figure4.csv": figure_4_csv(reproduction),
        "table1.md": to_markdown(first),
        "table2.md": to_markdown(second),
        "reproduce.md": markdown_page(reproduction, first, second),
        PAGE: render_page(reproduction, first, second, svg),
    }
    for name, text in texts.items():
        write_atomically(folder / name, text.encode())
    write_atomically(folder / "figure4.png", png)
    return folder / PAGE


def markdown_page(reproduction: Reproduction, first: Table, second: Table) -> str:
    """Return both tables with what they rest on."""
    patients = "; ".join(
        f"{side}: {lung} lung, {other} other"
        for side, (lung, other) in reproduction.patients.items()
    )
    cautions = "".join(f"- {sentence}\n" for sentence in CAUTIONS)
    missing = _missing(reproduction)
    return (
        f"# The paper's tables, ours beside\n\n{reproduction.protocol}. Patients: {patients}.\n"
        + (f"\nNot done yet: {', '.join(missing)}.\n" if missing else "")
        + f"\n## Table 1\n\n{to_markdown(first)}\n## Table 2, ours / the paper's\n\n"
        f"{to_markdown(second)}\n![Figure 4](figure4.png)\n\n## Before comparing\n\n{cautions}\n"
        f"{NOTICE}\n"
    )


def render_page(reproduction: Reproduction, first: Table, second: Table, figure: bytes) -> str:
    """Return the page as text."""
    return (
        page_environment()
        .get_template("reproduce.html.j2")
        .render(
            notice=NOTICE,
            reproduction=reproduction,
            missing=_missing(reproduction),
            tables=(
                ("Table 1: segmentation", first),
                ("Table 2: the primary, ours / the paper's", second),
            ),
            figure="data:image/svg+xml;base64," + base64.b64encode(figure).decode(),
            cautions=CAUTIONS,
            runs=_runs(reproduction),
        )
    )


def _missing(reproduction: Reproduction) -> Sequence[str]:
    done = {result.name for result in reproduction.results}
    return [name for name in reproduction.wanted if name not in done]


def _runs(reproduction: Reproduction) -> list[tuple[str, str, str, str]]:
    """Return name, training, threshold and minutes of each architecture."""
    return [
        (
            result.name,
            result.training,
            result.sides["test"].threshold,
            ", ".join(f"{stage} {s / 60:.1f}" for stage, s in result.seconds.items()),
        )
        for result in reproduction.results
    ]
