"""One simulated patient: primary, anatomy, lesions and scan, from one seed."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from osteomet.findings import PrimaryTumour
from osteomet.simulate.anatomy import Region
from osteomet.simulate.benign import add_benign_findings
from osteomet.simulate.bones import Part
from osteomet.simulate.fractures import break_bone, collapse_body
from osteomet.simulate.lesions import Blob, draw_diameter, grow_blob
from osteomet.simulate.metastases import add_metastasis, has_soft_tissue
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

CORTICAL_MM, CENTRAL_MM = (-0.5, 2.0), (1.2, 99.0)
"""Depths under the surface of bone from which a lesion grows."""

FRACTURES = {LesionType.LYTIC: 0.45, LesionType.MIXED: 0.3, LesionType.SCLEROTIC: 0.06}
"""Probability that the bone around a large lesion fails."""


@dataclass(frozen=True)
class LesionTruth:
    """What is true of one metastasis.

    Attributes:
        label: its value in the instance map.
        type: lytic, mixed or sclerotic.
        volume_ml: of its voxels.
        diameter_mm: of the sphere of that volume.
        region: of the field of view; None in a scan that was not simulated.
        bone: the kind of bone it sits in, in lower case; empty where that is not known.
        expansile: it blows the bone up and has a soft-tissue mass.
        cortical: it eats the cortex from outside.
        fracture: the bone has collapsed or broken through it.
        soft_tissue: it has grown out of the bone.
    """

    label: int
    type: LesionType
    volume_ml: float
    diameter_mm: float
    region: Region | None
    bone: str
    expansile: bool
    cortical: bool
    fracture: bool
    soft_tissue: bool


@dataclass(eq=False)
class _Grown:
    """A metastasis in the phantom."""

    blob: Blob
    appearance: Appearance
    soft_tissue: bool
    fracture: bool = False


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
        age: in years; None in a scan that was not simulated.
        sex: ``M`` or ``F``; empty there.
        centre: the scanner's hospital, ``A`` or ``B``.
        region: what the field of view shows; None there.
        mimics: what else was drawn that is no metastasis, one word or two each.
    """

    patient_id: str
    volume: Volume
    instances: Int[np.ndarray, "z y x"]
    lesions: tuple[LesionTruth, ...]
    primary: PrimaryTumour
    tumour: str
    age: int | None
    sex: str
    centre: str
    region: Region | None
    mimics: tuple[str, ...]


def simulate_patient(
    seed: int,
    config: SimulationConfig | None = None,
    *,
    centre: str | None = None,
    is_lung: bool | None = None,
) -> SimulatedPatient:
    """Simulate one patient; the same arguments and version give the same voxels.

    Args:
        seed: any integer that is not negative.
        config: the priors; the defaults if None.
        centre: ``A`` or ``B``; None draws it.
        is_lung: whether the primary is lung cancer; None draws it.
    """
    config = config or SimulationConfig()
    who, where, what, how = random_streams(seed)
    primary, tumour = draw_tumour(who, config.lung_share if is_lung is None else float(is_lung))
    age, sex = draw_age_and_sex(who, tumour)
    appearances = draw_appearances(who, tumour, draw_count(who, config))
    protocol = draw_protocol(how, config, centre)
    region = None if config.region is None else Region(config.region)
    phantom = draw_phantom(where, config, protocol, age, region)
    mimics = add_benign_findings(where, phantom, config, age, sex)
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
        mimics=mimics,
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
) -> list[_Grown]:
    grown: list[_Grown] = []
    for appearance in appearances:
        diameter_mm = draw_diameter(rng, config, appearance)
        blob = grow_blob(
            rng,
            phantom,
            diameter_mm,
            stiffness=draw_stiffness(rng, appearance, diameter_mm),
            depth_mm=CORTICAL_MM if appearance.cortical else CENTRAL_MM,
            others=[other.blob for other in grown],
        )
        if blob is None:
            continue
        add_metastasis(rng, phantom, blob, appearance)
        lesion = _Grown(blob, appearance, has_soft_tissue(phantom, blob, appearance))
        grown.append(lesion)
        if rng.random() < fracture_risk(lesion):
            lesion.fracture = _break(rng, phantom, lesion, [other.blob for other in grown])
    return grown


def draw_stiffness(rng: np.random.Generator, appearance: Appearance, diameter_mm: float) -> float:
    """Draw how much the bone's surface holds a lesion back; see ``grow_blob``."""
    # The larger a lytic lesion, the likelier it has broken out of the bone.
    if appearance.expansile:
        return float(rng.uniform(0.25, 0.9))
    if appearance.cortical:
        return float(rng.uniform(1.5, 5.0))
    if appearance.type is not LesionType.SCLEROTIC and rng.random() < diameter_mm / 45:
        return float(rng.uniform(2.0, 5.0))
    return 12.0


def fracture_risk(lesion: _Grown) -> float:
    """Return the probability that the bone fails: by type and size, not by primary.

    Source: Mirels, Clin Orthop Relat Res 1989; 249: 256-264.
    """
    size = float(np.clip((lesion.blob.diameter_mm - 10) / 22, 0, 1))
    return FRACTURES[lesion.appearance.type] * size


def _break(rng: np.random.Generator, phantom: Phantom, lesion: _Grown, blobs: list[Blob]) -> bool:
    centre = lesion.blob.centre
    if lesion.blob.part == Part.BODY:
        loss = float(rng.uniform(0.15, 0.5))
        return collapse_body(rng, phantom, centre, loss, blobs, fresh=True)
    if phantom.bone[tuple(centre)] >= 0:
        return False
    break_bone(rng, phantom, centre, 0.5 * lesion.blob.diameter_mm + 3, age="fresh")
    return True


def _label(
    phantom: Phantom,
    grown: list[_Grown],
    shape_zyx: tuple[int, int, int],
    substeps: int,
) -> tuple[Int[np.ndarray, "z y x"], tuple[LesionTruth, ...]]:
    instances = np.zeros(shape_zyx, np.int16)
    voxel_ml = float(np.prod(phantom.spacing)) * substeps / 1000
    lesions: list[LesionTruth] = []
    for lesion in grown:
        blob = lesion.blob
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
                type=lesion.appearance.type,
                volume_ml=volume,
                diameter_mm=float((6000 * volume / np.pi) ** (1 / 3)),
                region=phantom.region,
                bone=Part(blob.part).name.lower(),
                expansile=lesion.appearance.expansile,
                cortical=lesion.appearance.cortical,
                fracture=lesion.fracture,
                soft_tissue=lesion.soft_tissue,
            )
        )
    return instances, tuple(lesions)
