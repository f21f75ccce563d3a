"""One simulated patient: primary, anatomy, lesions and scan, from one seed."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from osteomet.findings import PrimaryTumour
from osteomet.simulate.anatomy import Region
from osteomet.simulate.benign import add_benign_findings
from osteomet.simulate.bones import Part
from osteomet.simulate.lesions import Blob, add_metastasis, draw_diameter, grow_blob
from osteomet.simulate.phantom import Phantom, draw_phantom
from osteomet.simulate.primaries import (
    APPEARANCES,
    Appearance,
    LesionType,
    draw_age_and_sex,
    draw_appearances,
    draw_count,
    draw_tumour,
)
from osteomet.simulate.scanner import average_slices, draw_protocol, scan
from osteomet.simulate.settings import SIMULATION_VERSION, SimulationConfig
from osteomet.volume import Volume

SMALLEST_VOXELS = 3
"""A lesion of fewer voxels in the scan is not there: nobody could mark it."""


@dataclass(frozen=True)
class LesionTruth:
    """What is true of one metastasis.

    Attributes:
        label: its value in the instance map.
        type: lytic, mixed or sclerotic.
        volume_ml: of its voxels.
        diameter_mm: of the sphere of that volume.
        region: of the field of view.
        bone: the kind of bone it sits in, in lower case.
        expansile: it blows the bone up and has a soft-tissue mass.
        cortical: it eats the cortex from outside.
    """

    label: int
    type: LesionType
    volume_ml: float
    diameter_mm: float
    region: Region
    bone: str
    expansile: bool
    cortical: bool


@dataclass(frozen=True, eq=False)
class SimulatedPatient:
    """A CT of a body region and the truth about it.

    Attributes:
        patient_id: from the seed.
        volume: HU, int16.
        instances: on the same grid, int16; 0 is background, 1 and up are ``lesions``.
        lesions: in the order of their labels; empty for a patient without metastases.
        primary: lung or other.
        tumour: the primary by name, ``kidney`` say.
        age: in years.
        sex: ``M`` or ``F``.
        centre: the scanner's hospital, ``A`` or ``B``.
        region: what the field of view shows.
    """

    patient_id: str
    volume: Volume
    instances: Int[np.ndarray, "z y x"]
    lesions: tuple[LesionTruth, ...]
    primary: PrimaryTumour
    tumour: str
    age: int
    sex: str
    centre: str
    region: Region


def simulate_patient(seed: int, config: SimulationConfig | None = None) -> SimulatedPatient:
    """Simulate one patient; the same seed, configuration and version give the same voxels.

    Args:
        seed: any integer that is not negative.
        config: the priors; the defaults if None.
    """
    config = config or SimulationConfig()
    who, where, what, how = random_streams(seed)
    primary, tumour = draw_tumour(who, config.lung_share)
    age, sex = draw_age_and_sex(who, tumour)
    appearances = draw_appearances(who, tumour, draw_count(who, config))
    protocol = draw_protocol(how, config.field_mm)
    phantom = draw_phantom(where, config, protocol, age)
    add_benign_findings(where, phantom, config.benign_findings, age)
    kinds = [APPEARANCES[k] for k in appearances]
    grown = _grow_metastases(what, config, phantom, kinds)
    instances, lesions = _label(phantom, grown, protocol.shape_zyx, protocol.substeps)
    voxels = scan(how, protocol, phantom.hu, config.noise_scale)
    origin = tuple(float(v) for v in how.uniform(-300, 300, 3))
    return SimulatedPatient(
        patient_id=f"sim-{seed:08d}",
        volume=Volume.from_spacing(
            voxels, protocol.spacing_zyx_mm, (origin[0], origin[1], origin[2])
        ),
        instances=instances,
        lesions=lesions,
        primary=primary,
        tumour=tumour.name,
        age=age,
        sex=sex,
        centre=protocol.centre,
        region=phantom.region,
    )


def random_streams(seed: int) -> tuple[np.random.Generator, ...]:
    """Return the sources of a patient's identity, anatomy, lesions and scan.

    Apart, so that who the patient is does not depend on how many numbers drawing uses.
    """
    sequence = np.random.SeedSequence([SIMULATION_VERSION, seed])
    return tuple(np.random.default_rng(child) for child in sequence.spawn(4))


def _grow_metastases(
    rng: np.random.Generator,
    config: SimulationConfig,
    phantom: Phantom,
    appearances: list[Appearance],
) -> list[tuple[Blob, Appearance]]:
    grown: list[tuple[Blob, Appearance]] = []
    for appearance in appearances:
        diameter_mm = draw_diameter(rng, config, appearance)
        blob = grow_blob(
            rng,
            phantom,
            diameter_mm,
            stiffness=_stiffness(rng, appearance, diameter_mm),
            depth_mm=(-0.5, 2.0) if appearance.cortical else (1.2, 99.0),
            others=[other for other, _ in grown],
        )
        if blob is not None:
            add_metastasis(rng, phantom, blob, appearance)
            grown.append((blob, appearance))
    return grown


def _stiffness(rng: np.random.Generator, appearance: Appearance, diameter_mm: float) -> float:
    # The larger a lytic lesion, the likelier it has broken out of the bone.
    if appearance.expansile:
        return float(rng.uniform(0.25, 0.9))
    if appearance.cortical:
        return float(rng.uniform(1.5, 5.0))
    if appearance.type is not LesionType.SCLEROTIC and rng.random() < diameter_mm / 45:
        return float(rng.uniform(0.7, 2.5))
    return 12.0


def _label(
    phantom: Phantom,
    grown: list[tuple[Blob, Appearance]],
    shape_zyx: tuple[int, int, int],
    substeps: int,
) -> tuple[Int[np.ndarray, "z y x"], tuple[LesionTruth, ...]]:
    instances = np.zeros(shape_zyx, np.int16)
    voxel_ml = float(np.prod(phantom.spacing)) * substeps / 1000
    lesions: list[LesionTruth] = []
    for blob, appearance in grown:
        z, y, x = blob.window
        first, last = z.start // substeps, -(-z.stop // substeps)
        occupancy = np.zeros(((last - first) * substeps, *blob.inward.shape[1:]), np.float32)
        at = z.start - first * substeps
        occupancy[at : at + len(blob.inward)] = blob.fade(float(phantom.spacing[1]))
        own = average_slices(occupancy, substeps) > 0.5
        target = instances[first:last, y, x]
        own &= target == 0
        voxels = int(own.sum())
        if voxels < SMALLEST_VOXELS:
            continue
        label = len(lesions) + 1
        target[own] = label
        volume = voxels * voxel_ml
        lesions.append(
            LesionTruth(
                label=label,
                type=appearance.type,
                volume_ml=volume,
                diameter_mm=float((6000 * volume / np.pi) ** (1 / 3)),
                region=phantom.region,
                bone=Part(blob.part).name.lower(),
                expansile=appearance.expansile,
                cortical=appearance.cortical,
            )
        )
    return instances, tuple(lesions)
