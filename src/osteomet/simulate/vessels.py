"""Arteries with plaques, veins, and the trees of the lungs."""

from typing import Any

import numpy as np
from jaxtyping import Float

from osteomet.simulate.bones import SIDES, Point, point
from osteomet.simulate.shapes import Drawing, Soft, Tissue

AORTA = (
    ((268, -84, -2), 15.0), ((300, -88, -16), 15.5), ((336, -78, -18), 15.0), ((358, -58, -6),
    13.5),
    ((364, -36, 10), 12.5), ((350, -12, 20), 12.0), ((315, -6, 22), 11.5), ((270, -8, 21), 11.5),
    ((225, -20, 17), 11.0), ((180, -42, 12), 10.5), ((120, -64, 12), 9.5), ((70, -75, 12), 9.0),
    ((30, -74, 9), 8.5),
)  # fmt: skip
CAVA = (
    ((30, -66, -14), (9, 11)), ((80, -70, -19), (8, 12)), ((130, -66, -21), (9, 12)),
    ((180, -62, -24), (9, 12)), ((222, -74, -28), (11, 12)), ((244, -84, -32), (12, 12)),
)  # fmt: skip


def draw_vessels(drawing: Drawing, rng: np.random.Generator, contrast: float, age: int) -> None:
    """Draw the great vessels of chest, belly and thighs.

    Args:
        drawing: where to.
        rng: source of the patient's proportions.
        contrast: HU that contrast medium adds in arteries; 0 without.
        age: in years; plaques come with it.
    """
    plaques = float(np.clip(rng.normal((age - 52) / 28, 0.45), 0, 1.5))
    vein = Soft(Tissue.ORGAN, 40 + 0.62 * contrast)
    _draw_artery(drawing, rng, [p for p, _ in AORTA], [r for _, r in AORTA], contrast, plaques)
    drawing.tube([p for p, _ in CAVA], [r for _, r in CAVA], vein, (0, 1, 0))
    drawing.tube([(262, -84, -32), (320, -72, -24), (370, -62, -22)], [11, 9, 8], vein)
    for side in SIDES:
        left = side > 0
        line = [(30, -74, 9), (4, -64, side * 24), (-34, -52, side * 42), (-70, -68, side * 54),
                (-108, -92, side * 68), (-150, -100, side * 78), (-260, -76, side * 68),
                (-420, -42, side * 62)]  # fmt: skip
        _draw_artery(drawing, rng, line, [7, 6, 5.6, 5.2, 5, 4.8, 4.2, 4], contrast, plaques)
        inner = [(30, -66, -14), (2, -54, side * 22 - 6), (-40, -46, side * 40),
                 (-74, -60, side * 48),
                 (-110, -86, side * 60), (-150, -92, side * 70), (-260, -68, side * 66),
                 (-420, -36, side * 60)]  # fmt: skip
        drawing.tube(inner, [8, 7.5, 7, 6.5, 6.5, 6.5, 5.5, 5], vein)
        _draw_artery(drawing, rng, [(114, -62, 10), (104, -48, side * 38), (102, -32, side * 66)],
                     [3.2, 2.8, 2.4], contrast, plaques * 0.4)  # fmt: skip
        drawing.tube([(108, -66, -10 if not left else 14), (106, -50, side * 40),
                      (102, -34, side * 66)],
                     [4.5, 4.2, 3.6], vein)  # fmt: skip
        # Carotid, subclavian and jugular; then the vessels of the armpit.
        _draw_artery(drawing, rng, [(364, -44, side * 6), (410, -50, side * 20),
                                    (520, -58, side * 28)],
                     [5, 4, 3.6], contrast, plaques * 0.5)  # fmt: skip
        _draw_artery(drawing, rng, [(364, -40, side * 10), (402, -36, side * 30),
                                    (418, -34, side * 70),
                                    (408, -24, side * 112), (440, -20, side * 150)],
                                    [5, 4.6, 4.4, 4, 3.5],
                     contrast, plaques * 0.4)  # fmt: skip
        drawing.tube([(372, -62, side * 12), (404, -58, side * 30), (520, -50, side * 36)],
                     [8, 6.5, 6], vein)  # fmt: skip
        drawing.tube([(398, -58, side * 34), (412, -46, side * 72), (398, -34, side * 112)],
                     [6.5, 5.5, 5], vein)  # fmt: skip
    for z, out in ((152, -30), (140, -34), (76, -22)):
        start = point(z, float(np.interp(z, [70, 120, 180], [-75, -64, -42])), 12)
        bend = [start, start + point(-4, out * 0.7, -4), start + point(-40, out, -6)]
        drawing.tube(bend, [4, 3.6, 2.8], Soft(Tissue.ORGAN, 42 + contrast))


