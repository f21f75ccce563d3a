"""Findings that resemble metastases and carry no label."""

from collections.abc import Callable

import numpy as np

from osteomet.simulate.bones import Part
from osteomet.simulate.fractures import break_bone, collapse_body
from osteomet.simulate.implants import add_calcification, add_cement, add_implant
from osteomet.simulate.lesions import Blob, grow_blob
from osteomet.simulate.noise import smooth, textured
from osteomet.simulate.phantom import Phantom
from osteomet.simulate.settings import SimulationConfig

NOT_RIBS = {**dict.fromkeys(Part, 1.0), Part.NONE: 0.0, Part.RIB: 0.2}
BODIES = {**dict.fromkeys(Part, 0.0), Part.BODY: 1.0}


TRIES, WELL_INSIDE_MM = 20, 8.0
SMALL_KINDS = {
    "bone island": 0.24,
    "end plate sclerosis": 0.24,
    "Schmorl node": 0.13,
    "haemangioma": 0.11,
    "fatty marrow": 0.12,
    "cyst": 0.06,
    "calcification": 0.1,
}
"""How the small findings divide."""


def add_benign_findings(
    rng: np.random.Generator, phantom: Phantom, config: SimulationConfig, age: int, sex: str
) -> tuple[str, ...]:
    """Add what a patient of this age and sex may have besides metastases.

    Args:
        rng: source of randomness.
        phantom: the patient, changed in place.
        config: how much of it.
        age: in years; wear and fractures grow with it.
        sex: women's bones break more often.

    Returns:
        What was added; what the field of view has no place for is left out.
    """
    added = []
    count = rng.poisson(config.benign_findings * np.clip(0.4 + age / 100, 0.6, 1.4))
    for kind in rng.choice(list(SMALL_KINDS), size=count, p=list(SMALL_KINDS.values())):
        if PAINTERS[str(kind)](rng, phantom):
            added.append(str(kind))
    frailty = np.clip((age - 30) / 40, 0, 1.6) * (1.25 if sex == "F" else 0.75)
    added += [_fracture(rng, phantom) for _ in range(rng.poisson(config.fractures * frailty))]
    if rng.random() < config.cement_share:
        added.append(add_cement(rng, phantom))
    if rng.random() < config.implant_share:
        added.append(add_implant(rng, phantom, age))
    return tuple(kind for kind in added if kind)


def _fracture(rng: np.random.Generator, phantom: Phantom) -> str:
    """Break a bone that is not diseased: a vertebra that has sunk, or any other bone."""
    inside = np.argwhere(phantom.bone[::3, ::3, ::3] < -1.5) * 3
    if len(inside) == 0:
        return ""
    # Few voxels are ribs, but many fractures are.
    parts = phantom.part[tuple(inside.T)]
    weights = np.where(parts == Part.RIB, 4.0, 1.0)
    centre = inside[rng.choice(len(inside), p=weights / weights.sum())]
    fresh = bool(rng.random() < 0.4)
    if phantom.part[tuple(centre)] == Part.BODY:
        loss = float(rng.uniform(0.15, 0.5))
        sunk = collapse_body(rng, phantom, centre, loss, [], fresh=fresh)
        return ("acute collapse" if fresh else "healed collapse") if sunk else ""
    age = "fresh" if fresh else str(rng.choice(["healing", "healed"]))
    break_bone(rng, phantom, centre, rng.uniform(10, 18), age=age)
    return f"{age} fracture"


def _bone_island(rng: np.random.Generator, phantom: Phantom) -> bool:
    # Small, as dense as cortex, spiculated, sharply bordered.
    blob = grow_blob(
        rng, phantom, rng.uniform(3, 8), stiffness=10.0, depth_mm=(1.0, 99.0), places=NOT_RIBS
    )
    if blob is None:
        return False
    hu = phantom.hu[blob.window]
    # Its edge is brushed into the trabeculae around.
    thorns = 0.6 * smooth(rng, hu.shape, tuple(1.1 / phantom.spacing))
    share = np.clip(0.5 + (blob.inward + thorns) / 0.9, 0, 1)
    hu += share * np.maximum(rng.uniform(850, 1250) - hu, 0)
    return True


def _end_plate_sclerosis(rng: np.random.Generator, phantom: Phantom) -> bool:
    # A flat band under the surface of a body or of a joint.
    blob = grow_blob(
        rng, phantom, rng.uniform(10, 22), stiffness=10.0, depth_mm=(0.0, 2.5), places=NOT_RIBS
    )
    if blob is None:
        return False
    depth = -phantom.bone[blob.window]
    band = np.exp(-np.maximum(depth, 0) / rng.uniform(1.5, 3.5)) * (depth > 0)
    clouds = 1 + 0.15 * smooth(rng, band.shape, tuple(4.0 / phantom.spacing))
    hu = phantom.hu[blob.window]
    hu += blob.fade(4.0) * band * np.maximum(rng.uniform(450, 1000) * clouds - hu, 0)
    return True


