"""The paper's digits are copied right, and ours stand beside the right ones."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from osteomet.config import BACKBONES
from osteomet.errors import InputError, ReportError
from osteomet.evaluation.audit import PrintedRow, all_matrices
from osteomet.evaluation.roc import delong_test
from osteomet.evaluation.statistics import Estimate
from osteomet.reporting.reproduce_html import write_reproduction
from osteomet.reporting.reproduce_paper import OURS, SIDES, TABLE_2, paper_row, printed
from osteomet.reporting.reproduce_results import (
    ArchitectureResult,
    Reproduction,
    SideResult,
    read_side,
)
from osteomet.reporting.reproduce_tables import (
    TABLE_1_FIGURES,
    TABLE_2_FIGURES,
    against_ours,
    figure_4_csv,
    readable_table_2,
    table_1,
)

LUNG, OTHER = 6, 8


def side(seed: int) -> SideResult:
    """Return scores of 14 patients, in an order of their own."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(LUNG + OTHER)
    is_lung = (np.arange(LUNG + OTHER) < LUNG)[order]
    p_lung = np.clip(0.3 * is_lung + 0.7 * rng.random(LUNG + OTHER), 0, 1).round(1)
    names = [ours for ours, _ in (*TABLE_1_FIGURES, *TABLE_2_FIGURES)]
    figures = {
        name: Estimate(name, 14, "patients", value=0.5, low=0.25, high=0.75) for name in names
    }
    return SideResult(
        figures, tuple(f"p{n}" for n in order.tolist()), is_lung, p_lung, 14, "0.5, a test"
    )


def reproduction(*names: str) -> Reproduction:
    results = [
        ArchitectureResult(
            name, {one: side(2 * k + j) for j, one in enumerate(SIDES)}, {"train": 60.0}
        )
        for k, name in enumerate(names)
    ]
    patients = dict.fromkeys(("train", "val", "test"), (LUNG, OTHER))
    return Reproduction("Protocol P1", patients, (*names, "yolov8n"), tuple(results))


@pytest.mark.parametrize(("one_side", "lung", "other"), [("train", 53, 49), ("test", 26, 18)])
def test_printed_rows_are_possible_at_the_audit_s_sizes(
    one_side: str, lung: int, other: int
) -> None:
    """A wrong digit would leave no counts of patients that give the row."""
    for (name, which), row in TABLE_2.items():
        if which == one_side:
            accuracy, _, _, sensitivity, specificity, f1 = row
            figures = {"accuracy": accuracy, "sensitivity": sensitivity}
            parsed = PrintedRow.parse(name, {**figures, "specificity": specificity, "f1": f1})
            sizes = {(one.tp + one.fn, one.fp + one.tn) for one in all_matrices(parsed, 110)}
            assert (lung, other) in sizes, name


def test_printed_areas_lie_in_their_intervals() -> None:
    assert len(TABLE_2) == 10
    for row in TABLE_2.values():
        low, high = (float(bound) for bound in row[2].split(" to "))
        assert low < float(row[1]) < high


def test_every_backbone_has_a_row_and_the_paper_s_their_own() -> None:
    rows = {name: paper_row(name) for name in BACKBONES}
    assert set(rows.values()) == {name for name, _ in TABLE_2}
    assert rows["resnet50"] == "ResNet-50"
    assert rows["resnet101"] == rows["resnet34"] == "ResNet-101"
    assert rows["convnext_base"] == "ConvNeXt-Base"
    assert rows["convnextv2_base"] == rows["convnextv2_atto"] == OURS


def test_segmentation_stands_beside_the_paper_s_own_model_alone() -> None:
    assert printed("DSC", OURS, "test").table == "0.929"
    assert printed("DSC", "ResNet-50", "test").table == ""
    rows = table_1(reproduction("resnet18", "convnextv2_atto"))
    assert {one.paper.abstract for one in rows if one.architecture == "resnet18"} == {""}
    assert all(one.paper.abstract for one in rows if one.architecture == "convnextv2_atto")


def test_table_2_has_ours_and_theirs_and_a_test_on_the_same_patients() -> None:
    ours = reproduction("resnet18", "convnextv2_atto")
    head, *lines = readable_table_2(ours)
    cells = dict(zip(head, lines[1], strict=True))
    assert (cells["Architecture"], cells["Patients"]) == ("resnet18", "test")
    assert cells["n lung + other"] == "6 + 8"
    assert cells["AUC"] == "0.500 / 0.859"
    assert cells["95% interval"] == "0.250 to 0.750 / 0.713 to 1.000"
    assert lines[3][-1] == "\N{EN DASH}"  # its own architecture
    tested = against_ours(ours, "resnet18", "test")
    first, second = (result.sides["test"] for result in ours.results)
    scores = dict(zip(second.names, second.p_lung.tolist(), strict=True))
    expected = delong_test(first.is_lung, first.p_lung, np.array([scores[n] for n in first.names]))
    assert tested == expected
    assert tested is not None


def test_both_curves_have_the_area_of_scikit_learn() -> None:
    one = side(3)
    for lung in (True, False):
        curve = one.roc(lung=lung)
        area = np.trapezoid(curve.sensitivity, 1 - curve.specificity)
        truth, score = (one.is_lung, one.p_lung) if lung else (~one.is_lung, 1 - one.p_lung)
        assert area == pytest.approx(roc_auc_score(truth, score))


def test_points_of_the_figure_begin_and_end_in_the_corners() -> None:
    rows = list(csv.DictReader(io.StringIO(figure_4_csv(reproduction("convnextv2_atto")))))
    assert {(row["patients"], row["found"]) for row in rows} == {
        (one, kind) for one in SIDES for kind in ("lung", "other")
    }
    first, last = rows[0], [row for row in rows if row["found"] == "lung"][-1]
    assert (float(first["sensitivity"]), float(first["specificity"])) == (0, 1)
    assert (float(last["sensitivity"]), float(last["specificity"])) == (1, 0)


def test_page_says_what_is_not_done(tmp_path: Path) -> None:
    page = write_reproduction(reproduction("convnextv2_atto"), tmp_path)
    assert "Not done yet: yolov8n" in page.read_text(encoding="utf-8")
    assert "Not done yet: yolov8n" in (tmp_path / "reproduce.md").read_text(encoding="utf-8")
    with pytest.raises(ReportError, match="no architecture is done"):
        write_reproduction(reproduction(), tmp_path)


def test_file_that_is_no_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_side(tmp_path / "evaluation.json")
    (tmp_path / "evaluation.json").write_text(json.dumps({"by_patient": []}))
    with pytest.raises(InputError, match=r"is no evaluation\.json of this version"):
        read_side(tmp_path / "evaluation.json")
