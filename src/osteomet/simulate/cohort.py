"""A folder of simulated patients that training reads like real ones."""

import csv
import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from osteomet.errors import ConfigError
from osteomet.io.volumes import write_labels, write_volume
from osteomet.simulate.patient import LesionTruth, SimulatedPatient, simulate_patient
from osteomet.simulate.settings import SIMULATION_VERSION, SimulationConfig

COLUMNS = (
    "patient_id", "image", "mask", "centre", "primary", "scan_id", "split", "age", "sex",
    "mask_kind", "lesions",
)  # fmt: skip
LESION_COLUMNS = (
    "label", "type", "volume_ml", "diameter_mm", "region", "bone", "expansile", "cortical",
)  # fmt: skip
DEFAULT_SPLITS = {"train": 0.7, "val": 0.15, "test": 0.15}

GOLDEN = (5**0.5 - 1) / 2

Row = dict[str, str]


@dataclass(frozen=True)
class _Case:
    """What a worker needs to write one patient."""

    folder: Path
    patient_id: str
    seed: int
    split: str
    config: SimulationConfig

    def fingerprint(self) -> str:
        """Return a text that changes with whatever changes the patient's files."""
        text = f"{SIMULATION_VERSION} {self.seed} {self.config.model_dump_json()}"
        return hashlib.sha256(text.encode()).hexdigest()


def write_cohort(
    folder: Path,
    count: int,
    seed: int = 0,
    config: SimulationConfig | None = None,
    workers: int = 1,
    splits: Mapping[str, float] | None = None,
) -> Path:
    """Write simulated patients and the table that lists them.

    Per patient: ``images/<id>.nii`` in HU, ``masks/<id>.nii.gz`` with one value per
    lesion, ``lesions/<id>.csv`` with their attributes and ``cases/<id>.json``, written
    last. A patient whose case file was made from the same seed, settings and version is
    kept, so an interrupted run goes on where it stopped. Patients do not depend on
    ``count`` or ``workers``: a larger cohort begins with the smaller one.

    Args:
        folder: made if absent.
        count: how many patients; 0 gives an empty table.
        seed: of the cohort.
        config: the priors; the defaults if None.
        workers: processes to use.
        splits: share of each split; 70 % train, 15 % val and 15 % test if None.

    Returns:
        ``folder/cohort.csv``; its paths are relative to ``folder``.

    Raises:
        ConfigError: the shares of the splits do not sum to 1, or a number is negative.
    """
    shares = dict(DEFAULT_SPLITS if splits is None else splits)
    if not shares or min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise ConfigError(
            f"the splits {shares} do not sum to 1; give each split its share of the patients"
        )
    if count < 0 or seed < 0 or workers < 1:
        raise ConfigError(
            f"count {count}, seed {seed}, workers {workers}; expected count and seed of at "
            "least 0 and at least 1 worker"
        )
    for name in ("images", "masks", "lesions", "cases"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    cases = [
        _Case(
            folder, f"sim{seed}-{k:05d}", _patient_seed(seed, k), _split(k, shares),
            config or SimulationConfig(),
        )
        for k in range(count)
    ]  # fmt: skip
    if workers == 1 or count < 2:
        rows = [_write_case(case) for case in cases]
    else:
        # A fresh interpreter per worker: forking after numba or torch started threads hangs.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, count), mp_context=context) as pool:
            rows = list(pool.map(_write_case, cases))
    table = folder / "cohort.csv"
    _replace(table, lambda path: _write_table(path, COLUMNS, rows))
    return table


def _patient_seed(seed: int, k: int) -> int:
    return int(np.random.SeedSequence([seed, k]).generate_state(1, np.uint64)[0])


def _split(k: int, shares: Mapping[str, float]) -> str:
    # The golden ratio spreads the splits evenly over any run of patients.
    position, reached = (0.5 + k * GOLDEN) % 1.0, 0.0
    for name, share in shares.items():
        reached += share
        if position < reached:
            return name
    return list(shares)[-1]


def _write_case(case: _Case) -> Row:
    marker = case.folder / "cases" / f"{case.patient_id}.json"
    found = _finished(case, marker)
    if found is None:
        found = _write_patient(case, simulate_patient(case.seed, case.config))
        stored = {"fingerprint": case.fingerprint(), "row": found}
        _replace(marker, lambda path: path.write_text(json.dumps(stored, indent=1)))
    return {**found, "split": case.split}


def _finished(case: _Case, marker: Path) -> Row | None:
    try:
        stored = json.loads(marker.read_text())
        row: Row = stored["row"]
        files = [case.folder / row[name] for name in ("image", "mask", "lesions")]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    same = stored.get("fingerprint") == case.fingerprint()
    return row if same and all(path.is_file() for path in files) else None


def _write_patient(case: _Case, patient: SimulatedPatient) -> Row:
    name = case.patient_id
    row = {
        "patient_id": name,
        "image": f"images/{name}.nii",
        "mask": f"masks/{name}.nii.gz",
        "centre": patient.centre,
        "primary": patient.primary.value,
        "scan_id": f"{name}-ct",
        "age": str(patient.age),
        "sex": patient.sex,
        "mask_kind": "instance",
        "lesions": f"lesions/{name}.csv",
    }
    mask = patient.volume.with_voxels(patient.instances)
    write_volume(case.folder / row["image"], patient.volume)
    write_labels(case.folder / row["mask"], mask)
    lesions = [_lesion_row(lesion) for lesion in patient.lesions]
    _replace(case.folder / row["lesions"], lambda path: _write_table(path, LESION_COLUMNS, lesions))
    return row


def _lesion_row(lesion: LesionTruth) -> Row:
    return {
        "label": str(lesion.label),
        "type": lesion.type.value,
        "volume_ml": f"{lesion.volume_ml:.4f}",
        "diameter_mm": f"{lesion.diameter_mm:.2f}",
        "region": lesion.region.value,
        "bone": lesion.bone,
        "expansile": str(int(lesion.expansile)),
        "cortical": str(int(lesion.cortical)),
    }


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_table(path: Path, columns: tuple[str, ...], rows: list[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
