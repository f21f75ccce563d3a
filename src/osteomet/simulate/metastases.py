"""How a metastasis changes the bone it grew in.

Margins follow Lodwick's grades: geographic with or without a rim of new bone, graded, and
moth-eaten, where islands of bone are left. Source: Lodwick, Wilson, Farrell, Virtama and
Dittrich, Radiology 1980; 134: 577-583.
"""

import numpy as np

from osteomet.simulate.lesions import METAL_HU, Blob
from osteomet.simulate.noise import Field, smooth, textured
from osteomet.simulate.phantom import Phantom
from osteomet.simulate.primaries import Appearance, LesionType

SOFT_TISSUE_ML = 0.2
"""Tumour outside the bone above which there is a soft-tissue mass."""

DENSEST_HU = 1350.0


def add_metastasis(
    rng: np.random.Generator, phantom: Phantom, blob: Blob, appearance: Appearance
) -> None:
    """Change the phantom's HU where a metastasis grows."""
    metal = phantom.hu[blob.window] > METAL_HU
    before = phantom.hu[blob.window][metal]
    if appearance.type is LesionType.SCLEROTIC:
        _densify(rng, phantom, blob, _fade(rng, phantom, blob, (0.8, 4.0)))
    elif appearance.type is LesionType.LYTIC:
        _lytic(rng, phantom, blob, appearance)
    else:
        _mixed(rng, phantom, blob, appearance)
    phantom.hu[blob.window][metal] = before


def has_soft_tissue(phantom: Phantom, blob: Blob, appearance: Appearance) -> bool:
    """Tell whether a lesion has grown out of the bone; new bone does not."""
    if appearance.type is LesionType.SCLEROTIC:
        return False
    outside = (blob.inward > 0) & (phantom.bone[blob.window] > 1.0)
    return float(outside.sum() * np.prod(phantom.spacing)) / 1000 > SOFT_TISSUE_ML


def _fade(
    rng: np.random.Generator, phantom: Phantom, blob: Blob, widths_mm: tuple[float, float]
) -> Field:
    """Return 1 inside and 0 outside, across a margin that is sharper in places."""
    mean = rng.uniform(*widths_mm)
    uneven = smooth(rng, blob.inward.shape, tuple(6.0 / phantom.spacing))
    width = np.maximum(mean * (1 + 0.35 * uneven), 0.6).astype(np.float32)
    # Fine teeth: trabeculae end at different depths.
    teeth = 0.25 * mean * textured(rng, blob.inward.shape, tuple(0.8 / phantom.spacing))
    faded: Field = np.clip(0.5 + (blob.inward + teeth) / width, 0, 1).astype(np.float32)
    return faded


def _lytic(rng: np.random.Generator, phantom: Phantom, blob: Blob, appearance: Appearance) -> None:
    fade = _fade(rng, phantom, blob, (0.8, 4.0))
    if not appearance.expansile and rng.random() < 0.25:
        # Moth-eaten: small holes that run together in the middle.
        holes = smooth(rng, fade.shape, tuple(rng.uniform(1.6, 3.0) / phantom.spacing))
        depth = np.clip(blob.inward / (0.35 * blob.diameter_mm), 0, 1)
        fade = fade * np.clip(0.6 + 1.2 * holes + 0.7 * depth, 0.1, 1).astype(np.float32)
    _destroy(rng, phantom, blob, appearance, fade)
    if rng.random() < 0.25:
        _rim(rng, phantom, blob)


def _mixed(rng: np.random.Generator, phantom: Phantom, blob: Blob, appearance: Appearance) -> None:
    """Dense and destroyed parts: beside each other, in grains, or one around the other."""
    shape, radius = blob.inward.shape, blob.diameter_mm / 2
    pattern = rng.choice(["halves", "grains", "rim", "core"], p=[0.4, 0.25, 0.2, 0.15])
    if pattern in {"halves", "grains"}:
        scale = max(0.5 * radius, 2.0) if pattern == "halves" else rng.uniform(1.2, 2.2)
        parts = smooth(rng, shape, tuple(scale / phantom.spacing))
        parts += 0.7 * smooth(rng, shape, tuple(2.3 * scale / phantom.spacing))
        dense = 0.5 + (1.0 if pattern == "halves" else 0.45) * (parts - np.median(parts))
    else:
        middle = (0.45 + 0.15 * rng.standard_normal()) * radius
        uneven = smooth(rng, shape, tuple(max(0.4 * radius, 2.0) / phantom.spacing))
        dense = 0.5 + (middle - blob.inward + 0.25 * radius * uneven) / 2.5
        dense = dense if pattern == "rim" else 1 - dense
    # What has grown out of the bone is soft: new bone needs bone.
    dense = np.clip(dense, 0, 1) * (phantom.bone[blob.window] < 0)
    dense = dense.astype(np.float32)
    fade = _fade(rng, phantom, blob, (1.0, 4.0))
    _destroy(rng, phantom, blob, appearance, fade * (1 - dense))
    _densify(rng, phantom, blob, fade * dense)


