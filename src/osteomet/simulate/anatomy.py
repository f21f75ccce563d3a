"""Organs and bones of a field of view, as shapes drawn onto a canvas.

Millimetres in the patient: the middle of the chosen spine segment (or of the sacrum) lies
near the origin, z to superior, y to posterior, x to left.
"""

from enum import StrEnum
from typing import Any

import numpy as np

from osteomet.simulate.bones import SIDES, Frame, Spine, draw_hip, draw_rib, draw_sacrum
from osteomet.simulate.shapes import PAINT, Canvas


class Region(StrEnum):
    THORACIC = "thoracic"
    LUMBAR = "lumbar"
    PELVIS = "pelvis"
    SHOULDER = "shoulder"
    FEMUR = "femur"
    TRUNK = "trunk"


def draw_thorax(canvas: Canvas, rng: np.random.Generator, contrast: float) -> None:
    """Draw the chest around the thoracic spine.

    Args:
        canvas: where to draw.
        rng: source of the patient's proportions.
        contrast: HU that contrast medium adds in arteries; 0 without.
    """
    fat = float(rng.uniform(6, 24))
    depth = float(rng.uniform(58, 74))
    wall = (900.0, 92.0 + fat, 150.0 + fat)
    canvas.ellipsoid((0, depth - 92, 0), wall, boxy=True, mode=PAINT, value=-105.0)
    canvas.ellipsoid((0, depth - fat - 92, 0), (900, 92, 148), boxy=True, mode=PAINT, value=52.0)
    for side in SIDES:
        canvas.ellipsoid(
            (rng.uniform(-20, 20), -28, side * 74), (260, 64, 63), mode=PAINT, value=-860.0
        )
    if rng.random() < 0.35:
        side = rng.choice(SIDES)
        canvas.ellipsoid(
            (-95 + rng.uniform(-30, 10), -30, side * 70), (80, 66, 66),
            mode=PAINT, value=60 + 0.3 * contrast,
        )  # fmt: skip
    _lung_vessels(canvas, rng, contrast)
    _muscles_of_the_back(canvas, rng, 44.0)
    _artery(canvas, rng, [(-120, -34, 15), (120, -30, 17)], rng.uniform(11, 15), contrast)
    canvas.tube([(-120, -46, 1), (120, -44, -2)], 7.0, mode=PAINT, value=38.0)
    canvas.ellipsoid((0, -84, 10), (300, 40, 34), mode=PAINT, value=45 + 0.7 * contrast)
    if rng.random() < 0.5:
        canvas.tube([(0, -58, -3), (120, -50, -2)], 9.0, mode=PAINT, value=-980.0)
    level = rng.uniform(0, 1)
    size = (10.2 + 1.8 * level, 14.5 + 2.0 * level, 15.0 + 3.0 * level)
    spine = Spine(rng, size, disc=4.5, bend=-0.0018, lumbar=False)
    for middle, frame in spine.levels():
        spine.draw(canvas, rng, middle, frame)
        for side in SIDES:
            draw_rib(canvas, rng, middle, size, side)


