"""lesions.csv reads back to what was measured."""

import csv
from pathlib import Path

import pytest
from scenes import scene

from osteomet.reporting.lesions_csv import COLUMNS, write_lesions_csv


def test_rows_hold_the_measurements(tmp_path: Path) -> None:
    findings = scene().findings
    path = tmp_path / "lesions.csv"
    write_lesions_csv(findings, path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    assert [row["id"] for row in rows] == ["L1", "L2"]
    first, lesion = rows[0], findings.lesions[0]
    assert (first["scan_id"], first["patient_id"], first["label"]) == ("scan-7", "P-12", "1")
    assert float(first["score"]) == pytest.approx(lesion.score, abs=1e-4)
    assert float(first["volume_ml"]) == pytest.approx(lesion.volume_ml, abs=1e-4)
    assert float(first["centroid_z_mm"]) == pytest.approx(lesion.centroid_lps_mm[2], abs=0.01)
    assert float(first["box_y2_mm"]) == pytest.approx(lesion.box_lps_mm[4], abs=0.01)
    assert float(first["hu_p5"]) == lesion.hu.p5


def test_no_lesion_gives_the_header_alone(tmp_path: Path) -> None:
    path = tmp_path / "lesions.csv"
    write_lesions_csv(scene(lesions=0).findings, path)
    assert path.read_text(encoding="utf-8") == ",".join(COLUMNS) + "\n"


def test_an_unknown_patient_is_an_empty_cell(tmp_path: Path) -> None:
    path = tmp_path / "lesions.csv"
    write_lesions_csv(scene(lesions=1).findings.model_copy(update={"patient_id": None}), path)
    assert path.read_text(encoding="utf-8").splitlines()[1].startswith("scan-7,,L1,")
