"""What a reproduction shall do: who trains and who tests, with which networks and settings."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osteomet.config import Config
from osteomet.data.manifest import SPLITS, Cohort, read_cohort
from osteomet.data.manifest_writer import write_cohort
from osteomet.data.splits import external_centre, random_shares
from osteomet.errors import ConfigError, InputError, ReportError
from osteomet.findings import PrimaryTumour
from osteomet.reporting.files import write_atomically

PROTOCOLS = ("p1", "p2")
CENTRE = "B"
"""The paper's training centre."""

PAPER = ("resnet50", "convnext_base", "resnet101", "convnextv2_base", "yolov8m")
SMALL = ("resnet18", "convnext_atto", "resnet34", "convnextv2_atto", "yolov8n")
SETS = {"paper": PAPER, "small": SMALL}
"""Names for five architectures in the order of Table 2. YOLOv8's size is not given there."""

FEWEST = {"train": 2, "val": 1, "test": 2}
"""Patients of each primary on a side: DeLong's interval needs two, the second stage one."""

RECORD = "plan.json"


@dataclass(frozen=True)
class Plan:
    """Everything that decides about the results.

    Attributes:
        protocol: ``p1`` or ``p2``.
        centre: that trains, or whose patients are split.
        test_centre: that tests in P1; None takes all others.
        cohort: with its split.
        source_sha256: digest of the cohort file that was given.
        configs: settings of each architecture, in order.
    """

    protocol: str
    centre: str
    test_centre: str | None
    cohort: Cohort
    source_sha256: str
    configs: Mapping[str, Config]

    @property
    def patients(self) -> dict[str, tuple[int, int]]:
        """Patients with lung cancer and with another primary, by side."""
        return _by_primary(self.cohort)

    def told(self) -> str:
        """Say who trains and who tests."""
        if self.protocol == "p1":
            others = f"centre {self.test_centre}" if self.test_centre else "all other centres"
            return f"Protocol P1: trained on centre {self.centre}, tested on {others}"
        return f"Protocol P2: 70 : 15 : 15 at random within centre {self.centre}"

    def record(self) -> dict[str, Any]:
        """Return what a command must share with the one that began the folder."""
        base = next(iter(self.configs.values())).model_dump(mode="json")
        base["model"]["backbone"].pop("name")
        base["data"].pop("workers")  # changes speed alone
        return {
            "protocol": self.protocol,
            "centre": self.centre,
            "test_centre": self.test_centre,
            "cohort_sha256": self.source_sha256,
            "settings": base,
        }


def make_plan(
    cohort_path: Path,
    config: Config,
    protocol: str,
    centre: str,
    test_centre: str | None,
    architectures: Sequence[str],
) -> Plan:
    """Split the cohort and see that everything asked for can be done, before anything is.

    Raises:
        ConfigError: there is no such protocol or architecture, or the settings do not fit one.
        InputError: the cohort cannot be read, or cannot do the protocol.
        AnnotationError: a row of it is wrong, or a patient would be on two sides.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"protocol {protocol!r}; expected {' or '.join(PROTOCOLS)}")
    configs = {name: config.updated({"model.backbone.name": name}) for name in architectures}
    cohort = read_cohort(cohort_path)
    seed = config.training.seed
    if protocol == "p1":
        split = external_centre(cohort, centre, test_centre=test_centre, seed=seed)
    elif test_centre is not None:
        raise ConfigError(f"test centre {test_centre!r} with protocol p2; expected it with p1")
    else:
        split = random_shares(cohort, centre=centre, seed=seed)
    _check_sides(cohort_path, split, protocol, centre)
    digest = hashlib.sha256(cohort_path.read_bytes()).hexdigest()
    return Plan(protocol, centre, test_centre, split, digest, configs)


def architectures(text: str) -> tuple[str, ...]:
    """Read ``paper``, ``small``, or names separated by commas; a name that repeats counts once.

    Raises:
        ConfigError: there is no name.
    """
    names = [name.strip() for name in text.split(",")]
    found = [one for name in names if name for one in SETS.get(name, (name,))]
    if not found:
        raise ConfigError(
            f"no architecture in {text!r}; expected {', '.join(SETS)}, or names of backbones "
            "separated by commas"
        )
    return tuple(dict.fromkeys(found))


def open_folder(plan: Plan, folder: Path) -> Path:
    """Make the folder, or make sure that it holds the same plan; return its cohort file.

    Raises:
        ConfigError: it was begun with something else, which is named.
        ReportError: it cannot be written.
    """
    path, record = folder / RECORD, plan.record()
    if path.exists():
        _check_same(path, record)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReportError(f"{folder}: cannot be made: {error.strerror}") from error
    cohort = folder / "cohort.csv"
    write_cohort(cohort, plan.cohort.cases)
    write_atomically(path, (json.dumps(record, indent=2) + "\n").encode())
    return cohort


def _check_same(path: Path, record: Mapping[str, Any]) -> None:
    try:
        begun = _flat(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path}: cannot be read; choose another folder") from error
    now = _flat(record)
    differing = [
        f"{name} (was {begun.get(name)!r}, now {now.get(name)!r})"
        for name in sorted(begun.keys() | now.keys())
        if begun.get(name) != now.get(name)
    ]
    if differing:
        raise ConfigError(
            f"{path.parent}: was begun with other {'; '.join(differing)}; expected the same "
            "command, or another folder"
        )


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _check_sides(path: Path, cohort: Cohort, protocol: str, centre: str) -> None:
    for side, (lung, other) in _by_primary(cohort).items():
        if min(lung, other) < FEWEST[side]:
            raise InputError(
                f"{path}: protocol {protocol} with centre {centre!r} gives side {side!r} {lung} "
                f"patients with lung cancer and {other} with another primary; expected at least "
                f"{FEWEST[side]} of each: add patients, or choose another protocol or centre"
            )
        if all(case.mask is None for case in cohort.of_split(side)):
            raise InputError(
                f"{path}: no scan of side {side!r} has a mask; expected masks, since a Dice "
                "coefficient needs them"
            )


def _by_primary(cohort: Cohort) -> dict[str, tuple[int, int]]:
    names: dict[tuple[str | None, PrimaryTumour], set[str]] = defaultdict(set)
    for case in cohort.cases:
        names[case.split, case.primary].add(case.patient_id)
    return {
        side: (len(names[side, PrimaryTumour.LUNG]), len(names[side, PrimaryTumour.OTHER]))
        for side in SPLITS
    }
