import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from osteomet.simulate.ceiling import attainable_auc, auc, ceilings, centre_auc
from osteomet.simulate.primaries import APPEARANCES, LesionType, draw_appearances, draw_tumour
from osteomet.simulate.settings import SimulationConfig


@pytest.fixture(scope="module")
def found():
    return ceilings(SimulationConfig(), patients=6000)


def test_auc_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    truth = rng.random(300) < 0.4
    scores = np.round(truth + rng.standard_normal(300), 1)

    assert auc(scores, truth) == pytest.approx(roc_auc_score(truth, scores))


def test_auc_of_one_primary_alone_is_not_a_number():
    assert np.isnan(auc(np.zeros(3), np.ones(3, dtype=bool)))


def test_lesions_leave_the_primary_uncertain():
    assert 0.90 < attainable_auc(SimulationConfig(), patients=4000) < 0.96


def test_whoever_knows_more_does_better(found):
    assert 0.5 < found.age_and_sex < found.lesions < found.lesions_age_and_sex < 1
    assert found.lesions_of_all < found.lesions
    assert found.lesions_of_all < found.everything_of_all


def test_no_other_score_beats_the_likelihood_ratio(found):
    # The share of sclerotic lesions is the obvious rival; it sees the same lesions.
    rng = np.random.default_rng(1)
    scores, truth = [], []
    for _ in range(4000):
        primary, tumour = draw_tumour(rng, 0.4)
        kinds = draw_appearances(rng, tumour, 3)
        scores.append(-np.mean([APPEARANCES[k].type is LesionType.SCLEROTIC for k in kinds]))
        truth.append(primary.value == "lung")

    assert auc(np.array(scores), np.array(truth)) < found.lesions - 0.05


def test_centre_alone_tells_what_its_share_of_lung_cancer_does():
    score = centre_auc({"A": 56, "B": 89}, {"A": 50, "B": 176})

    assert score == pytest.approx(0.5825, abs=1e-3)
