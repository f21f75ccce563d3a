"""A patient without lesions, drawn in HU at the resolution of the scan."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer

from osteomet.simulate.anatomy import Anatomy, Region, draw_anatomy, draw_middle
from osteomet.simulate.noise import Field, draw_tile
from osteomet.simulate.pelvis import HIP
from osteomet.simulate.raster import Slab
from osteomet.simulate.scanner import Protocol
from osteomet.simulate.settings import SimulationConfig
from osteomet.simulate.texture import Look, compose, round_off, warp_field
from osteomet.simulate.torso import draw_trunk_outline

SLAB_VOXELS = 4_000_000
"""Voxels drawn at a time: little memory, whatever the size of the scan."""

BENDS_MM = (1.5, 0.3)
"""Standard deviation of the slow and of the quick bends of all shapes."""


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
    spacing, shape = np.array(protocol.drawn_spacing_mm), protocol.drawn_shape
    anatomy = draw_anatomy(rng, protocol.contrast_hu, age)
    middle = draw_middle(rng, region, spacing * np.array(shape))
    look = _draw_look(rng, age, anatomy.build.muscle_hu)
    phantom = Phantom(
        hu=np.empty(shape, np.float32),
        bone=np.empty(shape, np.float32),
        part=np.empty(shape, np.uint8),
        cortex=np.empty(shape, np.float32),
        marrow_hu=look.marrow_hu,
        spacing=spacing,
        region=region,
    )
    # Shapes are in the millimetres of a patient of mean stature.
    step = spacing / anatomy.stature
    origin = middle - step * (np.array(shape) - 1) / 2
    count = max(SLAB_VOXELS // (shape[1] * shape[2]), 1)
    for start in range(0, shape[0], count):
        _fill_slab(phantom, anatomy, look, origin, step, slice(start, min(start + count, shape[0])))
    return phantom


def _fill_slab(
    phantom: Phantom,
    anatomy: Anatomy,
    look: Look,
    origin: Float[np.ndarray, " 3"],
    step: Float[np.ndarray, " 3"],
    window: slice,
) -> None:
    # One slice more on either side, because rounding off looks at neighbours.
    depth, height, width = phantom.hu.shape
    first, last = max(window.start - 1, 0), min(window.stop + 1, depth)
    corner = origin + step * (first, 0, 0)
    warp = warp_field(look.tile, (last - first, height, width), corner, step, BENDS_MM)
    slab = Slab.blank(warp, corner, step)
    lean = anatomy.spine.lean(corner[0] + step[0] * np.arange(last - first))
    draw_trunk_outline(slab, anatomy.build, look.tile, lean)
    slab.draw(anatomy.drawing, look.tile)
    round_off(slab, look.tile)
    hu, cortex = np.empty_like(slab.soft), np.empty_like(slab.soft)
    compose(slab, look, lean, hu, cortex)
    own = slice(window.start - first, window.stop - first)
    phantom.hu[window] = hu[own]
    phantom.bone[window] = slab.bone[own] * np.float32(anatomy.stature)
    phantom.part[window] = slab.part[own]
    phantom.cortex[window] = cortex[own]


def _draw_look(rng: np.random.Generator, age: int, muscle_hu: float) -> Look:
    # Attenuation of the first lumbar vertebra falls by about 2.3 HU a year.
    # Source: Jang et al., Radiology 2019, doi:10.1148/radiol.2019181648.
    marrow = float(np.clip(228 - 2.3 * (age - 30) + rng.normal(0, 32), 45, 300))
    return Look(
        tile=draw_tile(rng),
        marrow_hu=marrow,
        cortex_hu=float(rng.uniform(1050, 1400)),
        cortex_scale=float(rng.uniform(0.85, 1.2) - 0.004 * (age - 60)),
        grain=float(rng.uniform(0.75, 1.25)),
        fattiness=float(np.clip((57 - muscle_hu) / 20 + 0.35 + rng.normal(0, 0.15), 0.05, 1.0)),
        hip=HIP,
    )


def _draw_region(rng: np.random.Generator, config: SimulationConfig) -> Region:
    dice = rng.random()
    if dice < config.thoracic_share:
        return Region.THORACIC
    if dice < config.thoracic_share + config.lumbar_share:
        return Region.LUMBAR
    return Region.PELVIS
