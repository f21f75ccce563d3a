"""What reported lesions look like, against what is noted of them."""

from dataclasses import replace

import numpy as np
import pytest
from evaluation_cases import candidate, case

from osteomet.evaluation.appearance_figures import APPEARANCE
from osteomet.evaluation.cohort import evaluate_predictions
from osteomet.evaluation.scan import LOOKS, EvaluationCase, score_scan
from osteomet.findings import LesionAttributes, PrimaryTumour

BOXES = [(0, 0, 0, 4, 4, 4), (8, 8, 8, 12, 12, 12), (8, 8, 30, 12, 12, 34)]
UNKNOWN = -1


def _case(
    name: str, lytic: list[float | None], noted: dict[int, tuple[int, ...]]
) -> EvaluationCase:
    """Return a scan whose first lesions are reported with these probabilities of loss of bone."""
    found = [candidate(box, 0.9) for box in BOXES[: len(lytic)]]
    made = case(name, BOXES, found, PrimaryTumour.LUNG, 0.5)
    lesions = tuple(
        lesion.model_copy(
            update={
                "attributes": None
                if told is None
                else LesionAttributes(lytic=told, sclerotic=1 - told, expansile=0.5, cortical=0.1)
            }
        )
        for lesion, told in zip(made.findings.lesions, lytic, strict=True)
    )
    return replace(
        made, findings=made.findings.model_copy(update={"lesions": lesions}), noted=noted
    )


def test_an_auc_over_the_lesions_that_were_reported_and_noted() -> None:
    """Of three lytic and two other lesions, five of six pairs are in the right order."""
    first = _case("a", [0.9, 0.4, 0.8], {1: (1, 0, 0, 0), 2: (1, 0, 0, 0), 3: (1, 1, 0, UNKNOWN)})
    second = _case("b", [0.5, 0.2], {1: (0, 1, 0, 0), 2: (0, 1, 0, 0), 3: (1, 0, 1, 1)})
    result = evaluate_predictions([first, second], resamples=20)
    figure = result["AUC, lytic"]
    assert figure.value == pytest.approx(5 / 6)
    assert (figure.n, figure.events) == (5, 3)  # the last lesion of the second scan was missed
    assert result["AUC, sclerotic"].value == pytest.approx(4 / 6)
    assert result["AUC, cortical"].n == 4
    assert [one.name for one in result.sections[APPEARANCE]] == [f"AUC, {one}" for one in LOOKS]


def test_nothing_noted_or_told_gives_no_figure() -> None:
    silent = _case("a", [None, None], {1: (1, 0, 0, 0)})
    unnoted = _case("b", [0.9, 0.4], {})
    partly = _case("c", [0.9, 0.4], {1: (1, UNKNOWN, UNKNOWN, UNKNOWN), 2: (0, -2, -2, -2)})
    assert APPEARANCE not in evaluate_predictions([silent, unnoted], resamples=0).sections
    sections = evaluate_predictions([silent, unnoted, partly], resamples=0).sections
    assert [one.name for one in sections[APPEARANCE]] == ["AUC, lytic"]


def test_a_scan_keeps_a_row_for_each_true_lesion() -> None:
    scored = score_scan(_case("a", [0.9, None], {2: (0, 1, 0, 1)}))
    assert scored.told[0].tolist() == pytest.approx([0.9, 0.1, 0.5, 0.1])
    assert np.isfinite(scored.told).all(axis=1).tolist() == [True, False, False]
    assert scored.noted.tolist() == [[-1] * 4, [0, 1, 0, 1], [-1] * 4]