def _destroy(
    rng: np.random.Generator,
    phantom: Phantom,
    blob: Blob,
    appearance: Appearance,
    fade: Field,
) -> None:
    # Tumour replaces marrow; trabeculae and cortex may be left.
    window, shape = blob.window, blob.inward.shape
    tissue = rng.uniform(25, 85) + 7 * textured(rng, shape, tuple(2.0 / phantom.spacing))
    if blob.diameter_mm > 25 and rng.random() < 0.5:
        # The middle of a large one has died.
        tissue -= rng.uniform(10, 40) * np.clip(blob.inward / (0.3 * blob.diameter_mm), 0, 1)
    aggressive = (
        appearance.expansile or appearance.cortical or has_soft_tissue(phantom, blob, appearance)
    )
    left_over = 0.0 if aggressive else 0.45 * rng.beta(1.1, 2.5)
    # Cortex is spared in places; a large lesion spares little.
    spared = 0.0 if aggressive else rng.choice([0.2, 0.6, 1.0]) * min(1.0, 16.0 / blob.diameter_mm)
    holes = smooth(rng, shape, tuple(5.0 / phantom.spacing))
    spared = spared * np.clip(0.75 + 0.6 * holes, 0, 1).astype(np.float32)
    share = fade * (1 - left_over) * (1 - spared * phantom.cortex[window])
    hu = phantom.hu[window]
    hu += share * (tissue - hu)
    if appearance.expansile:
        _expanded(rng, phantom, blob)


def _expanded(rng: np.random.Generator, phantom: Phantom, blob: Blob) -> None:
    """Add a broken shell of new bone around the part outside, and ridges within."""
    shape = blob.inward.shape
    hu, bone = phantom.hu[blob.window], phantom.bone[blob.window]
    if rng.random() < 0.6:
        shell = np.exp(-((blob.inward - 0.4) ** 2) / 0.5) * (bone > -0.5)
        gaps = smooth(rng, shape, tuple(6.0 / phantom.spacing)) > rng.uniform(-0.6, 0.6)
        hu += shell * gaps * np.maximum(rng.uniform(250, 650) - hu, 0)
    if rng.random() < 0.25:
        # What is left of the trabeculae makes ridges: a smooth field is 0 on such sheets.
        field = smooth(rng, shape, tuple(max(0.3 * blob.diameter_mm, 4.0) / phantom.spacing))
        torn = np.clip(smooth(rng, shape, tuple(4.0 / phantom.spacing)), 0, 1)
        sheets = np.clip(1 - np.abs(field) / 0.12, 0, 1) * torn * (blob.inward > 0) * (bone < 1.0)
        hu += sheets * np.maximum(rng.uniform(150, 400) - hu, 0)


def _rim(rng: np.random.Generator, phantom: Phantom, blob: Blob) -> None:
    """Add a rim of new bone around a slow lesion, in the marrow, thin and with gaps."""
    width = rng.uniform(0.7, 1.8)
    rim = np.exp(-(((blob.inward + 0.6 * width) / width) ** 2)) * (phantom.bone[blob.window] < -0.5)
    gaps = np.clip(0.6 + smooth(rng, rim.shape, tuple(5.0 / phantom.spacing)), 0, 1)
    hu = phantom.hu[blob.window]
    hu += rim * gaps * np.maximum(phantom.marrow_hu + rng.uniform(80, 420) - hu, 0)


def _densify(rng: np.random.Generator, phantom: Phantom, blob: Blob, fade: Field) -> None:
    """Fill the marrow with new bone: evenly, in clouds, or most at the edge."""
    window, shape = blob.window, fade.shape
    peak = phantom.marrow_hu + 120 + 850 * rng.beta(1.1, 1.9)
    even = rng.random() < 0.3
    clouds = smooth(rng, shape, tuple(3.5 / phantom.spacing)) * (0.08 if even else 0.22)
    grain = textured(rng, shape, tuple(0.8 / phantom.spacing))
    target = peak * (1 + clouds + 0.08 * grain)
    if rng.random() < 0.15:
        # A target: marrow, or dead bone, is less dense in the middle.
        target -= (
            0.5 * (peak - phantom.marrow_hu) * np.clip(4 * blob.inward / blob.diameter_mm, 0, 1)
        )
    hu = phantom.hu[window]
    target = np.clip(target, None, DENSEST_HU)
    hu += fade * (phantom.bone[window] < 0.4) * np.maximum(target - hu, 0)
