"""Findings that resemble metastases and carry no label."""

import numpy as np

from osteomet.simulate.bones import Part
from osteomet.simulate.lesions import grow_blob
from osteomet.simulate.noise import smooth, textured
from osteomet.simulate.phantom import Phantom

NOT_RIBS = {**dict.fromkeys(Part, 1.0), Part.NONE: 0.0, Part.RIB: 0.2}
BODIES = {**dict.fromkeys(Part, 0.0), Part.BODY: 1.0}


def add_benign_findings(
    rng: np.random.Generator, phantom: Phantom, mean_count: float, age: int
) -> int:
    """Add bone islands, degenerative sclerosis, Schmorl nodes, haemangiomas and cysts.

    Args:
        rng: source of randomness.
        phantom: the patient, changed in place.
        mean_count: findings expected at the age of 60.
        age: in years; wear grows with it.

    Returns:
        How many were added.
    """
    count = rng.poisson(mean_count * np.clip(0.4 + age / 100, 0.6, 1.4))
    kinds = (_bone_island, _end_plate_sclerosis, _schmorl_node, _haemangioma, _fatty_marrow)
    for kind in rng.choice(len(kinds), size=count, p=[0.3, 0.3, 0.15, 0.12, 0.13]):
        kinds[kind](rng, phantom)
    return int(count)


def _bone_island(rng: np.random.Generator, phantom: Phantom) -> None:
    # Small, as dense as cortex, spiculated, sharply bordered.
    blob = grow_blob(
        rng, phantom, rng.uniform(3, 8), stiffness=10.0, depth_mm=(1.0, 99.0), places=NOT_RIBS
    )
    if blob is None:
        return
    hu = phantom.hu[blob.window]
    hu += blob.fade(0.7) * np.maximum(rng.uniform(850, 1250) - hu, 0)


def _end_plate_sclerosis(rng: np.random.Generator, phantom: Phantom) -> None:
    # A flat band under the surface of a body or of a joint.
    blob = grow_blob(
        rng, phantom, rng.uniform(10, 22), stiffness=10.0, depth_mm=(0.0, 2.5), places=NOT_RIBS
    )
    if blob is None:
        return
    depth = -phantom.bone[blob.window]
    band = np.exp(-np.maximum(depth, 0) / rng.uniform(1.5, 3.5)) * (depth > 0)
    clouds = 1 + 0.15 * smooth(rng, band.shape, tuple(4.0 / phantom.spacing))
    hu = phantom.hu[blob.window]
    hu += blob.fade(4.0) * band * np.maximum(rng.uniform(450, 1000) * clouds - hu, 0)


def _schmorl_node(rng: np.random.Generator, phantom: Phantom) -> None:
    # Disc pushed through an end plate: a notch with a dense rim, open to the surface.
    blob = grow_blob(
        rng, phantom, rng.uniform(5, 10), stiffness=3.0, depth_mm=(0.0, 2.0), places=BODIES
    )
    if blob is None:
        return
    hu = phantom.hu[blob.window]
    inside_bone = phantom.bone[blob.window] < 0.5
    hu += blob.fade(0.9) * inside_bone * (rng.uniform(70, 110) - hu)
    rim = np.exp(-((blob.inward + 0.9) ** 2) / 0.6) * (phantom.bone[blob.window] < -0.3)
    hu += rim * np.maximum(rng.uniform(450, 800) - hu, 0)


def _haemangioma(rng: np.random.Generator, phantom: Phantom) -> None:
    # Fat between few, thick, upright trabeculae: dots in axial slices, stripes in others.
    blob = grow_blob(
        rng, phantom, rng.uniform(9, 20), stiffness=10.0, depth_mm=(2.5, 99.0), places=BODIES
    )
    if blob is None:
        return
    shape = blob.inward.shape
    rods = textured(rng, shape, tuple(np.array([6.0, 0.75, 0.75]) / phantom.spacing))
    target = rng.uniform(-40, 40) + rng.uniform(280, 420) * np.clip(rods - 0.7, 0, 1.5)
    keep = 1 - phantom.cortex[blob.window]
    hu = phantom.hu[blob.window]
    hu += blob.fade(1.2) * keep * (target - hu)


def _fatty_marrow(rng: np.random.Generator, phantom: Phantom) -> None:
    # Focal fat: darker than tumour, with soft borders and trabeculae left.
    blob = grow_blob(
        rng, phantom, rng.uniform(8, 20), stiffness=10.0, depth_mm=(2.0, 99.0), places=NOT_RIBS
    )
    if blob is None:
        return
    keep = 1 - phantom.cortex[blob.window]
    hu = phantom.hu[blob.window]
    hu += blob.fade(6.0) * keep * rng.uniform(0.4, 0.8) * (rng.uniform(-70, -10) - hu)
