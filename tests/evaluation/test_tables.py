"""Tables in three forms, with figures that are not defined."""

import csv
import io
import json

import pytest
from evaluation_cases import candidate, case

from osteomet.evaluation.cohort import Evaluation, evaluate_predictions
from osteomet.evaluation.statistics import Estimate, proportion
from osteomet.evaluation.tables import DASH, full_csv, full_markdown, to_csv, to_json, to_markdown
from osteomet.findings import PrimaryTumour

BOX = (0, 0, 0, 4, 4, 4)
ESTIMATES = [
    Estimate("AUC", 12, "patients", events=5, note="lung", value=0.8125, low=0.61, high=0.95),
    Estimate("Dice", 0, "lesions"),
]


@pytest.fixture
def evaluation() -> Evaluation:
    scan = case("a", [BOX], [candidate(BOX, 0.9)], PrimaryTumour.LUNG, 0.7)
    return evaluate_predictions([scan], resamples=10)


def test_markdown() -> None:
    assert to_markdown(ESTIMATES) == (
        "| Figure | Value | 95% interval   | n           | Events | Note |\n"
        "|--------|-------|----------------|-------------|--------|------|\n"
        "| AUC    | 0.812 | 0.610 to 0.950 | 12 patients | 5      | lung |\n"
        f"| Dice   | {DASH}     | {DASH}              | 0 lesions   | {DASH}      |      |\n"
    )


def test_csv_reads_back() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(ESTIMATES))))
    assert [row["name"] for row in rows] == ["AUC", "Dice"]
    assert float(rows[0]["value"]) == 0.8125
    assert rows[1]["value"] == rows[1]["events"] == ""


def test_json_is_plain_and_complete(evaluation: Evaluation) -> None:
    content = json.loads(to_json(evaluation))
    figures = {figure["name"]: figure for figure in content["figures"]}
    assert figures["Dice per lesion"]["value"] == 1.0
    assert figures["AUC"]["value"] is None
    assert content["froc"]["thresholds"] == [None, 0.9]
    assert content["by_scan"][0]["hits"] == 1
    assert content["by_scan"][0]["primary"] == "lung"


def test_every_section_is_in_the_full_tables(evaluation: Evaluation) -> None:
    text = full_markdown(evaluation)
    rows = list(csv.DictReader(io.StringIO(full_csv(evaluation))))
    for section, estimates in evaluation.sections.items():
        assert f"## {section}\n" in text
        for one in estimates:
            assert one.name in text
            assert {"section": section, "name": one.name}.items() <= next(
                row for row in rows if row["section"] == section and row["name"] == one.name
            ).items()


def test_where_an_interval_comes_from_is_said() -> None:
    exact = proportion("accuracy", 39, 44, "patients", "as printed")
    assert "exact interval; as printed" in to_markdown([exact])
    assert "interval;" not in to_markdown([proportion("accuracy", 0, 0, "patients", "none")])
