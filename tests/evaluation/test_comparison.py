"""Two models on the same patients: differences by hand, the pairing, and what is refused."""

import numpy as np
import pytest
from evaluation_cases import candidate, case
from scipy import stats

from osteomet.errors import InputError
from osteomet.evaluation.cohort import Evaluation, evaluate_predictions
from osteomet.evaluation.comparison import Difference, compare
from osteomet.findings import PrimaryTumour

A = (0, 0, 0, 4, 4, 4)
HALF_OF_A = (0, 0, 0, 4, 4, 2)
RESAMPLES = 100
LUNG, OTHER = PrimaryTumour.LUNG, PrimaryTumour.OTHER


def model(seed: int, skill: float, *, half: bool = False) -> Evaluation:
    """Evaluate 40 patients with a lesion each; ``p_lung`` knows the truth with some skill."""
    patients = np.random.default_rng(0)
    own = np.random.default_rng(seed)
    cases = []
    for n in range(40):
        is_lung, hard = n % 3 == 0, patients.normal()
        p_lung = 1 / (1 + np.exp(-(skill * (1 if is_lung else -1) + hard + 0.5 * own.normal())))
        box = HALF_OF_A if half and n % 2 else A
        primary = LUNG if is_lung else OTHER
        cases.append(case(f"p{n}", [A], [candidate(box, 0.9)], primary, float(p_lung)))
    return evaluate_predictions(cases, resamples=RESAMPLES)


@pytest.fixture(scope="module")
def ours() -> Evaluation:
    return model(1, 1.5)


@pytest.fixture(scope="module")
def theirs() -> Evaluation:
    return model(2, 0.2, half=True)


@pytest.fixture(scope="module")
def rows(ours: Evaluation, theirs: Evaluation) -> dict[str, Difference]:
    return {one.name: one for one in compare(ours, theirs)}


def test_differences_are_ours_less_theirs(
    ours: Evaluation, theirs: Evaluation, rows: dict[str, Difference]
) -> None:
    dice = rows["Dice per lesion"]
    assert (dice.ours, dice.theirs) == (1.0, pytest.approx((1 + 2 / 3) / 2))
    assert dice.difference == pytest.approx(1 / 6)
    assert dice.low is not None
    assert dice.high is not None
    assert dice.low < dice.difference < dice.high
    assert dice.p_value == pytest.approx(2 / (RESAMPLES + 1))
    for name, row in rows.items():
        if row.method == "paired bootstrap":
            assert row.difference == pytest.approx(ours[name].value - theirs[name].value)


def test_the_interval_is_that_of_paired_values(rows: dict[str, Difference]) -> None:
    row = rows["Dice per lesion"]
    gaps = np.where(np.arange(40) % 2, 1 / 3, 0.0)
    expected = stats.bootstrap(
        (gaps,), np.mean, n_resamples=3000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert (row.low, row.high) == pytest.approx(tuple(expected), abs=0.02)


def test_areas_are_compared_by_delong(rows: dict[str, Difference]) -> None:
    row = rows["AUC, patients that both predicted"]
    assert row.method == "paired DeLong"
    assert row.n == 40
    assert row.p_value is not None
    assert row.p_value < 0.05
    bootstrap = rows["AUC"]
    assert (bootstrap.low, bootstrap.high) == pytest.approx((row.low, row.high), abs=0.08)


def test_a_model_does_not_differ_from_itself(ours: Evaluation) -> None:
    for row in compare(ours, ours):
        assert row.difference == 0.0
        assert row.p_value in (None, 1.0)
        assert row.low in (None, 0.0)


def test_other_scans_are_refused(ours: Evaluation) -> None:
    fewer = evaluate_predictions([case("p0", [A], [], LUNG, 0.5)], resamples=0)
    with pytest.raises(InputError, match="is not the same in both evaluations"):
        compare(ours, fewer)
