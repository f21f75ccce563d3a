"""How the bone metastases of each primary tumour look: the model behind the class.

A lesion is of one type and has up to two further signs::

    primary    share of "other"   lytic  mixed  sclerotic   expansile   cortical   men    age
    lung       -                   0.66   0.24    0.10        0.06        0.45     0.60   66 +- 9
    prostate   0.42                0.03   0.10    0.87        0.02        0.06     1.00   71 +- 8
    breast     0.26                0.22   0.46    0.32        0.05        0.08     0.01   58 +- 11
    kidney     0.22                0.88   0.10    0.02        0.75        0.12     0.66   63 +- 10
    thyroid    0.10                0.86   0.10    0.04        0.70        0.10     0.35   61 +- 12

*Expansile*: the lesion blows the bone up and grows a soft-tissue mass, and is larger;
only lytic and mixed lesions can be (the share is that among them). *Cortical*: it sits
in the cortex and destroys it from outside, the "cookie bite" of lung cancer; again only
lytic and mixed ones. All lesions of a patient share the shares
``Dirichlet(concentration * row)``, so that they look alike. The shares follow the usual
teaching (lung lytic or mixed, prostate sclerotic, breast any, kidney and thyroid lytic
and expansile); they are not fitted to data.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Float, Int
from scipy.special import gammaln, logsumexp

from osteomet.findings import PrimaryTumour
from osteomet.simulate.settings import SimulationConfig


class LesionType(StrEnum):
    LYTIC = "lytic"
    MIXED = "mixed"
    SCLEROTIC = "sclerotic"


@dataclass(frozen=True)
class Appearance:
    """One of the kinds of lesion that differ to the eye."""

    type: LesionType
    expansile: bool
    cortical: bool


@dataclass(frozen=True)
class Tumour:
    """One row of the table in this module's docstring."""

    name: str
    lytic: float
    mixed: float
    sclerotic: float
    expansile: float
    cortical: float
    men: float
    age: float
    age_spread: float

    def shares(self) -> Float[np.ndarray, " appearances"]:
        """Return the probability of each of ``APPEARANCES``."""
        by_type = {
            LesionType.LYTIC: self.lytic,
            LesionType.MIXED: self.mixed,
            LesionType.SCLEROTIC: self.sclerotic,
        }
        return np.array([by_type[a.type] * self._signs(a) for a in APPEARANCES])

    def _signs(self, kind: Appearance) -> float:
        if kind.type is LesionType.SCLEROTIC:
            return 1.0
        expansile = self.expansile if kind.expansile else 1 - self.expansile
        if kind.expansile:
            return expansile
        return expansile * (self.cortical if kind.cortical else 1 - self.cortical)


APPEARANCES = (
    Appearance(LesionType.LYTIC, expansile=False, cortical=False),
    Appearance(LesionType.LYTIC, expansile=False, cortical=True),
    Appearance(LesionType.LYTIC, expansile=True, cortical=False),
    Appearance(LesionType.MIXED, expansile=False, cortical=False),
    Appearance(LesionType.MIXED, expansile=False, cortical=True),
    Appearance(LesionType.MIXED, expansile=True, cortical=False),
    Appearance(LesionType.SCLEROTIC, expansile=False, cortical=False),
)

LUNG = Tumour("lung", 0.66, 0.24, 0.10, 0.06, 0.45, 0.60, 66.0, 9.0)
OTHERS = (
    (0.42, Tumour("prostate", 0.03, 0.10, 0.87, 0.02, 0.06, 1.00, 71.0, 8.0)),
    (0.26, Tumour("breast", 0.22, 0.46, 0.32, 0.05, 0.08, 0.01, 58.0, 11.0)),
    (0.22, Tumour("kidney", 0.88, 0.10, 0.02, 0.75, 0.12, 0.66, 63.0, 10.0)),
    (0.10, Tumour("thyroid", 0.86, 0.10, 0.04, 0.70, 0.10, 0.35, 61.0, 12.0)),
)
CONCENTRATION = 4.0
"""How alike the lesions of one patient are: smaller means more alike."""


def draw_tumour(rng: np.random.Generator, lung_share: float) -> tuple[PrimaryTumour, Tumour]:
    """Draw a patient's primary."""
    if rng.random() < lung_share:
        return PrimaryTumour.LUNG, LUNG
    chosen = rng.choice(len(OTHERS), p=[share for share, _ in OTHERS])
    return PrimaryTumour.OTHER, OTHERS[chosen][1]


def draw_age_and_sex(rng: np.random.Generator, tumour: Tumour) -> tuple[int, str]:
    """Draw age in years and sex, ``M`` or ``F``."""
    age = int(np.clip(round(rng.normal(tumour.age, tumour.age_spread)), 30, 92))
    return age, "M" if rng.random() < tumour.men else "F"


def draw_count(rng: np.random.Generator, config: SimulationConfig) -> int:
    """Draw how many metastases a patient has: log-normal, or none at all."""
    free = rng.random() < config.lesion_free_share
    count = round(float(config.median_lesions * np.exp(0.65 * rng.standard_normal())))
    return 0 if free else int(np.clip(count, 1, config.max_lesions))


def draw_appearances(
    rng: np.random.Generator, tumour: Tumour, count: int
) -> Int[np.ndarray, " lesions"]:
    """Draw an index into ``APPEARANCES`` for each lesion of one patient."""
    shares = rng.dirichlet(CONCENTRATION * tumour.shares() + 1e-3)
    return rng.choice(len(APPEARANCES), size=count, p=shares)


def attainable_auc(config: SimulationConfig, patients: int = 20_000, seed: int = 0) -> float:
    """Return the patient-level AUC of the best reader who sees every appearance exactly.

    The reader knows the table of this module and scores a patient with the likelihood
    ratio lung : other of its lesions' appearances; age and sex are not used. Patients
    without a lesion are left out.

    Args:
        config: the priors.
        patients: how many to draw.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    counts = np.zeros((patients, len(APPEARANCES)))
    lung = np.zeros(patients, bool)
    for k in range(patients):
        primary, tumour = draw_tumour(rng, config.lung_share)
        size = max(draw_count(rng, config), 1)
        counts[k] = np.bincount(draw_appearances(rng, tumour, size), minlength=len(APPEARANCES))
        lung[k] = primary is PrimaryTumour.LUNG
    scores = _log_likelihood(counts, LUNG) - logsumexp(
        np.stack([_log_likelihood(counts, tumour) for _, tumour in OTHERS]),
        axis=0,
        b=np.array([[share] for share, _ in OTHERS]),
    )
    values, ranks = np.unique(scores, return_inverse=True)
    n_lung = np.bincount(ranks[lung], minlength=len(values))
    n_other = np.bincount(ranks[~lung], minlength=len(values))
    wins = (n_lung * (np.cumsum(n_other) - 0.5 * n_other)).sum()
    return float(wins / (n_lung.sum() * n_other.sum()))


def _log_likelihood(
    counts: Float[np.ndarray, "patients kinds"], tumour: Tumour
) -> Float[np.ndarray, " patients"]:
    # Dirichlet-multinomial, without the factor that all tumours share.
    alpha = CONCENTRATION * tumour.shares() + 1e-3
    total = alpha.sum()
    terms = gammaln(counts + alpha) - gammaln(alpha)
    values: Float[np.ndarray, " patients"] = (
        terms.sum(axis=1) + gammaln(total) - gammaln(total + counts.sum(axis=1))
    )
    return values
