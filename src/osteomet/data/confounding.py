"""How far things that are no lesion predict the primary: a cohort that teaches the wrong thing.

Where patients with lung cancer come from one centre, or were scanned in thin slices, a network
that learns the scanner looks as if it had learnt the tumour. So each such thing is tried alone,
patient by patient: a ridge regression on it, cross-validated, and the AUC it reaches beside the
AUC that it reaches when primaries are shuffled among the patients. The shuffles are what keeps a
small cohort honest: with 24 patients chance alone often reaches 0.75.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

from osteomet.checkup import Guess, ScanMeasures, ScanRecord

FOLDS, REPEATS = 5, 3
SHUFFLES = 999
LEAST_OF_EACH = 10
"""Patients with lung and with another primary below which no figure is given."""

RIDGE = 1.0
CHANCE = (2.5, 97.5)

ALL_ACQUISITION = "everything of the acquisition together"

Value = float | str | None
Columns = Float[np.ndarray, "patients columns"]


@dataclass(frozen=True)
class Factor:
    """Something that is known of a scan and is no lesion.

    Attributes:
        kind: ``acquisition``, ``view`` or ``patient``.
        value: a number, a name, or None where it is not known.
    """

    name: str
    kind: str
    value: Callable[[ScanRecord], Value]


def _measured(value: Callable[[ScanMeasures], Value]) -> Callable[[ScanRecord], Value]:
    return lambda scan: None if scan.measures is None else value(scan.measures)


FACTORS = (
    Factor("centre", "acquisition", lambda scan: scan.centre),
    Factor("file format", "acquisition", _measured(lambda m: m.format)),
    Factor("manufacturer", "acquisition", _measured(lambda m: m.manufacturer)),
    Factor("kernel", "acquisition", _measured(lambda m: m.kernel)),
    Factor("slice distance", "acquisition", _measured(lambda m: m.spacing_zyx_mm[0])),
    Factor("slice thickness", "acquisition", _measured(lambda m: m.slice_thickness_mm)),
    Factor("pixel spacing", "acquisition", _measured(lambda m: m.spacing_zyx_mm[2])),
    Factor("noise", "acquisition", _measured(lambda m: m.hu.noise_hu)),
    Factor("grain of the noise", "acquisition", _measured(lambda m: m.hu.noise_grain)),
    Factor("HU of air", "acquisition", _measured(lambda m: m.hu.air_hu)),
    Factor("HU of fat", "acquisition", _measured(lambda m: m.hu.fat_hu)),
    Factor("HU of soft tissue", "acquisition", _measured(lambda m: m.hu.soft_tissue_hu)),
    Factor("body region", "view", _measured(lambda m: m.body.region)),
    Factor("share of lung in view", "view", _measured(lambda m: m.body.lung_share)),
    Factor("width of the view", "view", _measured(lambda m: m.width_mm)),
    Factor("length of the view", "view", _measured(lambda m: m.length_mm)),
    Factor("age", "patient", lambda scan: scan.age),
    Factor("sex", "patient", lambda scan: scan.sex),
)


def guess_primary(
    scans: Sequence[ScanRecord], *, shuffles: int = SHUFFLES, seed: int = 0
) -> tuple[Guess, ...]:
    """Try each factor alone, all of the acquisition together, and that within each centre.

    Patients of unknown primary are left out; a patient's scans are averaged first.

    Args:
        scans: of the cohort.
        shuffles: of the primaries, for the range of chance.
        seed: of folds and shuffles.
    """
    patients: dict[str, list[ScanRecord]] = defaultdict(list)
    for scan in scans:
        if scan.primary in ("lung", "other"):
            patients[scan.patient_id].append(scan)
    groups = list(patients.values())
    is_lung = np.array([group[0].primary == "lung" for group in groups], dtype=bool)
    guesses = [
        _guess([factor], groups, is_lung, factor.name, factor.kind, shuffles, seed)
        for factor in FACTORS
    ]
    acquisition = [factor for factor in FACTORS if factor.kind == "acquisition"]
    guesses.append(
        _guess(acquisition, groups, is_lung, ALL_ACQUISITION, "acquisition", shuffles, seed)
    )
    centres = Counter(group[0].centre for group in groups)
    for centre in sorted(centres) if len(centres) > 1 else ():
        here = np.array([group[0].centre == centre for group in groups], dtype=bool)
        chosen = [group for group, wanted in zip(groups, here, strict=True) if wanted]
        name = f"{ALL_ACQUISITION}, within centre {centre}"
        guesses.append(
            _guess(acquisition[1:], chosen, is_lung[here], name, "acquisition", shuffles, seed)
        )
    return tuple(guesses)


def _guess(
    factors: Sequence[Factor],
    groups: Sequence[Sequence[ScanRecord]],
    is_lung: Bool[np.ndarray, " patients"],
    name: str,
    kind: str,
    shuffles: int,
    seed: int,
) -> Guess:
    values = [[_of_patient(group, factor) for group in groups] for factor in factors]
    known = np.array([any(column[n] is not None for column in values) for n in range(len(groups))])
    known = known.astype(bool)
    lung = int(is_lung[known].sum())
    guess = Guess(factor=name, kind=kind, patients=int(known.sum()), lung=lung)
    note = _why_not(values, int(known.sum()), lung)
    if note:
        return guess.model_copy(update={"note": note})
    columns = np.hstack([_columns(column) for column in values])[known]
    aucs = shuffled_aucs(columns, is_lung[known], shuffles=shuffles, seed=seed)
    auc, chance = float(aucs[0]), aucs[1:]
    low, high = np.percentile(chance, CHANCE).tolist()
    p_value = float((1 + (chance >= auc).sum()) / (1 + len(chance)))
    return guess.model_copy(update={"auc": auc, "chance": (low, high), "p_value": p_value})


def _why_not(values: Sequence[Sequence[Value]], patients: int, lung: int) -> str:
    if patients == 0:
        return "not known of any patient"
    if min(lung, patients - lung) < LEAST_OF_EACH:
        return (
            f"too few patients to tell: {lung} with lung cancer and {patients - lung} with another "
            f"primary, expected at least {LEAST_OF_EACH} of each"
        )
    if all(len(set(column)) == 1 for column in values):
        return "the same in all patients, so it predicts nothing"
    return ""


def _of_patient(group: Sequence[ScanRecord], factor: Factor) -> Value:
    """Return the mean, or the commonest name, over a patient's scans."""
    values = [value for value in (factor.value(scan) for scan in group) if value is not None]
    if not values:
        return None
    numbers = [value for value in values if not isinstance(value, str)]
    return float(np.mean(numbers)) if numbers else Counter(values).most_common(1)[0][0]


