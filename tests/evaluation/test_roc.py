"""ROC curves against scikit-learn; DeLong against its definition, published figures, and by chance."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_curve

from osteomet.evaluation.roc import delong, delong_interval, delong_test, roc_curve

# Patients with ovarian cancer: albumin, total protein, K-G score, and whether surgery helped.
# Source: DeLong, DeLong and Clarke-Pearson, Biometrics 1988, as printed in the SAS/STAT User's
# Guide, "Comparing Receiver Operating Characteristic Curves"; 43 without missing values.
OVARIAN_TEXT = """
    3.0 5.8 10 0  3.2 6.3  5 1  3.9 6.8  3 1  2.8 4.8  6 0  3.2 5.8  3 1  0.9 4.0  5 0
    2.5 5.7  8 0  1.6 5.6  5 1  3.8 5.7  5 1  3.7 6.7  6 1  3.2 5.4  4 1  3.8 6.6  6 1
    4.1 6.6  5 1  3.6 5.7  5 1  4.3 7.0  4 1  3.6 6.7  4 0  2.3 4.4  6 1  4.2 7.6  4 0
    4.0 6.6  6 0  3.5 5.8  6 1  3.8 6.8  7 1  3.0 4.7  8 0  4.5 7.4  5 1  3.7 7.4  5 1
    3.1 6.6  6 1  4.1 8.2  6 1  4.3 7.0  5 1  4.3 6.5  4 1  3.2 5.1  5 1  2.6 4.7  6 1
    3.3 6.8  6 0  1.7 4.0  7 0  3.7 6.1  5 1  3.3 6.3  7 1  4.2 7.7  6 1  3.5 6.2  5 1
    2.9 5.7  9 0  2.1 4.8  7 1  2.8 6.2  8 0  4.0 7.0  7 1  3.3 5.7  6 1  3.7 6.9  5 1
    3.6 6.6  5 1
"""
OVARIAN = np.array(OVARIAN_TEXT.split(), dtype=np.float64).reshape(-1, 4)

# 113 patients with a subarachnoid haemorrhage: S100B in ng/ml times 100, by outcome and WFNS grade.
# Source: Turck et al., Intensive Care Medicine 2010; 36: 107-115, as published with the R package
# pROC (Robin et al., BMC Bioinformatics 2011; 12: 77), data set aSAH.
HAEMORRHAGE = {
    ("good", 1): "4 4 4 4 5 5 6 6 7 7 7 7 8 8 8 8 9 9 9 9 10 10 10 10 11 11 13 13 14 14 14 15 16 "
    "18 19 48 50",
    ("good", 2): "4 7 8 8 9 9 10 10 10 11 11 13 14 15 15 15 16 17 19 43",
    ("good", 3): "5 7 33",
    ("good", 4): "16 17 28 32 34 38 45 47",
    ("good", 5): "24 46 47 50",
    ("poor", 1): "7 8",
    ("poor", 2): "7 7 9 9 10 10 11 14 25 30 41 58",
    ("poor", 3): "13",
    ("poor", 4): "13 16 23 26 27 48 71 96",
    ("poor", 5): "3 12 22 32 33 35 44 44 49 52 56 70 71 74 77 82 86 207",
}


def random_patients(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    is_lung = generator.random(n) < 0.4
    ours = np.round(generator.normal(is_lung, 1.0), 1)  # with ties
    return is_lung, ours, np.round(ours + generator.normal(0, 1.0, n), 1)


def kernel(a: float, b: float) -> float:
    return 1.0 if a > b else 0.5 if a == b else 0.0


def covariance_by_definition(is_lung: np.ndarray, scores: list[np.ndarray]) -> np.ndarray:
    """Return DeLong's covariance as his paper writes it: structural components by every pair."""
    lung = [score[is_lung] for score in scores]
    other = [score[~is_lung] for score in scores]
    m, n = len(lung[0]), len(other[0])
    v10 = np.array([[np.mean([kernel(x, y) for y in o]) for x in a] for a, o in zip(lung, other)])  # noqa: B905
    v01 = np.array([[np.mean([kernel(x, y) for x in a]) for y in o] for a, o in zip(lung, other)])  # noqa: B905
    return np.cov(v10) / m + np.cov(v01) / n


@pytest.mark.parametrize("seed", range(8))
def test_curve_equals_scikit_learn(seed: int) -> None:
    is_lung, scores, _ = random_patients(seed)
    weights = np.random.default_rng(seed).integers(0, 4, len(scores)).astype(float)
    curve = roc_curve(is_lung, scores, weights)
    wrong, caught, thresholds = sklearn_curve(
        is_lung, scores, sample_weight=weights, drop_intermediate=False
    )
    kept = np.isin(curve.thresholds, thresholds)  # scikit-learn leaves out patients of weight 0
    assert np.allclose(curve.thresholds[kept], thresholds)
    assert np.allclose(curve.sensitivity[kept], caught)
    assert np.allclose(curve.specificity[kept], 1 - wrong)


