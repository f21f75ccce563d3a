"""A threshold comes from validation patients, and from no one who is evaluated with it."""

import json
from pathlib import Path

import numpy as np
import pytest
from evaluation_cases import case

from osteomet.errors import ConfigError, InputError
from osteomet.evaluation.cohort import Options, evaluate_predictions
from osteomet.evaluation.lung_threshold import LungThreshold, read_lung_threshold, youden_threshold
from osteomet.evaluation.roc import ROC
from osteomet.evaluation.tables import to_json
from osteomet.findings import PrimaryTumour

LUNG, OTHER = PrimaryTumour.LUNG, PrimaryTumour.OTHER


@pytest.fixture
def validation(tmp_path: Path) -> Path:
    """Four patients whom 0.6 tells apart but for one."""
    patients = [(LUNG, 0.9), (LUNG, 0.6), (OTHER, 0.7), (OTHER, 0.2), (OTHER, None)]
    cases = [case(f"v{n}", [], [], *one) for n, one in enumerate(patients)]
    path = tmp_path / "evaluation.json"
    path.write_text(to_json(evaluate_predictions(cases, resamples=0)))
    return path


def test_the_best_threshold_of_validation_patients(validation: Path) -> None:
    threshold = read_lung_threshold(validation, ["a", "b"])
    # 0.9 and 0.6 both have a Youden index of one half; the higher one is taken.
    assert threshold.value == 0.9
    assert "5 other patients" in threshold.source


@pytest.mark.parametrize(
    ("thresholds", "sensitivity", "expected"),
    [
        ([np.inf, 0.8, 0.3], [0.0, 1.0, 1.0], 0.8),
        ([np.inf, 0.8, 0.3], [0.0, 0.0, 1.0], None),  # worse than chance: call no one
        ([np.inf, 0.3], [np.nan, np.nan], None),  # patients of one kind
    ],
)
def test_without_a_threshold_better_than_chance_there_is_none(
    thresholds: list[float], sensitivity: list[float], expected: float | None
) -> None:
    specificity = np.linspace(1, 0, len(thresholds))
    curve = ROC(np.array(thresholds), np.array(sensitivity), specificity)
    assert youden_threshold(curve) == expected


def test_it_is_used_and_said() -> None:
    cases = [case("a", [], [], LUNG, 0.55), case("b", [], [], OTHER, 0.45)]
    options = Options(lung_threshold=LungThreshold(0.6, "as given"))
    evaluation = evaluate_predictions(cases, resamples=0, options=options)
    assert evaluation["sensitivity"].value == 0.0
    assert "p_lung >= 0.6, as given" in evaluation["sensitivity"].note
    assert evaluate_predictions(cases, resamples=0)["sensitivity"].value == 1.0


def test_a_threshold_of_the_same_patients_is_refused(validation: Path) -> None:
    with pytest.raises(InputError, match="patient v3 and 0 more of those to be evaluated"):
        read_lung_threshold(validation, ["a", "v3"])


def test_what_holds_no_threshold_is_refused(validation: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_lung_threshold(tmp_path / "none.json", [])
    validation.write_text("{}")
    with pytest.raises(InputError, match="is not an evaluation"):
        read_lung_threshold(validation, [])
    one_kind = evaluate_predictions([case("v", [], [], LUNG, 0.5)], resamples=0)
    content = to_json(one_kind)
    assert json.loads(content)["lung_threshold_for_others"]["value"] is None
    validation.write_text(content)
    with pytest.raises(InputError, match="no threshold of"):
        read_lung_threshold(validation, [])


@pytest.mark.parametrize(
    "options",
    [
        {"lung_threshold": LungThreshold(1.5, "")},
        {"prior_lung": 0.0},
        {"prior_lung": 1.0},
        {"tolerance_mm": -1.0},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Options(**options)
