"""A patient without lesions, drawn in HU at the resolution of the scan."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy import ndimage

from osteomet.simulate.anatomy import Region, draw_abdomen, draw_pelvis, draw_thorax
from osteomet.simulate.bones import Part
from osteomet.simulate.noise import Field, smooth, textured
from osteomet.simulate.scanner import Protocol
from osteomet.simulate.settings import SimulationConfig
from osteomet.simulate.shapes import Canvas

AIR_HU = -1000.0

CORTEX_MM = {
    Part.NONE: 1.0,
    Part.BODY: 0.75,
    Part.POSTERIOR: 1.25,
    Part.RIB: 1.0,
    Part.SACRUM: 1.0,
    Part.ILIUM: 1.5,
    Part.FEMUR: 1.4,
    Part.STERNUM: 1.0,
    Part.CLAVICLE: 1.6,
    Part.SCAPULA: 1.2,
    Part.HUMERUS: 2.0,
}
"""Mean thickness of the cortex."""

MARROW_SHARE = {
    Part.NONE: 1.0,
    Part.BODY: 1.0,
    Part.POSTERIOR: 1.0,
    Part.RIB: 0.75,
    Part.SACRUM: 0.62,
    Part.ILIUM: 0.7,
    Part.FEMUR: 1.15,
    Part.STERNUM: 0.8,
    Part.CLAVICLE: 0.8,
    Part.SCAPULA: 0.8,
    Part.HUMERUS: 0.9,
}
"""Trabecular density relative to a vertebral body's."""


@dataclass(eq=False)
class Phantom:
    """A drawn patient. Lesions change ``hu``; the rest says where bone is.

    Attributes:
        hu: values before the scanner.
        bone: signed distance in mm to the surface of bone, negative inside.
        part: ``Part`` of the bone.
        cortex: share of cortex in each voxel's bone.
        marrow_hu: mean HU of the trabecular bone of a vertebral body.
        spacing: mm between voxels.
        region: what the field of view shows.
    """

    hu: Field
    bone: Field
    part: Integer[np.ndarray, "z y x"]
    cortex: Field
    marrow_hu: float
    spacing: Float[np.ndarray, " 3"]
    region: Region

    @property
    def inside(self) -> Bool[np.ndarray, "z y x"]:
        return self.bone < 0


def draw_phantom(
    rng: np.random.Generator,
    config: SimulationConfig,
    protocol: Protocol,
    age: int,
    region: Region | None = None,
) -> Phantom:
    """Draw the anatomy of one patient.

    Args:
        rng: source of everything that differs between patients.
        config: shares of the regions.
        protocol: the grid and the contrast phase.
        age: in years; the old have less dense, fattier marrow and thinner cortex.
        region: what to show; drawn by the shares of ``config`` if None.
    """
    drawn = _draw_region(rng, config)
    region = region or drawn
    spacing = np.array(protocol.drawn_spacing_mm)
    shape = protocol.drawn_shape
    warp = np.stack(
        [
            1.5 * smooth(rng, shape, tuple(28.0 / spacing))
            + 0.35 * smooth(rng, shape, tuple(7.0 / spacing))
            for _ in range(3)
        ]
    )
    middle = _draw_middle(rng, region)
    origin = middle - spacing * (np.array(shape) - 1) / 2
    canvas = Canvas.blank(warp, origin, spacing, AIR_HU)
    draw = {
        Region.THORACIC: draw_thorax,
        Region.LUMBAR: draw_abdomen,
        Region.PELVIS: draw_pelvis,
    }[region]
    draw(canvas, rng, protocol.contrast_hu)
    bone = ndimage.gaussian_filter(canvas.bone, 0.55 / spacing, truncate=2.5)
    bone += 0.22 * smooth(rng, shape, tuple(3.0 / spacing))
    return _with_bone(rng, canvas, bone, region, age)


def _draw_region(rng: np.random.Generator, config: SimulationConfig) -> Region:
    dice = rng.random()
    if dice < config.thoracic_share:
        return Region.THORACIC
    if dice < config.thoracic_share + config.lumbar_share:
        return Region.LUMBAR
    return Region.PELVIS