@pytest.mark.parametrize("seed", range(6))
def test_delong_equals_its_definition(seed: int) -> None:
    is_lung, ours, theirs = random_patients(seed)
    areas, covariance = delong(is_lung, [ours, theirs])
    assert areas == pytest.approx([roc_auc_score(is_lung, s) for s in (ours, theirs)])
    assert np.allclose(covariance, covariance_by_definition(is_lung, [ours, theirs]))


def test_delong_of_the_data_of_his_paper() -> None:
    good = OVARIAN[:, 3] == 1
    albumin, protein, score = OVARIAN[:, 0], OVARIAN[:, 1], 10 - OVARIAN[:, 2]
    scores = [albumin, protein, score]
    areas, covariance = delong(good, scores)
    assert areas == pytest.approx([roc_auc_score(good, one) for one in scores])
    expected = covariance_by_definition(good, scores)
    assert np.allclose(covariance, expected)
    test = delong_test(good, protein, score)
    assert test is not None
    assert test.p_value is not None
    contrast = np.array([0.0, 1.0, -1.0])
    chi_square = (contrast @ areas) ** 2 / (contrast @ expected @ contrast)
    assert test.p_value == pytest.approx(stats.chi2.sf(chi_square, 1))


def test_delong_gives_what_another_program_published() -> None:
    """Against the figures that pROC's own tests expect of this data set, to all their digits."""
    rows = [
        (outcome == "poor", grade, float(value))
        for (outcome, grade), values in HAEMORRHAGE.items()
        for value in values.split()
    ]
    poor = np.array([one for one, _, _ in rows])
    grade, s100b = np.array([values for _, *values in rows], dtype=np.float64).T
    assert (len(poor), poor.sum()) == (113, 41)
    areas, covariance = delong(poor, [grade, s100b])
    assert areas == pytest.approx([0.82367886178861782, 0.73136856368563685], rel=1e-12)
    assert covariance[0, 0] == pytest.approx(0.00146991470882363, rel=1e-12)
    assert covariance[1, 1] == pytest.approx(0.00266868245717244, rel=1e-12)
    assert covariance[0, 1] == pytest.approx(0.00119615567376754, rel=1e-12)
    test = delong_test(poor, grade, s100b)
    assert test is not None
    assert test.p_value == pytest.approx(0.0271757822291882, rel=1e-12)
    assert (test.low, test.high) == pytest.approx((0.0104061769564846, 0.174214419249478))


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    truth, covered = 0.7602, 0  # P(N(1, 1) > N(0, 1))
    generator = np.random.default_rng(0)
    for _ in range(300):
        is_lung = np.arange(80) < 35
        low, high = delong_interval(is_lung, generator.normal(is_lung, 1.0)) or (0, 0)
        covered += low <= truth <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_p_value_is_uniform_without_a_difference() -> None:
    generator = np.random.default_rng(1)
    p_values = []
    for _ in range(300):
        is_lung = np.arange(80) < 35
        signal = generator.normal(is_lung, 1.0)
        ours, theirs = (signal + generator.normal(0, 0.7, 80) for _ in range(2))
        test = delong_test(is_lung, ours, theirs)
        assert test is not None
        p_values.append(test.p_value)
    assert 0.02 <= np.mean(np.array(p_values) < 0.05) <= 0.09
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.06)


def test_where_there_is_nothing_to_say() -> None:
    one_kind = np.ones(5, bool)
    assert delong_interval(one_kind, np.arange(5.0)) is None
    assert delong_test(one_kind, np.arange(5.0), np.arange(5.0)) is None
    perfect = np.array([False, False, True, True])
    assert delong_interval(perfect, np.arange(4.0)) is None
    is_lung, ours, _ = random_patients(0)
    same = delong_test(is_lung, ours, ours)
    assert same is not None
    assert (same.difference, same.p_value) == (0.0, None)
    assert np.isnan(roc_curve(one_kind, np.arange(5.0), np.ones(5)).specificity).all()


@pytest.mark.parametrize("seed", range(5))
def test_youden_is_the_best_of_all_thresholds(seed: int) -> None:
    is_lung, scores, _ = random_patients(seed)
    threshold, index = roc_curve(is_lung, scores, np.ones(len(scores))).youden()

    def youden(t: float) -> float:
        return float((scores[is_lung] >= t).mean() + (scores[~is_lung] < t).mean() - 1)

    best = max(youden(t) for t in scores.tolist())
    assert index == pytest.approx(best)
    assert youden(threshold) == pytest.approx(best)
    assert threshold == max(t for t in scores.tolist() if youden(t) == pytest.approx(best))
