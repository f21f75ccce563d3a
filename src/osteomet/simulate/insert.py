"""Simulated metastases in the user's own CT: real anatomy and noise, a known truth.

The lesions are painted into the scan without its finest detail, blurred as the scan is, and
put back as a difference. The scan's own noise so stays where it was; only the detail that
trabeculae had beyond noise goes where they are destroyed.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int
from scipy import ndimage

from osteomet.errors import ConfigError
from osteomet.io.scan import read_scan
from osteomet.simulate.cohort import Row, finished_row, make_folders, write_rows, write_scan
from osteomet.simulate.enrolment import DEFAULT_SPLITS, Enrolment, enrol, side_of
from osteomet.simulate.hosts import Host, find_host
from osteomet.simulate.lesions import Blob, draw_diameter, grow_blob
from osteomet.simulate.metastases import add_metastasis, has_soft_tissue
from osteomet.simulate.noise import Field
from osteomet.simulate.patient import (
    CENTRAL_MM,
    CORTICAL_MM,
    SMALLEST_VOXELS,
    LesionTruth,
    SimulatedPatient,
    draw_stiffness,
    random_streams,
)
from osteomet.simulate.phantom import Phantom
from osteomet.simulate.primaries import (
    APPEARANCES,
    Appearance,
    draw_appearances,
    draw_count,
    draw_tumour,
)
from osteomet.simulate.settings import SIMULATION_VERSION, SimulationConfig

CENTRE = "inserted"
BLUR_MM, BLUR_SLICES = 0.55, 0.35
"""Of what is put in: the point spread of a usual kernel, and that between slices."""

DESTROYED_HU = 60.0
"""A fall of this much takes all of the trabecular detail with it."""


def write_inserted(
    folder: Path,
    sources: Sequence[Path],
    count: int,
    seed: int = 0,
    config: SimulationConfig | None = None,
    splits: Mapping[str, float] | None = None,
) -> Path:
    """Write a cohort of copies of real scans, each with metastases of its own.

    Copies of one scan are on one side of the split. Age, sex and mimics are the scan's own.

    Args:
        folder: of the cohort, made if absent.
        sources: scans without metastases, used in turn.
        count: how many copies.
        seed: of the cohort.
        config: the priors; the defaults if None.
        splits: share of each side; 70 % train, 15 % val and 15 % test if None.

    Returns:
        ``folder/cohort.csv``.

    Raises:
        ConfigError: there is no scan.
        InputError: a scan cannot be read or shows no bone.
    """
    if not sources:
        raise ConfigError("no scan to put lesions into; give at least one")
    config = config or SimulationConfig()
    patients = enrol(count, seed, splits)
    shares = dict(splits or DEFAULT_SPLITS)
    make_folders(folder)
    rows: dict[str, Row] = {}
    for n, source in enumerate(sources):
        mine = patients[n :: len(sources)]
        if mine:
            rows |= _write_host(folder, source, mine, side_of(n, shares), config)
    return write_rows(folder, [rows[_name(one)] for one in patients])


def insert_metastases(
    host: Host, seed: int, config: SimulationConfig, patient_id: str = ""
) -> SimulatedPatient:
    """Return a copy of a scan with the metastases of one simulated patient.

    Args:
        host: the scan.
        seed: of the patient.
        config: the priors.
        patient_id: made from the seed if empty.
    """
    who, _, what, _ = random_streams(seed)
    primary, tumour = draw_tumour(who, config.lung_share)
    drawn = draw_appearances(who, tumour, draw_count(who, config))
    phantom = host.phantom()
    grown: list[tuple[Blob, Appearance]] = []
    for appearance in (APPEARANCES[k] for k in drawn):
        blob = _grow(what, config, phantom, appearance, [other for other, _ in grown])
        if blob is not None:
            add_metastasis(what, phantom, blob, appearance)
            grown.append((blob, appearance))
    instances, lesions = _label(phantom, grown)
    return SimulatedPatient(
        patient_id=patient_id or f"into-{seed:08d}",
        volume=host.volume.with_voxels(_put_back(host, phantom, [blob for blob, _ in grown])),
        instances=instances,
        lesions=lesions,
        primary=primary,
        tumour=tumour.name,
        age=None,
        sex="",
        centre=CENTRE,
        region=None,
        mimics=(),
    )


def _write_host(
    folder: Path,
    source: Path,
    patients: Sequence[Enrolment],
    split: str,
    config: SimulationConfig,
) -> dict[str, Row]:
    host = find_host(read_scan(source))
    content = hashlib.sha256(np.ascontiguousarray(host.volume.voxels).tobytes()).hexdigest()
    rows = {}
    for who in patients:
        text = f"{SIMULATION_VERSION} {who.seed} {content} {config.model_dump_json()}"
        fingerprint = hashlib.sha256(text.encode()).hexdigest()
        row = finished_row(folder, _name(who), fingerprint)
        if row is None:
            patient = insert_metastases(host, who.seed, config, _name(who))
            row = write_scan(folder, _name(who), fingerprint, patient)
        rows[_name(who)] = {**row, "split": split}
    return rows


def _name(who: Enrolment) -> str:
    return who.patient_id.replace("sim", "into", 1)


def _grow(
    rng: np.random.Generator,
    config: SimulationConfig,
    phantom: Phantom,
    appearance: Appearance,
    others: list[Blob],
) -> Blob | None:
    diameter_mm = draw_diameter(rng, config, appearance)
    return grow_blob(
        rng,
        phantom,
        diameter_mm,
        stiffness=draw_stiffness(rng, appearance, diameter_mm),
        depth_mm=CORTICAL_MM if appearance.cortical else CENTRAL_MM,
        others=others,
    )


def _put_back(host: Host, phantom: Phantom, blobs: Sequence[Blob]) -> Int[np.ndarray, "z y x"]:
    """Return the scan with what was painted into it."""
    result = host.volume.voxels.astype(np.float32)
    spacing = phantom.spacing
    sigma = (BLUR_SLICES, BLUR_MM / spacing[1], BLUR_MM / spacing[2])
    done = np.zeros(result.shape, dtype=bool)
    for blob in blobs:
        reach = np.array([2, 4, 4])
        low = np.maximum([s.start for s in blob.window] - reach, 0)
        high = np.minimum([s.stop for s in blob.window] + reach, result.shape)
        window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        change = ndimage.gaussian_filter(phantom.hu[window] - host.signal[window], sigma)
        detail = host.volume.voxels[window] - host.signal[window]
        changed = host.volume.voxels[window] + change - _lost(host, detail, change) * detail
        # Windows of neighbouring lesions overlap, and show the same there.
        fresh = ~done[window]
        result[window] = np.where(fresh, changed, result[window])
        done[window] = True
    low_hu, high_hu = int(host.volume.voxels.min()), max(int(host.volume.voxels.max()), 2000)
    return np.clip(np.rint(result), low_hu, high_hu).astype(np.int16)


def _lost(host: Host, detail: Field, change: Field) -> Field:
    """Return the share of the finest detail that goes with destroyed trabeculae."""
    local = np.sqrt(ndimage.uniform_filter(detail.astype(np.float32) ** 2, 5))
    beyond_noise = 1 - np.minimum(host.noise_hu / np.maximum(local, 1e-3), 1)
    lost: Field = beyond_noise * np.clip(-change / DESTROYED_HU, 0, 1)
    return lost


def _label(
    phantom: Phantom, grown: Sequence[tuple[Blob, Appearance]]
) -> tuple[Int[np.ndarray, "z y x"], tuple[LesionTruth, ...]]:
    instances = np.zeros(phantom.hu.shape, np.int16)
    voxel_ml = float(np.prod(phantom.spacing)) / 1000
    lesions: list[LesionTruth] = []
    for blob, appearance in grown:
        target = instances[blob.window]
        own = (blob.inward > 0) & (target == 0)
        voxels = int(own.sum())
        if voxels < SMALLEST_VOXELS:
            continue
        label = len(lesions) + 1
        target[own] = label
        lesions.append(
            LesionTruth(
                label=label,
                type=appearance.type,
                volume_ml=voxels * voxel_ml,
                diameter_mm=float((6000 * voxels * voxel_ml / np.pi) ** (1 / 3)),
                region=None,
                bone="",
                expansile=appearance.expansile,
                cortical=appearance.cortical,
                fracture=False,
                soft_tissue=has_soft_tissue(phantom, blob, appearance),
            )
        )
    return instances, tuple(lesions)
