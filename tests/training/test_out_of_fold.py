"""Scores of patients by a second stage that has not seen them."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, roc_auc_score

from osteomet.models import primary
from osteomet.models.primary import FOLDS, LesionBags, deal_over_folds, fit_primary
from osteomet.training import out_of_fold as module
from osteomet.training.out_of_fold import OutOfFold, out_of_fold, out_of_fold_scores


def patients(
    n: int, strength: float, features: int = 4, seed: int = 0
) -> tuple[LesionBags, torch.Tensor]:
    """Return patients with up to three lesions, whose first feature tells the primary."""
    generator = torch.Generator().manual_seed(seed)
    lung = torch.arange(n) % 2 == 0
    values = torch.randn(n, 3, features, generator=generator)
    values[..., 0] += torch.where(lung, strength, -strength)[:, None]
    scores = torch.rand(n, 3, generator=generator).clamp(min=0.1)
    scores[:, 1:] *= torch.rand(n, 2, generator=generator) < 0.5
    return LesionBags(values * (scores > 0)[..., None], scores, features - 1), lung


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fit without choosing penalties, which takes most of the time."""

    def fit(bags: LesionBags, is_lung: torch.Tensor, seed: int) -> torch.nn.Module:
        return fit_primary(bags, is_lung, members=3, penalty=(1.0, 1.0), seed=seed)

    monkeypatch.setattr(module, "fit_primary", fit)


@pytest.mark.usefixtures("quick")
def test_each_patient_is_scored_by_a_fit_to_the_other_folds() -> None:
    bags, lung = patients(23, strength=0.5)
    scores = out_of_fold_scores(bags, lung)
    assert scores.tolist() == out_of_fold_scores(bags, lung).tolist()
    fold = deal_over_folds(lung.float(), 0)
    for number in range(FOLDS):
        out = fold == number
        model = fit_primary(bags.of(~out), lung[~out], members=3, penalty=(1.0, 1.0))
        expected, _ = model.predict(bags.of(out))
        assert scores[out.numpy()] == pytest.approx(expected.numpy())


@pytest.mark.usefixtures("quick")
def test_noise_is_told_from_signal_where_the_fit_itself_cannot() -> None:
    bags, lung = patients(60, strength=0.0, features=30)
    own, _ = fit_primary(bags, lung, members=3, penalty=(1.0, 1.0)).predict(bags)
    checked = out_of_fold(bags, lung)
    assert roc_auc_score(lung, own) > 0.75
    assert checked.auc is not None
    assert checked.auc < 0.65
    assert checked.calibration_slope is not None
    assert checked.calibration_slope < 0.4


@pytest.mark.usefixtures("quick")
def test_figures_are_those_of_the_scores() -> None:
    bags, lung = patients(40, strength=1.0)
    scores, truth = out_of_fold_scores(bags, lung), lung.numpy()
    checked = out_of_fold(bags, lung)
    assert (checked.patients, checked.lung) == (40, 20)
    assert checked.auc == pytest.approx(roc_auc_score(truth, scores))
    assert checked.brier == pytest.approx(brier_score_loss(truth, scores))

    def youden(t: float) -> float:
        return float((scores[truth] >= t).mean() + (scores[~truth] < t).mean())

    assert checked.lung_threshold is not None
    assert youden(checked.lung_threshold) == pytest.approx(max(map(youden, scores.tolist())))
    assert json.loads(json.dumps(asdict(checked), allow_nan=False)) == asdict(checked)


@pytest.mark.usefixtures("quick")
def test_patients_without_lesions_have_no_score_and_change_none() -> None:
    bags, lung = patients(20, strength=0.5)
    more = LesionBags(
        torch.cat([torch.zeros(2, *bags.features.shape[1:]), bags.features]),
        torch.cat([torch.zeros(2, 3), bags.scores]),
        bags.embedding,
    )
    scores = out_of_fold_scores(more, torch.cat([torch.tensor([True, False]), lung]))
    assert np.isnan(scores[:2]).all()
    assert scores[2:].tolist() == out_of_fold_scores(bags, lung).tolist()


@pytest.mark.usefixtures("quick")
def test_one_patient_of_a_kind_leaves_nothing_to_choose() -> None:
    bags, _ = patients(6, strength=1.0)
    lung = torch.tensor([True] + [False] * 5)
    checked = out_of_fold(bags, lung)
    assert (checked.lung, checked.lung_threshold, checked.auc) == (0, None, None)
    assert out_of_fold(bags.of(lung), lung[lung]) == OutOfFold()


def test_penalties_are_chosen_without_the_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def choose(bags: LesionBags, truth: torch.Tensor, seed: int) -> tuple[float, float]:
        asked.append(len(bags.scores))
        return 1.0, 1.0

    monkeypatch.setattr(primary, "_choose_penalty", choose)
    bags, lung = patients(13, strength=1.5, features=2)
    assert np.isfinite(out_of_fold_scores(bags, lung)).all()
    assert sorted(asked) == [9, 10, 11, 11, 11]
