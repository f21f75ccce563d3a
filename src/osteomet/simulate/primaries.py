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
``Dirichlet(concentration * row)``, so that they look alike.

Everything else that is drawn of a lesion (diameter, place, margin, residual bone, fracture)
depends on these three signs and the bone, not on the primary, so the signs are all that
images can tell of it. Age and sex are those of patients with the cancer: they confound, as
in life, and sex decides much where it excludes a primary.

The rows put into numbers what the literature says in words; they are not fitted to data.
Lung mostly lytic, small cells sclerotic; kidney and thyroid lytic; prostate sclerotic;
breast mixed: Macedo et al., Oncol Rev 2017; 11: 321, and Rosenthal, Cancer 1997; 80:
1595-1607. Cortical bites mostly from lung: Deutsch and Resnick, Radiology 1980; 137: 49-52,
and Greenspan and Norman, Skeletal Radiol 1988; 17: 402-406. Expansile and vascular from
kidney: Forbes, McLeod and Hattery, AJR 1977; 129: 61-66.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Float, Int

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
AGES = (30, 92)
CONCENTRATION = 4.0
"""How alike the lesions of one patient are: smaller means more alike."""


def draw_tumour(rng: np.random.Generator, lung_share: float) -> tuple[PrimaryTumour, Tumour]:
    """Draw a patient's primary; a share of 1 or 0 decides it."""
    if rng.random() < lung_share:
        return PrimaryTumour.LUNG, LUNG
    chosen = rng.choice(len(OTHERS), p=[share for share, _ in OTHERS])
    return PrimaryTumour.OTHER, OTHERS[chosen][1]


def draw_age_and_sex(rng: np.random.Generator, tumour: Tumour) -> tuple[int, str]:
    """Draw age in years and sex, ``M`` or ``F``."""
    age = int(np.clip(round(rng.normal(tumour.age, tumour.age_spread)), *AGES))
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
    shares = rng.dirichlet(dirichlet_of(tumour))
    return rng.choice(len(APPEARANCES), size=count, p=shares)


def dirichlet_of(tumour: Tumour) -> Float[np.ndarray, " appearances"]:
    """Return the parameters of the distribution of a patient's shares of ``APPEARANCES``."""
    parameters: Float[np.ndarray, " appearances"] = CONCENTRATION * tumour.shares() + 1e-3
    return parameters