def draw_abdomen(canvas: Canvas, rng: np.random.Generator, contrast: float) -> None:
    """Draw the abdomen around the lumbar spine; arguments as for ``draw_thorax``."""
    fat = float(rng.uniform(10, 35))
    depth = float(rng.uniform(78, 92))
    canvas.ellipsoid(
        (0, depth - 125, 0), (900, 125 + fat / 2, 165 + fat), boxy=True, mode=PAINT, value=-104.0
    )
    canvas.ellipsoid((0, depth - fat - 118, 0), (900, 118, 150), boxy=True, mode=PAINT, value=50.0)
    # Fat of the abdomen, with its organs, begins at the front of the spine.
    canvas.ellipsoid((0, -84, 0), (900, 74, 132), boxy=True, mode=PAINT, value=-100.0)
    for side in SIDES:
        flank = rng.uniform(52, 62)
        canvas.tube(
            [(140, -6, side * (flank + 16)), (0, 0, side * (flank + 18)),
             (-140, -10, side * (flank + 30))],
            [(16, 24), (20, 26), (22, 26)], (0, 1, 0), mode=PAINT, value=-98.0,
        )  # fmt: skip
        psoas = rng.uniform(14, 20)
        canvas.tube(
            [(130, 6, side * 32), (0, -2, side * 38), (-130, -16, side * 48)],
            [(psoas * 0.8, psoas * 0.75), (psoas * 1.05, psoas), (psoas * 1.25, psoas * 1.1)],
            (0, 1, 0), mode=PAINT, value=float(rng.uniform(48, 64)),
        )  # fmt: skip
        if rng.random() < 0.6:
            canvas.ellipsoid(
                (rng.uniform(-30, 70), -8, side * rng.uniform(70, 80)), (52, 26, 24),
                mode=PAINT, value=34 + 0.7 * contrast,
            )  # fmt: skip
    for side in SIDES:
        canvas.tube(
            [(-20, -16, side * 20), (130, -22, side * 14)], [(4, 5), (6, 9)], (0, 1, 0),
            mode=PAINT, value=54.0,
        )  # fmt: skip
    _vessels(canvas, rng, contrast, (-80, -70, -90), (80, -25, 90))
    _artery(canvas, rng, [(-130, -32, 8), (130, -34, 6)], rng.uniform(8, 11), contrast)
    canvas.tube(
        [(-130, -32, -18), (130, -36, -20)], [(8, 11), (9, 12)], (0, 1, 0),
        mode=PAINT, value=40 + 0.6 * contrast,
    )  # fmt: skip
    _bowel(canvas, rng, 14, (-70, -120, -90), (70, -55, 90))
    level = rng.uniform(0, 1)
    size = (13.0 + 1.5 * level, 16.0 + 2.0 * level, 21.5 + 4.0 * level)
    spine = Spine(rng, size, disc=9.0, bend=0.0022, lumbar=True)
    for middle, frame in spine.levels():
        spine.draw(canvas, rng, middle, frame)


def draw_pelvis(canvas: Canvas, rng: np.random.Generator, contrast: float) -> None:
    """Draw the pelvis with sacrum and proximal femurs; arguments as for ``draw_thorax``."""
    fat = float(rng.uniform(12, 45))
    canvas.ellipsoid(
        (0, -30, 0), (900, 108 + fat / 2, 178 + fat), boxy=True, mode=PAINT, value=-104.0
    )
    canvas.ellipsoid((0, -34, 0), (900, 104, 170), boxy=True, mode=PAINT, value=52.0)
    # Fat of the pelvic cavity and of the abdomen in front of the iliac muscles, then the
    # fat between the buttocks and beside the rectum.
    canvas.ellipsoid((0, -42, 0), (120, 54, 56), mode=PAINT, value=-98.0)
    canvas.ellipsoid((80, -85, 0), (110, 60, 105), mode=PAINT, value=-100.0)
    canvas.tube([(-160, 72, 0), (60, 92, 0)], [(26, 26), (16, 16)], mode=PAINT, value=-103.0)
    canvas.tube([(-130, 36, 24), (-80, 30, 26)], [13, 8], mode=PAINT, value=-100.0)
    canvas.tube([(-130, 36, -24), (-80, 30, -26)], [13, 8], mode=PAINT, value=-100.0)
    for side in SIDES:
        muscle = float(rng.uniform(46, 60))
        canvas.ellipsoid(
            (-30, 52, side * 80), (110, 34, 60), _turned(side * 0.5), mode=PAINT, value=muscle
        )
        canvas.tube(
            [(90, -40, side * 48), (0, -58, side * 68), (-100, -78, side * 90)],
            [(18, 15), (19, 16), (14, 14)], (0, 1, 0), mode=PAINT, value=muscle + 3,
        )  # fmt: skip
        canvas.tube(
            [(-20, -80, side * 60), (-140, -95, side * 84)], [(9, 12), (15, 18)], (0, 1, 0),
            mode=PAINT, value=-100.0,
        )  # fmt: skip
        _artery(
            canvas, rng, [(60, -48, side * 28), (0, -56, side * 46), (-100, -92, side * 78)],
            5.5, contrast,
        )  # fmt: skip
        canvas.tube(
            [(60, -42, side * 30), (0, -46, side * 44), (-100, -84, side * 72)],
            6.5, mode=PAINT, value=42 + 0.6 * contrast,
        )  # fmt: skip
    _vessels(canvas, rng, contrast, (-60, -90, -60), (70, 10, 60))
    _bowel(canvas, rng, 12, (-40, -110, -70), (80, -35, 70))
    canvas.ellipsoid((-85, -62, 0), (34, 36, 42), mode=PAINT, value=8.0)
    canvas.tube([(60, 0, 0), (0, 12, 4), (-80, 12, 0)], 12, mode=PAINT, value=35.0)
    draw_sacrum(canvas, rng)
    for side in SIDES:
        draw_hip(canvas, rng, side)


