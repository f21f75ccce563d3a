"""The page and files of an evaluation: complete, self-contained, and the same every time."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from evaluation_cases import candidate, case
from PIL import Image

from osteomet.errors import ReportError
from osteomet.evaluation.cohort import Evaluation, evaluate_predictions
from osteomet.evaluation.comparison import compare
from osteomet.findings import PrimaryTumour
from osteomet.reporting.evaluation_html import write_evaluation
from osteomet.reporting.evaluation_plots import PLOTS, draw_plots

FILES = {
    "evaluation.md",
    "evaluation_full.md",
    "evaluation.csv",
    "evaluation.json",
    "evaluation.html",
    *(f"{name}.png" for name, *_ in PLOTS),
}

A, FAR = (0, 0, 0, 4, 4, 4), (0, 0, 30, 4, 4, 34)


def evaluated(shift: float = 0.0) -> Evaluation:
    """Evaluate 24 patients, a third of them with lung cancer and a quarter without a lesion."""
    generator = np.random.default_rng(0)
    cases = []
    for n in range(24):
        primary = PrimaryTumour.LUNG if n % 3 == 0 else PrimaryTumour.OTHER
        p_lung = float(np.clip(generator.normal(0.6 - shift if n % 3 == 0 else 0.4, 0.2), 0, 1))
        scores = generator.random(2).tolist()
        found = [candidate(A, scores[0]), candidate(FAR, scores[1])]
        cases.append(case(f"p{n}", [A] if n % 4 else [], found, primary, p_lung))
    return evaluate_predictions(cases, resamples=50)


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluated()


@pytest.fixture(scope="module")
def page(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation") / "new"
    return write_evaluation(evaluation, folder, title="<b>model</b> on cohort")


def test_every_figure_stands_on_the_page(evaluation: Evaluation, page: Path) -> None:
    assert {path.name for path in page.parent.iterdir()} == FILES
    text = page.read_text()
    for section, estimates in evaluation.sections.items():
        assert f"<h3>{section}</h3>" in text
        for one in estimates:
            assert f">{one.n} {one.unit}</td>" in text
    assert "&lt;b&gt;model&lt;/b&gt; on cohort" in text
    assert "Difference of two models" not in text


def test_the_page_needs_nothing_else(page: Path) -> None:
    text = page.read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"<script|(src|href)=\"(?!data:|#)", text)
    assert len(re.findall(r"data:image/svg\+xml;base64,", text)) == len(PLOTS)


def test_a_comparison_is_shown(evaluation: Evaluation, tmp_path: Path) -> None:
    differences = compare(evaluation, evaluated(shift=0.3))
    text = write_evaluation(evaluation, tmp_path, differences).read_text()
    assert "Difference of two models" in text
    assert "paired DeLong" in text
    assert (tmp_path / "differences.csv").read_text().count("\n") == len(differences) + 1
    assert "## Difference of two models" in (tmp_path / "evaluation_full.md").read_text()


def test_plots_are_pictures_and_repeat_byte_for_byte(evaluation: Evaluation, page: Path) -> None:
    for plot in draw_plots(evaluation):
        assert page.with_name(f"{plot.name}.png").read_bytes() == plot.png
        picture = np.asarray(Image.open(io.BytesIO(plot.png)).convert("L"))
        assert picture.shape[1] > 600
        assert (picture < 128).mean() > 0.002
        assert plot.svg.startswith(b"<?xml")


def test_a_cohort_without_anything_has_a_page(tmp_path: Path) -> None:
    scan = case("c", [], [], PrimaryTumour.UNKNOWN, None)
    nothing = evaluate_predictions([scan], resamples=10)
    text = write_evaluation(nothing, tmp_path).read_text()
    assert "\N{EN DASH}" in text


def test_a_folder_that_cannot_be_written_is_named(evaluation: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="file"):
        write_evaluation(evaluation, tmp_path / "file")
