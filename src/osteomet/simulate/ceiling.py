"""How well the primary can be told at all: the AUC of a reader who knows how patients are drawn.

The reader scores a patient with the likelihood ratio lung : other of what is seen, which no
other score can beat (Neyman and Pearson). A result on simulated patients can so be read as a
share of what is possible.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import gammaln, logsumexp, ndtr

from osteomet.findings import PrimaryTumour
from osteomet.simulate.primaries import (
    AGES,
    APPEARANCES,
    LUNG,
    OTHERS,
    Tumour,
    dirichlet_of,
    draw_age_and_sex,
    draw_appearances,
    draw_count,
    draw_tumour,
)
from osteomet.simulate.settings import SimulationConfig

Scores = Float[np.ndarray, " patients"]


@dataclass(frozen=True)
class Ceilings:
    """The best attainable AUC of patients, by what the reader knows.

    Attributes:
        lesions: the appearance of every lesion, without error; patients without one left out.
        age_and_sex: nothing but these, all patients.
        lesions_age_and_sex: all of it; patients without a lesion left out.
        lesions_of_all: as ``lesions``, with patients without a lesion at a score of their own.
        everything_of_all: as ``lesions_age_and_sex``, with patients without a lesion.
        standard_error: of these figures, from the number of patients drawn.
    """

    lesions: float
    age_and_sex: float
    lesions_age_and_sex: float
    lesions_of_all: float
    everything_of_all: float
    standard_error: float


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Patients without their images.

    Attributes:
        counts: lesions of each appearance.
        age: in years.
        is_man: sex.
        is_lung: the primary.
    """

    counts: Int[np.ndarray, "patients kinds"]
    age: Int[np.ndarray, " patients"]
    is_man: Bool[np.ndarray, " patients"]
    is_lung: Bool[np.ndarray, " patients"]


def attainable_auc(config: SimulationConfig, patients: int = 20_000, seed: int = 0) -> float:
    """Return the patient AUC of the best reader of images, who sees every appearance exactly.

    Age and sex are not used. Patients without a lesion are left out.

    Args:
        config: the priors.
        patients: how many to draw.
        seed: of the draw.
    """
    drawn = _draw(config, patients, seed)
    seen = drawn.counts.sum(axis=1) > 0
    return auc(_ratio([_appearances(drawn, t) for t in _tumours()])[seen], drawn.is_lung[seen])


def ceilings(config: SimulationConfig, patients: int = 20_000, seed: int = 0) -> Ceilings:
    """Return what is attainable from lesions, from age and sex, and from both.

    Args:
        config: the priors.
        patients: how many to draw.
        seed: of the draw.
    """
    drawn = _draw(config, patients, seed)
    seen = drawn.counts.sum(axis=1) > 0
    look = [_appearances(drawn, tumour) for tumour in _tumours()]
    who = [_age_and_sex(drawn, tumour) for tumour in _tumours()]
    both = [a + b for a, b in zip(look, who, strict=True)]
    lung = drawn.is_lung
    best = auc(_ratio(look)[seen], lung[seen])
    positives = max(int(lung[seen].sum()), 1)
    return Ceilings(
        lesions=best,
        age_and_sex=auc(_ratio(who), lung),
        lesions_age_and_sex=auc(_ratio(both)[seen], lung[seen]),
        lesions_of_all=auc(_ratio(look), lung),
        everything_of_all=auc(_ratio(both), lung),
        standard_error=float(np.sqrt(best * (1 - best) / positives)),
    )


def centre_auc(lung: dict[str, int], other: dict[str, int]) -> float:
    """Return the AUC of the share of lung cancer at each patient's centre.

    Args:
        lung: patients with lung cancer by centre.
        other: those with another primary.
    """
    share = {name: lung[name] / max(lung[name] + other[name], 1) for name in lung}
    scores = np.concatenate([np.full(lung[n] + other[n], share[n]) for n in lung])
    truth = np.concatenate([np.arange(lung[n] + other[n]) < lung[n] for n in lung])
    return auc(scores, truth)


def auc(scores: Scores, is_lung: Bool[np.ndarray, " patients"]) -> float:
    """Return the share of pairs in which the lung patient scores higher; ties count half.

    It is not a number where one of the primaries is absent.
    """
    values, ranks = np.unique(scores, return_inverse=True)
    n_lung = np.bincount(ranks[is_lung], minlength=len(values))
    n_other = np.bincount(ranks[~is_lung], minlength=len(values))
    wins = (n_lung * (np.cumsum(n_other) - 0.5 * n_other)).sum()
    pairs = int(n_lung.sum()) * int(n_other.sum())
    return float(wins / pairs) if pairs else float("nan")


def _tumours() -> list[Tumour]:
    return [LUNG, *(tumour for _, tumour in OTHERS)]


def _draw(config: SimulationConfig, patients: int, seed: int) -> _Drawn:
    rng = np.random.default_rng(seed)
    counts = np.zeros((patients, len(APPEARANCES)), np.int64)
    age = np.zeros(patients, np.int64)
    is_man, is_lung = np.zeros(patients, bool), np.zeros(patients, bool)
    for k in range(patients):
        primary, tumour = draw_tumour(rng, config.lung_share)
        age[k], sex = draw_age_and_sex(rng, tumour)
        drawn = draw_appearances(rng, tumour, draw_count(rng, config))
        counts[k] = np.bincount(drawn, minlength=len(APPEARANCES))
        is_man[k], is_lung[k] = sex == "M", primary is PrimaryTumour.LUNG
    return _Drawn(counts, age, is_man, is_lung)


def _ratio(likelihoods: list[Scores]) -> Scores:
    """Return the log ratio lung : other, of the log likelihoods of ``_tumours``."""
    shares = np.array([[share] for share, _ in OTHERS])
    ratio: Scores = likelihoods[0] - logsumexp(np.stack(likelihoods[1:]), axis=0, b=shares)
    # Sums in another order differ in the last digits; ties must stay ties.
    return np.round(ratio, 9)


def _appearances(drawn: _Drawn, tumour: Tumour) -> Scores:
    # Dirichlet-multinomial, without the factor that all tumours share.
    alpha, counts = dirichlet_of(tumour), drawn.counts
    total = alpha.sum()
    terms = gammaln(counts + alpha) - gammaln(alpha)
    values: Scores = terms.sum(axis=1) + gammaln(total) - gammaln(total + counts.sum(axis=1))
    return values


def _age_and_sex(drawn: _Drawn, tumour: Tumour) -> Scores:
    # Ages are normal, rounded, and gathered at the ends of their range.
    low, high = AGES
    upper = np.where(drawn.age >= high, np.inf, drawn.age + 0.5)
    lower = np.where(drawn.age <= low, -np.inf, drawn.age - 0.5)
    share = ndtr((upper - tumour.age) / tumour.age_spread)
    share -= ndtr((lower - tumour.age) / tumour.age_spread)
    men = np.where(drawn.is_man, tumour.men, 1 - tumour.men)
    values: Scores = np.log(np.maximum(share, 1e-12)) + np.log(np.maximum(men, 1e-12))
    return values
