"""The whole trunk, shoulders to mid-thigh, of which every region is a window."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Float

from osteomet.simulate.bones import Point, point
from osteomet.simulate.cage import draw_cage, draw_shoulders
from osteomet.simulate.muscles import draw_arms, draw_legs, draw_muscles, draw_table
from osteomet.simulate.organs import draw_organs
from osteomet.simulate.pelvis import draw_hips, draw_sacrum
from osteomet.simulate.shapes import Drawing
from osteomet.simulate.spine import Spine, draw_curve, draw_spine
from osteomet.simulate.torso import Build
from osteomet.simulate.vessels import draw_lung_trees, draw_vessels


class Region(StrEnum):
    THORACIC = "thoracic"
    LUMBAR = "lumbar"
    PELVIS = "pelvis"
    SHOULDER = "shoulder"
    FEMUR = "femur"
    TRUNK = "trunk"


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A patient's trunk as shapes.

    Attributes:
        drawing: bones and soft tissue.
        build: the outline they lie in.
        spine: its curve.
        stature: factor on all lengths.
    """

    drawing: Drawing
    build: Build
    spine: Spine
    stature: float


def draw_anatomy(rng: np.random.Generator, contrast: float, age: int) -> Anatomy:
    """Draw one patient.

    Args:
        rng: source of the patient's proportions.
        contrast: HU that contrast medium adds in arteries; 0 without.
        age: in years.
    """
    build = Build(
        fat_mm=float(np.clip(rng.gamma(4.0, 4.5), 5, 45)),
        girth=float(np.clip(rng.normal(1.0, 0.06), 0.88, 1.15)),
        domes_mm=(float(rng.normal(222, 9)), float(rng.normal(210, 9))),
        lung_hu=float(rng.normal(-868, 16)),
        muscle_hu=float(rng.normal(57 - 0.12 * (age - 60), 4) + 0.08 * contrast),
    )
    drawing = Drawing()
    spine = draw_curve(rng, age)
    draw_legs(drawing, build)
    draw_arms(drawing, build)
    draw_muscles(drawing, rng, build)
    draw_organs(drawing, rng, contrast)
    draw_lung_trees(drawing, rng, contrast)
    draw_vessels(drawing, rng, contrast, age)
    draw_cage(drawing, rng, spine, age)
    draw_shoulders(drawing, rng)
    draw_spine(drawing, rng, spine)
    draw_sacrum(drawing, rng)
    draw_hips(drawing, rng)
    draw_table(drawing, rng, build)
    return Anatomy(drawing, build, spine, float(np.clip(rng.normal(1.0, 0.045), 0.9, 1.12)))


def draw_middle(
    rng: np.random.Generator, region: Region, size_mm: Float[np.ndarray, " 3"]
) -> Point:
    """Draw where in the trunk the middle of a field of view lies.

    Args:
        rng: source of randomness.
        region: what it is to show.
        size_mm: of the field of view, z, y and x; a large one lies nearer the body's middle.
    """
    side = rng.choice([-1.0, 1.0])
    views: tuple[tuple[float, float, float], ...]
    if region is Region.TRUNK:
        return point(110, -52, 0)
    if region is Region.THORACIC:
        views = ((290, 14, 0), (300, 14, 45), (240, 5, 95), (310, -85, 20))
        chosen = views[rng.choice(4, p=[0.45, 0.3, 0.15, 0.1])]
    elif region is Region.LUMBAR:
        chosen = (75, -22, 0)
    elif region is Region.PELVIS:
        views = ((-40, -2, 0), (-30, -10, 70), (-115, -38, 80))
        chosen = views[rng.choice(3, p=[0.4, 0.3, 0.3])]
    elif region is Region.SHOULDER:
        chosen = (395, 6, 125)
    else:
        chosen = (-175, -34, 105)
    middle: Point = point(*chosen) * (1, 1, side) + rng.uniform(-1, 1, 3) * (22, 10, 14)
    # The wider the view, the less it is aimed at one bone, and the less air it shows.
    _, height, width = size_mm
    middle[1] += (-50 - middle[1]) * np.clip((height - 130) / 200, 0, 1)
    middle[2] *= 1 - np.clip((width - 130) / 250, 0, 1)
    return middle