def _schmorl_node(rng: np.random.Generator, phantom: Phantom) -> bool:
    # Disc pushed through an end plate: a notch with a dense rim, open to the surface.
    blobs = (
        grow_blob(
            rng, phantom, rng.uniform(5, 10), stiffness=3.0, depth_mm=(0.0, 2.0), places=BODIES
        )
        for _ in range(TRIES)
    )
    blob = next((one for one in blobs if one is not None and _at_a_plate(phantom, one)), None)
    if blob is None:
        return False
    hu = phantom.hu[blob.window]
    inside_bone = phantom.bone[blob.window] < 0.5
    hu += blob.fade(0.9) * inside_bone * (rng.uniform(70, 110) - hu)
    rim = np.exp(-((blob.inward + 0.9) ** 2) / 0.6) * (phantom.bone[blob.window] < -0.3)
    hu += rim * np.maximum(rng.uniform(450, 800) - hu, 0)
    return True


def _at_a_plate(phantom: Phantom, blob: Blob) -> bool:
    """Tell whether the nearest surface of bone looks up or down."""
    window = tuple(slice(max(c - 1, 0), c + 2) for c in blob.centre)
    around = phantom.bone[window]
    if around.shape != (3, 3, 3):
        return False
    slopes = [np.ptp(around.mean(axis=tuple({0, 1, 2} - {k}))) for k in range(3)]
    up, *across = (slope / step for slope, step in zip(slopes, phantom.spacing, strict=True))
    # And not at its rim: well into the bone from there, all sides are far.
    z, y, x = blob.centre
    step = round(WELL_INSIDE_MM / float(phantom.spacing[0]))
    column = phantom.bone[max(z - step, 0) : z + step + 1, y, x]
    return bool(up > 1.5 * np.hypot(*across) and column.min() < -0.8 * WELL_INSIDE_MM)


def _haemangioma(rng: np.random.Generator, phantom: Phantom) -> bool:
    # Fat between few, thick, upright trabeculae: dots in axial slices, stripes in others.
    blob = grow_blob(
        rng, phantom, rng.uniform(9, 20), stiffness=10.0, depth_mm=(2.5, 99.0), places=BODIES
    )
    if blob is None:
        return False
    shape = blob.inward.shape
    rods = textured(rng, shape, tuple(np.array([7.0, 0.8, 0.8]) / phantom.spacing))
    target = rng.uniform(-70, 15) + rng.uniform(320, 500) * np.clip(rods - 0.7, 0, 1.5)
    keep = 1 - phantom.cortex[blob.window]
    hu = phantom.hu[blob.window]
    hu += blob.fade(1.2) * keep * (target - hu)
    return True


def _fatty_marrow(rng: np.random.Generator, phantom: Phantom) -> bool:
    # Focal fat: darker than tumour, with soft borders and trabeculae left.
    blob = grow_blob(
        rng, phantom, rng.uniform(8, 20), stiffness=10.0, depth_mm=(2.0, 99.0), places=NOT_RIBS
    )
    if blob is None:
        return False
    keep = 1 - phantom.cortex[blob.window]
    hu = phantom.hu[blob.window]
    hu += blob.fade(6.0) * keep * rng.uniform(0.4, 0.8) * (rng.uniform(-70, -10) - hu)
    return True


def _cyst(rng: np.random.Generator, phantom: Phantom) -> bool:
    # Under a joint or an end plate: fluid in a thin, even, dense wall.
    blob = grow_blob(
        rng, phantom, rng.uniform(4, 11), stiffness=8.0, depth_mm=(1.5, 7.0), places=NOT_RIBS
    )
    if blob is None:
        return False
    hu = phantom.hu[blob.window]
    keep = 1 - phantom.cortex[blob.window]
    hu += blob.fade(0.8) * keep * (rng.uniform(0, 35) - hu)
    wall = np.exp(-(((blob.inward + 0.5) / 0.8) ** 2)) * (phantom.bone[blob.window] < -0.5)
    hu += wall * np.maximum(rng.uniform(350, 700) - hu, 0)
    return True


def _calcification(rng: np.random.Generator, phantom: Phantom) -> bool:
    return bool(add_calcification(rng, phantom))


PAINTERS: dict[str, Callable[[np.random.Generator, Phantom], bool]] = {
    "bone island": _bone_island,
    "end plate sclerosis": _end_plate_sclerosis,
    "Schmorl node": _schmorl_node,
    "haemangioma": _haemangioma,
    "fatty marrow": _fatty_marrow,
    "cyst": _cyst,
    "calcification": _calcification,
}
"""What adds each of the small findings; it tells whether there was room for it."""
