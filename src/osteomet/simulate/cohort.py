"""A folder of simulated patients that training reads like real ones."""

import csv
import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from osteomet.errors import ConfigError
from osteomet.io.volumes import write_labels, write_volume
from osteomet.simulate.enrolment import Enrolment, enrol
from osteomet.simulate.patient import LesionTruth, SimulatedPatient, simulate_patient
from osteomet.simulate.settings import SIMULATION_VERSION, SimulationConfig

COLUMNS = (
    "patient_id", "image", "mask", "centre", "primary", "scan_id", "split", "age", "sex",
    "mask_kind", "lesions",
)  # fmt: skip
LESION_COLUMNS = (
    "label", "type", "volume_ml", "diameter_mm", "region", "bone", "expansile", "cortical",
    "fracture", "soft_tissue",
)  # fmt: skip

Row = dict[str, str]


@dataclass(frozen=True)
class _Case:
    """What a worker needs to write one patient."""

    folder: Path
    who: Enrolment
    config: SimulationConfig

    def fingerprint(self) -> str:
        """Return a text that changes with whatever changes the patient's files."""
        who = f"{self.who.seed} {self.who.centre} {self.who.is_lung}"
        text = f"{SIMULATION_VERSION} {who} {self.config.model_dump_json()}"
        return hashlib.sha256(text.encode()).hexdigest()


def write_cohort(
    folder: Path,
    count: int,
    seed: int = 0,
    config: SimulationConfig | None = None,
    workers: int = 1,
    splits: Mapping[str, float] | None = None,
) -> Path:
    """Write patients whose centre and primary are drawn; see ``write_patients``.

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
    return write_patients(folder, enrol(count, seed, splits), config, workers)


def write_patients(
    folder: Path,
    patients: Sequence[Enrolment],
    config: SimulationConfig | None = None,
    workers: int = 1,
) -> Path:
    """Write simulated patients and the table that lists them.

    Per patient: ``images/<id>.nii`` in HU, ``masks/<id>.nii.gz`` with one value per
    lesion, ``lesions/<id>.csv`` with their attributes and ``cases/<id>.json``, written
    last. A patient whose case file was made from the same seed, settings and version is
    kept, so an interrupted run goes on where it stopped. Patients do not depend on each
    other or on ``workers``: a larger cohort begins with the smaller one.

    Args:
        folder: made if absent.
        patients: who they are; none gives an empty table.
        config: the priors; the defaults if None.
        workers: processes to use.

    Returns:
        ``folder/cohort.csv``; its paths are relative to ``folder``.

    Raises:
        ConfigError: there are no workers.
    """
    if workers < 1:
        raise ConfigError(f"{workers} workers; expected at least 1")
    make_folders(folder)
    cases = [_Case(folder, who, config or SimulationConfig()) for who in patients]
    if workers == 1 or len(cases) < 2:
        rows = [_write_case(case) for case in cases]
    else:
        # A fresh interpreter per worker: forking after numba or torch started threads hangs.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(cases)), mp_context=context) as pool:
            rows = list(pool.map(_write_case, cases))
    return write_rows(folder, rows)


def make_folders(folder: Path) -> None:
    """Make the folders of a cohort."""
    for name in ("images", "masks", "lesions", "cases"):
        (folder / name).mkdir(parents=True, exist_ok=True)


def write_rows(folder: Path, rows: Sequence[Row]) -> Path:
    """Write ``cohort.csv`` and return it."""
    table = folder / "cohort.csv"
    _replace(table, lambda path: _write_table(path, COLUMNS, rows))
    return table


def _write_case(case: _Case) -> Row:
    who = case.who
    found = finished_row(case.folder, who.patient_id, case.fingerprint())
    if found is None:
        patient = simulate_patient(who.seed, case.config, centre=who.centre, is_lung=who.is_lung)
        found = write_scan(case.folder, who.patient_id, case.fingerprint(), patient)
    return {**found, "split": who.split}


def finished_row(folder: Path, patient_id: str, fingerprint: str) -> Row | None:
    """Return the row of a patient that is complete and was made from the same inputs."""
    try:
        stored = json.loads((folder / "cases" / f"{patient_id}.json").read_text())
        row: Row = stored["row"]
        files = [folder / row[name] for name in ("image", "mask", "lesions")]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    same = stored.get("fingerprint") == fingerprint
    return row if same and all(path.is_file() for path in files) else None


def write_scan(folder: Path, name: str, fingerprint: str, patient: SimulatedPatient) -> Row:
    """Write the files of one patient, the case file last, and return its row without a split."""
    row = {
        "patient_id": name,
        "image": f"images/{name}.nii",
        "mask": f"masks/{name}.nii.gz",
        "centre": patient.centre,
        "primary": patient.primary.value,
        "scan_id": f"{name}-ct",
        "age": "" if patient.age is None else str(patient.age),
        "sex": patient.sex,
        "mask_kind": "instance",
        "lesions": f"lesions/{name}.csv",
    }
    mask = patient.volume.with_voxels(patient.instances)
    write_volume(folder / row["image"], patient.volume)
    write_labels(folder / row["mask"], mask)
    lesions = [_lesion_row(lesion) for lesion in patient.lesions]
    _replace(folder / row["lesions"], lambda path: _write_table(path, LESION_COLUMNS, lesions))
    stored = {
        "fingerprint": fingerprint,
        "row": row,
        "tumour": patient.tumour,
        "mimics": list(patient.mimics),
    }
    case_file = folder / "cases" / f"{name}.json"
    _replace(case_file, lambda path: path.write_text(json.dumps(stored, indent=1)))
    return row


def _lesion_row(lesion: LesionTruth) -> Row:
    return {
        "label": str(lesion.label),
        "type": lesion.type.value,
        "volume_ml": f"{lesion.volume_ml:.4f}",
        "diameter_mm": f"{lesion.diameter_mm:.2f}",
        "region": "" if lesion.region is None else lesion.region.value,
        "bone": lesion.bone,
        "expansile": str(int(lesion.expansile)),
        "cortical": str(int(lesion.cortical)),
        "fracture": str(int(lesion.fracture)),
        "soft_tissue": str(int(lesion.soft_tissue)),
    }


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _write_table(path: Path, columns: tuple[str, ...], rows: Sequence[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
