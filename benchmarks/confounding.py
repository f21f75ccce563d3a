"""What the scanner alone tells of the primary: `python benchmarks/confounding.py COHORT`.

Two simulated centres scan differently and have different shares of lung cancer. A classifier
on voxel spacing, noise and HU, measured in the images, must not tell the primary within a
centre; pooled, it may tell the centre, and so as much of the primary as the shares of lung
cancer give away. COHORT is a `cohort.csv` that `osteomet simulate --centre-a 106 --centre-b 265`
wrote. Writes `confounding.md`.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from osteomet.data.histogram import measure_hu
from osteomet.data.manifest import read_cohort
from osteomet.findings import PrimaryTumour
from osteomet.io.scan import read_scan
from osteomet.simulate import SimulationConfig
from osteomet.simulate.ceiling import centre_auc
from osteomet.simulate.enrolment import Enrolment, enrol_centres
from osteomet.simulate.patient import random_streams
from osteomet.simulate.scanner import draw_protocol

PAPER = {"A": 106, "B": 265}
REPEATS, FOLDS, RESAMPLES = 5, 5, 2000
MANY = 60
"""Times the paper's cohort, for protocols that are drawn without images."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    source: str
    patients: str
    classifier: str
    auc: float
    low: float
    high: float


@dataclass(frozen=True)
class Patient:
    """What the classifiers are to tell, and where."""

    centre: str
    is_lung: bool


def measured(image: Path) -> list[float]:
    """Return spacing, noise and the HU of fat and soft tissue of a scan."""
    volume = read_scan(image).volume
    hu = measure_hu(volume.voxels)
    values = (
        *volume.spacing_zyx_mm[:2], hu.noise_hu, hu.noise_grain, hu.fat_hu, hu.soft_tissue_hu,
    )  # fmt: skip
    return [float("nan") if value is None else float(value) for value in values]


def drawn(who: Enrolment) -> list[float]:
    """Return spacing, noise and offset of one protocol, without an image."""
    protocol = draw_protocol(random_streams(who.seed)[3], SimulationConfig(), who.centre)
    return [
        *protocol.spacing_zyx_mm[:2], protocol.noise_hu, protocol.noise_grain_mm,
        protocol.offset_hu,
    ]  # fmt: skip


def classifiers() -> dict[str, Callable[[], ClassifierMixin]]:
    """Return what is tried, by name."""
    return {
        "logistic regression": lambda: make_pipeline(
            SimpleImputer(), StandardScaler(), LogisticRegression()
        ),
        "boosted trees": partial(HistGradientBoostingClassifier, max_iter=60, random_state=0),
    }


def evaluate(
    source: str, patients: Sequence[Patient], values: np.ndarray, repeats: int
) -> list[Row]:
    """Return the AUC of each classifier within each centre and pooled, with intervals."""
    lung = np.array([one.is_lung for one in patients])
    centre = np.array([one.centre for one in patients])
    rows = []
    for name, make in classifiers().items():
        for group, chosen in (
            ("within A", centre == "A"), ("within B", centre == "B"), ("pooled", centre != ""),
        ):  # fmt: skip
            scores = _out_of_fold(make, values[chosen], lung[chosen], repeats)
            auc, low, high = _interval(scores, lung[chosen])
            rows.append(Row(source, f"{group} ({int(chosen.sum())})", name, auc, low, high))
    return rows


def _out_of_fold(
    make: Callable[[], ClassifierMixin], values: np.ndarray, lung: np.ndarray, repeats: int
) -> np.ndarray:
    """Return each repeat's scores of patients that the model has not seen."""
    return np.stack(
        [
            cross_val_predict(
                make(), values, lung, method="predict_proba",
                cv=StratifiedKFold(FOLDS, shuffle=True, random_state=repeat),
            )[:, 1]
            for repeat in range(repeats)
        ]
    )  # fmt: skip


def _interval(scores: np.ndarray, lung: np.ndarray) -> tuple[float, float, float]:
    """Return the mean AUC over repeats and its 95 % interval over resampled patients."""
    generator = np.random.default_rng(0)
    auc = float(np.mean([roc_auc_score(lung, one) for one in scores]))
    resampled = []
    for _ in range(RESAMPLES):
        chosen = generator.integers(len(lung), size=len(lung))
        if 0 < lung[chosen].sum() < len(lung):
            resampled.append(roc_auc_score(lung[chosen], scores[0][chosen]))
    low, high = np.percentile(resampled, [2.5, 97.5])
    shift = auc - float(roc_auc_score(lung, scores[0]))
    return auc, float(low) + shift, float(high) + shift


def table(rows: Sequence[Row], expected: float) -> str:
    """Return the page."""
    lines = [
        "# What the scanner alone tells of the primary", "",
        "From `osteomet simulate -o COHORT --centre-a 106 --centre-b 265 --field standard` and "
        "`python benchmarks/confounding.py COHORT/cohort.csv`. Simulated patients of two centres, "
        "as many and "
        "with as much lung cancer as in the paper. Pooled, the shares of lung cancer alone give "
        f"{expected:.3f}.", "",
        "| from | patients | classifier | AUC | 95 % interval |", "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    lines += [
        f"| {row.source} | {row.patients} | {row.classifier} | {row.auc:.3f} "
        f"| {row.low:.3f} to {row.high:.3f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--seed", type=int, default=22)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    cases = read_cohort(options.cohort).cases
    patients = [Patient(one.centre or "", one.primary is PrimaryTumour.LUNG) for one in cases]
    with get_context("spawn").Pool(options.workers) as pool:
        images = np.array(pool.map(measured, [one.image for one in cases], chunksize=8))
    rows = evaluate("images", patients, images, REPEATS)
    crowd = enrol_centres({name: MANY * count for name, count in PAPER.items()}, options.seed)
    drawn_patients = [Patient(one.centre or "", bool(one.is_lung)) for one in crowd]
    rows += evaluate("protocols", drawn_patients, np.array([drawn(one) for one in crowd]), 1)
    expected = centre_auc({"A": 56, "B": 89}, {"A": 50, "B": 176})
    page = Path(__file__).with_name("confounding.md")
    page.write_text(table(rows, expected), encoding="utf-8")


if __name__ == "__main__":
    main()