def _draw_middle(rng: np.random.Generator, region: Region) -> Float[np.ndarray, " 3"]:
    if region is Region.THORACIC:
        return np.array(
            [rng.uniform(-15, 15), rng.uniform(-5, 22), rng.choice([-1, 1]) * rng.uniform(0, 60)]
        )
    if region is Region.LUMBAR:
        return np.array([rng.uniform(-15, 15), rng.uniform(0, 22), rng.uniform(-18, 18)])
    side = rng.choice([-1.0, 1.0])
    views = ((12, 2, 0), (20, 0, 70), (-62, -18, 85))
    view = np.array(views[rng.choice(3, p=[0.4, 0.3, 0.3])], dtype=float) * (1, 1, side)
    middle: Float[np.ndarray, " 3"] = view + rng.uniform(-14, 14, 3)
    return middle


def _with_bone(
    rng: np.random.Generator, canvas: Canvas, bone: Field, region: Region, age: int
) -> Phantom:
    shape, spacing = bone.shape, canvas.spacing
    marrow = float(np.clip(245 - 2.1 * (age - 35) + rng.normal(0, 32), 85, 290))
    cortex_hu = float(rng.uniform(800, 1250))
    lumps = smooth(rng, shape, tuple(9.0 / spacing))
    thickness = _by_part(canvas.part, CORTEX_MM) * np.float32(
        rng.uniform(0.85, 1.2) - 0.004 * (age - 60)
    )
    thickness *= np.clip(1 + 0.25 * lumps, 0.5, 1.6)
    edge = np.float32(0.8 * spacing[1])
    cortex = np.clip(0.5 + (thickness + bone) / (0.9 * edge + 0.3), 0, 1)
    trabecular = marrow * _by_part(canvas.part, MARROW_SHARE) + _trabeculae(
        rng, shape, spacing, marrow
    )
    # Just under the cortex trabecular bone is denser.
    trabecular += 0.5 * marrow * np.exp(np.minimum(bone + thickness, 0) / 1.6)
    bone_hu = trabecular + cortex * (cortex_hu * np.clip(1 + 0.12 * lumps, 0.6, 1.3) - trabecular)
    soft = canvas.soft + _soft_texture(rng, canvas.soft, spacing)
    share = np.clip(0.5 - bone / edge, 0, 1)
    hu = soft + share * (bone_hu - soft)
    return Phantom(hu.astype(np.float32), bone, canvas.part, cortex, marrow, spacing, region)


def _by_part(part: Integer[np.ndarray, "z y x"], table: dict[Part, float]) -> Field:
    values: Field = np.array([table[p] for p in Part], np.float32)[part]
    return values


def _trabeculae(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    spacing: Float[np.ndarray, " 3"],
    marrow: float,
) -> Field:
    # Trabeculae run along the load, mostly upright; larger patches are fatty.
    fine = textured(rng, shape, tuple(np.array([0.9, 0.5, 0.5]) / spacing))
    coarse = textured(rng, shape, tuple(np.array([2.2, 1.3, 1.3]) / spacing))
    patches = smooth(rng, shape, tuple(11.0 / spacing))
    strength = rng.uniform(0.75, 1.3)
    field: Field = strength * (
        (28 + 0.16 * marrow) * fine + (10 + 0.09 * marrow) * coarse + (6 + 0.08 * marrow) * patches
    )
    return field


def _soft_texture(rng: np.random.Generator, soft: Field, spacing: Float[np.ndarray, " 3"]) -> Field:
    # Muscle is parted by thin sheets of fat, where a smooth field crosses zero, and streaked
    # with it; lung is uneven; fat and fluids are nearly flat.
    streaks = textured(rng, soft.shape, tuple(np.array([2.5, 0.8, 1.4]) / spacing))
    field = np.float32(3.5) * streaks
    muscle = (soft > 43) & (soft < 66)
    parting = smooth(rng, soft.shape, tuple(np.array([40.0, 15.0, 15.0]) / spacing))
    amount = smooth(rng, soft.shape, tuple(25.0 / spacing))
    amount = np.clip(0.45 + 0.4 * amount + rng.uniform(-0.3, 0.3), 0, 1)
    sheet = np.maximum(1 - np.abs(parting) / np.float32(0.17), 0) * amount
    fatty = np.maximum(streaks - rng.uniform(0.9, 1.8), 0) * rng.uniform(0, 60)
    field -= muscle * np.minimum(150 * sheet + fatty, 150)
    field[soft < -300] *= 6.0
    return field.astype(np.float32)