def _draw_artery(
    drawing: Drawing, rng: np.random.Generator, points: Any, radii: Any, contrast: float,
    plaques: float
) -> None:  # fmt: skip
    line, wide = np.asarray(points, dtype=float), np.asarray(radii, dtype=float)
    drawing.tube(line, wide + 1.0, Soft(Tissue.ORGAN, 45.0))
    drawing.tube(line, wide, Soft(Tissue.ORGAN, 42 + contrast))
    length = float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())
    for _ in range(rng.poisson(plaques * length / 16)):
        k, t = rng.integers(len(line) - 1), rng.random()
        along = line[k + 1] - line[k]
        along /= np.linalg.norm(along)
        out = rng.standard_normal(3)
        out -= along * (out @ along)
        out /= np.linalg.norm(out)
        radius = wide[k] * (1 - t) + wide[k + 1] * t
        spot = line[k] * (1 - t) + line[k + 1] * t + radius * out
        around = np.cross(along, out) * rng.uniform(-0.4, 0.4) * radius
        drawing.tube(
            [spot, spot + along * rng.uniform(0.5,
                                              5) + around - 0.15 * out * np.linalg.norm(around)],
            rng.uniform(0.5, 1.4), Soft(Tissue.ORGAN, float(rng.uniform(350, 1100))),
        )  # fmt: skip


def draw_lung_trees(drawing: Drawing, rng: np.random.Generator, contrast: float) -> None:
    """Draw windpipe, bronchi and the arteries and veins of the lungs."""
    wall, air = Soft(Tissue.ORGAN, 30.0), Soft(Tissue.GAS, -985.0)
    trunk = [(540, -46, 0), (440, -42, 0), (398, -36, -1), (346, -28, -2)]
    drawing.tube(trunk, 9.6, wall)
    blood = Soft(Tissue.ORGAN, 40 + 0.8 * contrast)
    drawing.tube([(290, -100, 10), (318, -84, 14), (326, -56, 10)], [13, 12, 11], blood)
    for side in SIDES:
        hilum = point(316, -34, side * 40)
        bronchus = [(346, -28, -2), (326, -30, side * 24), hilum]
        drawing.tube(bronchus, [9.0, 8.0, 6.5], wall)
        drawing.tube([(324, -56, 8), (316, -46, side * 36)], [10, 8], blood)
        drawing.tube([(282, -50, side * 12), (292, -46, side * 40)], [8, 7], blood)
        aims = np.stack([_aim(rng, side, n) for n in range(11)])
        for aim in aims:
            tip = hilum + 34 * aim
            drawing.tube([hilum, tip, tip + 14 * aim], [3.8, 2.6, 1.8], wall)
            drawing.tube([hilum, tip, tip + 14 * aim], [2.9, 1.7, 0.9], air)
        # An artery runs along each bronchus, a vein between every two.
        courses = np.concatenate([aims, aims[::2] + rng.normal(0, 0.2, (6, 3))])
        starts = hilum + rng.normal(0, 4.5, (len(courses), 3))
        _draw_tree(drawing, rng, starts, courses, 40 + 0.8 * contrast)
        drawing.tube(bronchus, [7.6, 6.6, 5.2], air)
    drawing.tube(trunk, 8.2, air)


def _aim(rng: np.random.Generator, side: float, n: int) -> Point:
    turn = 2.4 * n
    aim = np.array([-0.25 + 0.95 * np.cos(turn), 0.75 * np.sin(turn), side * rng.uniform(0.4, 0.9)])
    unit: Point = aim / np.linalg.norm(aim)
    return unit


def _draw_tree(
    drawing: Drawing,
    rng: np.random.Generator,
    starts: Float[np.ndarray, "n 3"],
    aims: Float[np.ndarray, "n 3"],
    blood_hu: float,
) -> None:
    # Vessels that split in two until they are too thin to see, all of one order at a time.
    ink = Soft(Tissue.LUNG, blood_hu, (Tissue.LUNG, Tissue.CAVITY))
    radii = np.full(len(starts), 4.3)
    for _ in range(8):
        aims = aims / np.linalg.norm(aims, axis=1, keepdims=True)
        length = 9.0 + radii * rng.uniform(3.5, 6.0, len(radii))
        bends = starts + aims * (length / 2)[:, None]
        bends += rng.normal(0, 0.1, bends.shape) * length[:, None]
        ends = starts + aims * length[:, None]
        drawing.strands(
            np.concatenate([np.stack([starts, bends], axis=1), np.stack([bends, ends], axis=1)]),
            np.concatenate([np.outer(radii, (1.0, 0.92)), np.outer(radii, (0.92, 0.84))]),
            ink,
        )
        count = len(radii)
        radii = np.concatenate(
            [radii * rng.uniform(0.72, 0.86, count), radii * rng.uniform(0.55, 0.8, count)]
        )
        starts = np.concatenate([ends, ends])
        aims = np.concatenate([aims, aims]) + rng.normal(0, 0.45, (2 * count, 3))
        seen = radii > 0.55
        starts, aims, radii = starts[seen], aims[seen], radii[seen]
