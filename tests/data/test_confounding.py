"""Factors that predict the primary are told from chance, honestly in small cohorts too."""

import numpy as np
import pytest
from examined import record
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from osteomet.checkup import Guess, ScanRecord
from osteomet.data.confounding import (
    ALL_ACQUISITION,
    FACTORS,
    FOLDS,
    REPEATS,
    guess_primary,
    shuffled_aucs,
)


def scans(count: int, *, told_by_slices: float = 0.0, seed: int = 0) -> list[ScanRecord]:
    """Patients of two centres; a share of the lung patients has thick slices, in one centre."""
    generator = np.random.default_rng(seed)
    found = []
    for n in range(count):
        is_lung = bool(generator.random() < 0.5)
        thick = is_lung and generator.random() < told_by_slices
        z = 5.0 if thick else float(generator.uniform(1, 2))
        found.append(
            record(
                f"p{n}", centre="AB"[n % 2], primary="lung" if is_lung else "other",
                spacing_zyx_mm=(z, 0.8, 0.8), noise_hu=float(generator.uniform(10, 20)),
                age=float(generator.uniform(40, 80)) if n % 5 else None, sex="FM"[n % 3 == 0],
            )
        )  # fmt: skip
    return found


def by_name(guesses: tuple[Guess, ...]) -> dict[str, Guess]:
    return {one.factor: one for one in guesses}


def test_the_auc_is_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(3)
    is_lung = generator.random(60) < 0.4
    columns = generator.normal(size=(60, 2)) + 0.7 * is_lung[:, None]
    won = pairs = 0.0
    for repeat in range(REPEATS):
        for train, test in KFold(FOLDS, shuffle=True, random_state=repeat).split(columns):
            model = make_pipeline(StandardScaler(), Ridge()).fit(columns[train], is_lung[train])
            weight = float(is_lung[test].sum() * (~is_lung[test]).sum())
            pairs += weight
            won += weight * roc_auc_score(is_lung[test], model.predict(columns[test]))
    aucs = shuffled_aucs(columns, is_lung, shuffles=5)
    assert aucs.shape == (6,)
    assert aucs[0] == pytest.approx(won / pairs, abs=1e-9)


def test_p_values_are_those_of_chance() -> None:
    """Where nothing predicts, one in ten p-values is below 0.1."""
    low = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        is_lung = np.arange(24) < 10
        aucs = shuffled_aucs(generator.normal(size=(24, 1)), is_lung, shuffles=19, seed=seed)
        low += (1 + (aucs[1:] >= aucs[0]).sum()) / 20 <= 0.1
    assert 1 <= low <= 13  # binomial: 99.5 % of the time


def test_a_constant_gives_a_coin() -> None:
    aucs = shuffled_aucs(np.ones((40, 1)), np.arange(40) < 15, shuffles=9)
    assert aucs == pytest.approx(0.5)


def test_what_gives_the_primary_away_is_told() -> None:
    found = by_name(guess_primary(scans(60, told_by_slices=0.9), shuffles=99))
    told = {found["slice distance"], found[ALL_ACQUISITION]}
    for one in told:
        assert one.auc is not None
        assert one.chance is not None
        assert one.auc > 0.85 > one.chance[1]
        assert one.p_value == 0.01
    for name in ("centre", "noise", "age", "sex"):
        auc = found[name].auc
        assert auc is not None
        assert auc < 0.7


def test_within_each_centre() -> None:
    found = by_name(guess_primary(scans(60, told_by_slices=0.9), shuffles=19))
    for centre in "AB":
        one = found[f"{ALL_ACQUISITION}, within centre {centre}"]
        assert one.patients == 30
        assert one.auc is not None
        assert one.auc > 0.85


def test_a_small_cohort_gets_words_and_no_figure() -> None:
    guesses = guess_primary(scans(12))
    assert len(guesses) == len(FACTORS) + 3
    assert all(one.auc is None for one in guesses)
    assert "too few patients to tell" in by_name(guesses)["noise"].note
    assert by_name(guesses)["kernel"].note == "not known of any patient"
    assert guess_primary([])[0].note == "not known of any patient"


def test_what_is_the_same_in_all_predicts_nothing() -> None:
    assert "same in all" in by_name(guess_primary(scans(60), shuffles=1))["pixel spacing"].note


def test_patients_count_once_and_unknown_primaries_not_at_all() -> None:
    plain = scans(40)
    twice = [scan.model_copy(update={"scan_id": f"{scan.scan_id}-2"}) for scan in plain]
    unknown = [record(f"u{n}", primary="unknown") for n in range(9)]
    assert guess_primary([*plain, *twice, *unknown], shuffles=9) == guess_primary(plain, shuffles=9)