def _turned(angle: float) -> Frame:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0, 0], [0, c, s], [0, -s, c]])


def _muscles_of_the_back(canvas: Canvas, rng: np.random.Generator, back: float) -> None:
    for side in SIDES:
        hu = float(rng.uniform(42, 60))
        canvas.tube(
            [(-140, back - 2, side * 36), (140, back - 4, side * 34)],
            [(17, 27), (16, 25)], (0, 1, 0), mode=PAINT, value=-85.0,
        )  # fmt: skip
        canvas.tube(
            [(-140, back, side * 40), (140, back, side * 38)], [(14, 17), (13, 16)], (0, 1, 0),
            mode=PAINT, value=hu,
        )  # fmt: skip
        canvas.tube(
            [(-140, back - 1, side * 14), (140, back - 2, side * 13)], [(14, 9), (13, 9)],
            (0, 1, 0), mode=PAINT, value=hu - rng.uniform(0, 25),
        )  # fmt: skip


def _lung_vessels(canvas: Canvas, rng: np.random.Generator, contrast: float) -> None:
    for _ in range(70):
        side = rng.choice(SIDES)
        start = np.array([rng.uniform(-85, 85), rng.uniform(-72, 14), side * rng.uniform(32, 105)])
        away = np.array([rng.normal(0, 13), rng.normal(0, 9), side * rng.uniform(4, 26)])
        radius = rng.uniform(0.6, 2.3) * (1.2 - abs(start[2]) / 150)
        canvas.tube(
            [start, start + away / 2 + rng.normal(0, 2, 3), start + away],
            [radius, radius * 0.8, radius * 0.5], mode=PAINT, value=35 + 0.6 * contrast,
        )  # fmt: skip


def _artery(
    canvas: Canvas, rng: np.random.Generator, points: Any, radius: float, contrast: float
) -> None:
    """Draw an artery, with calcified plaques in the wall of some patients."""
    canvas.tube(points, radius, mode=PAINT, value=42 + contrast)
    if rng.random() < 0.5:
        return
    line = np.asarray(points, dtype=float)
    for _ in range(rng.integers(3, 25)):
        k, t, angle = rng.integers(len(line) - 1), rng.random(), rng.uniform(0, 2 * np.pi)
        middle = line[k] * (1 - t) + line[k + 1] * t
        wall = middle + (radius - 0.5) * np.array([0.0, np.sin(angle), np.cos(angle)])
        along = np.array([rng.uniform(1, 4), np.cos(angle), -np.sin(angle)])
        canvas.tube(
            [wall, wall + along], rng.uniform(0.7, 1.6), mode=PAINT,
            value=float(rng.uniform(350, 1000)),
        )  # fmt: skip


def _vessels(
    canvas: Canvas,
    rng: np.random.Generator,
    contrast: float,
    low: tuple[int, int, int],
    high: tuple[int, int, int],
) -> None:
    """Draw short small vessels and nodes into fat."""
    for _ in range(30):
        start = rng.uniform(low, high)
        radius = rng.uniform(0.8, 3.2)
        canvas.tube(
            [start, start + rng.normal(0, 9, 3)], [radius, radius * 0.7], mode=PAINT,
            value=float(38 + contrast * rng.choice([0.0, 0.5, 0.9])),
        )  # fmt: skip


def _bowel(
    canvas: Canvas,
    rng: np.random.Generator,
    count: int,
    low: tuple[int, int, int],
    high: tuple[int, int, int],
) -> None:
    for _ in range(count):
        start = rng.uniform(low, high)
        end = start + rng.normal(0, 22, 3)
        radius = rng.uniform(8, 15)
        canvas.tube([start, end], radius, mode=PAINT, value=float(rng.uniform(35, 70)))
        content = rng.choice([15.0, 25.0, -850.0, 180.0], p=[0.5, 0.25, 0.17, 0.08])
        canvas.tube([start, end], radius - 2.2, mode=PAINT, value=float(content))