def _columns(values: Sequence[Value]) -> Columns:
    """Turn a factor into numbers: one column a name; rank and its square for numbers.

    Ranks do not mind outliers, and the square lets a middle differ from both ends. Whether a
    value is missing is a column too, since that often depends on the centre. Nothing here looks
    at the primary, so it may be done before patients are put into folds.
    """
    missing = np.array([value is None for value in values], dtype=float)
    if any(isinstance(value, str) for value in values):
        names = sorted({str(value) for value in values})
        return np.array([[float(str(value) == name) for name in names] for value in values])
    given = np.array([value for value in values if value is not None], dtype=float)
    rank = np.full(len(values), 0.5)
    rank[missing == 0] = (rankdata(given) - 0.5) / max(len(given), 1)
    return np.column_stack([rank, (rank - 0.5) ** 2, missing])


def shuffled_aucs(
    columns: Columns,
    is_lung: Bool[np.ndarray, " patients"],
    *,
    shuffles: int = SHUFFLES,
    seed: int = 0,
) -> Float[np.ndarray, " aucs"]:
    """Return the cross-validated AUC of the true primaries, then of each shuffle of them.

    Folds do not depend on the primaries, so the true order is one of the shuffles, and the
    share of shuffles that do as well is an exact p-value. Pairs are compared inside folds only:
    each fold has its own model, and scores of two models do not compare.
    """
    generator = np.random.default_rng(seed)
    order = [
        np.arange(len(is_lung)),
        *(generator.permutation(len(is_lung)) for _ in range(shuffles)),
    ]
    labels = is_lung[np.array(order)].T
    won, pairs = np.zeros(labels.shape[1]), np.zeros(labels.shape[1])
    for repeat in range(REPEATS):
        folds = KFold(FOLDS, shuffle=True, random_state=seed + repeat)
        for train, test in folds.split(columns):
            scaler = StandardScaler().fit(columns[train])
            model = Ridge(alpha=RIDGE).fit(
                scaler.transform(columns[train]), labels[train].astype(float)
            )
            scores = model.predict(scaler.transform(columns[test]))
            new_won, new_pairs = _pairs_won(scores, labels[test])
            won += new_won
            pairs += new_pairs
    aucs: Float[np.ndarray, " aucs"] = won / np.maximum(pairs, 1)
    return aucs


def _pairs_won(
    scores: Float[np.ndarray, "patients shuffles"], labels: Bool[np.ndarray, "patients shuffles"]
) -> tuple[Float[np.ndarray, " shuffles"], Int[np.ndarray, " shuffles"]]:
    """Return in how many pairs the lung patient scores higher, and how many there are."""
    # Sums in another order differ in the last digits; ties must stay ties.
    ranks = rankdata(np.round(scores, 9), axis=0)
    positives = labels.sum(axis=0)
    won = (ranks * labels).sum(axis=0) - positives * (positives + 1) / 2
    return won, positives * (len(labels) - positives)
