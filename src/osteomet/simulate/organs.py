"""Organs of chest, belly and pelvis."""

from itertools import pairwise
from typing import Any

import numpy as np

from osteomet.simulate.bones import SIDES, Frame, point
from osteomet.simulate.shapes import Drawing, Soft, Tissue

INSIDE = (Tissue.CAVITY,)
ORGAN_OR_CAVITY = (Tissue.CAVITY, Tissue.ORGAN, Tissue.FAT)


def draw_organs(drawing: Drawing, rng: np.random.Generator, contrast: float) -> None:
    """Draw the organs; ``contrast`` is what contrast medium adds in arteries, in HU."""
    _draw_mediastinum(drawing, rng, contrast)
    _draw_kidneys(drawing, rng, contrast)
    _draw_upper_belly(drawing, rng, contrast)
    _draw_bowel(drawing, rng, contrast)
    _draw_pelvic_organs(drawing, rng, contrast)


def _turned(angle: float) -> Frame:
    # About the axis from the feet to the head.
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0, 0], [0, c, s], [0, -s, c]])


def _draw_mediastinum(drawing: Drawing, rng: np.random.Generator, contrast: float) -> None:
    fat = Soft(Tissue.FAT, -92.0, (Tissue.LUNG, Tissue.CAVITY, Tissue.MUSCLE, Tissue.FAT))
    size = rng.uniform(0.93, 1.08)
    drawing.tube(
        [(420, -44, 0), (380, -58, 0), (330, -66, 0), (280, -84, 4), (225, -96, 8)],
        [(24, 28), (36, 32), (46, 34), (46, 44), (40, 52)], fat, (0, 1, 0),
    )  # fmt: skip
    drawing.ellipsoid(point(236, -98, 22), np.array([48, 50, 68]) * size, fat, _turned(0.5))
    drawing.tube([(410, -20, 0), (220, -16, 4)], [(16, 22), (24, 26)], fat, (0, 1, 0))
    tilt = _turned(0.5)
    muscle, blood = 48 + 0.45 * contrast, 42 + 0.85 * contrast
    drawing.ellipsoid(
        (238, -96, 22), np.array([42, 42, 60]) * size, Soft(Tissue.ORGAN, muscle), tilt
    )
    drawing.ellipsoid(
        (234, -90, 40), np.array([26, 20, 34]) * size, Soft(Tissue.ORGAN, blood), tilt
    )
    drawing.ellipsoid(
        (236, -116, 6), np.array([28, 15, 38]) * size, Soft(Tissue.ORGAN, blood), tilt
    )
    drawing.ellipsoid(point(268, -58, 6), (20, 18, 32), Soft(Tissue.ORGAN, blood))
    drawing.ellipsoid(point(254, -92, -30), (28, 22, 20), Soft(Tissue.ORGAN, blood))
    drawing.tube([(520, -34, 2), (398, -18, 3), (300, -26, 6), (218, -46, 14),
                  (196, -62, 24)], [(5, 8), (5, 8), (5.5, 8), (6, 8), (7, 9)],
                 Soft(Tissue.ORGAN, 38.0), (0, 1, 0))  # fmt: skip
    if rng.random() < 0.4:
        drawing.tube([(330, -24, 5), (250, -34, 9)], 2.4, Soft(Tissue.GAS, -900.0))
    for _ in range(12):
        node = point(rng.uniform(300, 390), rng.uniform(-75, -20), rng.uniform(-28, 28))
        drawing.ellipsoid(
            node, rng.uniform(1.5, 4.0, 3), Soft(Tissue.ORGAN, 40 + 0.3 * contrast, (Tissue.FAT,))
        )
    for side in SIDES:
        thyroid = point(452, -56, side * 17)
        drawing.ellipsoid(thyroid, (20, 9, 8), Soft(Tissue.ORGAN, 95 + 0.5 * contrast))


def _draw_kidneys(drawing: Drawing, rng: np.random.Generator, contrast: float) -> None:
    for side in SIDES:
        middle = point(
            rng.uniform(88, 104) + (8 if side > 0 else -4), -27, side * rng.uniform(66, 74)
        )
        lean = np.array(
            [[0.95, 0.22, -side * 0.2], [-0.28, 0.85, -side * 0.45], [0.07, 0.48, side * 0.87]]
        )
        axes = np.linalg.qr(lean.T)[0].T
        size = rng.uniform(0.92, 1.1)
        bed = Soft(Tissue.CAVITY, -100.0, (Tissue.MUSCLE, Tissue.FAT, Tissue.CAVITY))
        drawing.ellipsoid(middle + point(0, 2, 0), np.array([66, 33, 34]), bed, axes)
        drawing.ellipsoid(
            middle, np.array([55, 27, 28]) * size, Soft(Tissue.ORGAN, 34 + 0.95 * contrast), axes
        )
        for n in range(6):
            at = middle + axes[0] * (n - 2.5) * 14 * size + axes[1] * rng.normal(0, 6)
            drawing.ellipsoid(
                at, (5.5, 7, 8), Soft(Tissue.ORGAN, 28 + 0.6 * contrast, (Tissue.ORGAN,)), axes
            )
        sinus = middle - point(0, 4, side * 10)
        drawing.ellipsoid(sinus, (19, 7, 12), Soft(Tissue.FAT, -75.0), axes)
        drawing.ellipsoid(sinus - point(0, 3, side * 9), (10, 8, 9), Soft(Tissue.FAT, -85.0), axes)
        drawing.tube([sinus, sinus + point(-12, -6, -side * 10), (20, -42, side * 36),
                      (-40, -30, side * 48), (-105, -20, side * 30)], [6, 4, 2.4, 2.2, 2.2],
                     Soft(Tissue.ORGAN, 12.0))  # fmt: skip
        drawing.tube([middle + point(50, -14, -side * 26), middle + point(64, -8, -side * 32)],
                     [(2, 9), (1.5, 5)], Soft(Tissue.ORGAN, 25 + 0.3 * contrast),
                     (0, 0.5, 0.85))  # fmt: skip


def _draw_upper_belly(drawing: Drawing, rng: np.random.Generator, contrast: float) -> None:
    liver_hu = float(rng.normal(56, 6)) + 0.38 * contrast
    size = float(np.clip(rng.normal(1.0, 0.06), 0.88, 1.12))
    liver = Soft(Tissue.ORGAN, liver_hu, INSIDE, 1.5)
    drawing.ellipsoid(point(160, -66, -72), np.array([78, 92, 70]) * size, liver)
    drawing.ellipsoid(point(125, -78, -96), np.array([72, 66, 42]) * size, liver)
    drawing.tube([(186, -108, -30), (182, -116, 20), (184, -118, 56)],
                 [(30, 34), (22, 26), (9, 12)], liver, (1, 0, 0))  # fmt: skip
    for _ in range(16):
        start = point(rng.uniform(130, 205), rng.uniform(-120, -30), rng.uniform(-120, -30))
        aim = point(176, -72, -30) - start
        drawing.tube([start, start + 0.5 * aim + rng.normal(0, 4, 3), start + 0.8 * aim],
                     [1.2, 2.2, 3.6],
                     Soft(Tissue.ORGAN, 42 + 0.6 * contrast, (Tissue.ORGAN,)))  # fmt: skip
    portal = Soft(Tissue.ORGAN, 42 + 0.65 * contrast)
    drawing.tube([(166, -84, -44), (142, -86, -16), (132, -76, 6), (142, -52, 60),
                  (148, -34, 100)], [6, 6.5, 6, 4.5, 4], portal)  # fmt: skip
    drawing.tube([(130, -82, 2), (60, -92, 2)], [6, 4.5], portal)
    drawing.ellipsoid(point(116, -112, -62), (18, 26, 15), Soft(Tissue.ORGAN, 8.0, ORGAN_OR_CAVITY))
    pancreas = Soft(Tissue.ORGAN, 38 + 0.5 * contrast, INSIDE)
    drawing.tube([(100, -84, -20), (124, -92, 6), (140, -76, 44), (146, -48, 84)],
                 [12, 9, 8, 7], pancreas)  # fmt: skip
    drawing.ellipsoid(point(152, -22, 108), np.array([44, 46, 22]) * size,
                      Soft(Tissue.ORGAN, 46 + 0.55 * contrast, INSIDE), _turned(-0.5))  # fmt: skip
    stomach = [(196, -62, 56), (176, -86, 66), (142, -118, 50), (124, -124, 12)]
    _draw_gut(
        drawing, stomach, [30, 32, 22, 14], 4.0, float(rng.choice([15.0, 35.0])), True, contrast
    )


def _draw_gut(
    drawing: Drawing, points: Any, radii: list[float | int], wall: float, content: float, gas: bool,
    contrast: float,
) -> None:  # fmt: skip
    """Draw a hollow organ; gas rises to the front."""
    wide, line = np.asarray(radii), np.asarray(points, dtype=np.float64)
    room = (Tissue.BOWEL,)
    drawing.tube(line, wide, Soft(Tissue.BOWEL, 42 + 0.35 * contrast, INSIDE, 1.0))
    drawing.tube(line, wide - wall, Soft(Tissue.BOWEL, content, room))
    if gas:
        front = [p + point(0, -0.45 * r, 0) for p, r in zip(line, wide - wall, strict=True)]
        flat = np.stack([0.5 * (wide - wall), 0.72 * (wide - wall)], axis=1)
        drawing.tube(front, flat, Soft(Tissue.GAS, -960.0, room), (0, 1, 0))


def _draw_bowel(drawing: Drawing, rng: np.random.Generator, contrast: float) -> None:
    _draw_small_bowel(drawing, rng, contrast)
    colon = [
        (-22, -70, -104), (20, -64, -108), (56, -66, -104), (74, -92, -88), (72, -126, -56),
        (62, -138, -10),
        (76, -136, 40), (116, -110, 86), (136, -66, 104), (100, -44, 112), (40, -48, 114),
        (-10, -66, 108),
        (-42, -84, 84), (-30, -86, 46), (-52, -60, 20), (-66, -22, 14), (-46, -10, 2),
    ]  # fmt: skip
    line = [point(*p) + rng.normal(0, (6, 4, 4)) for p in colon]
    for start, end in pairwise(line):
        # Pouches along the way.
        length = float(np.linalg.norm(end - start))
        pouches = max(int(length // 17), 2)
        filling = rng.choice(3, p=[0.5, 0.3, 0.2])
        wide = rng.uniform(14, 24) * (0.8 if start[1] > -60 and start[0] < 0 else 1.0)
        room = (Tissue.BOWEL, Tissue.STOOL)
        for part in range(pouches):
            at = start + (end - start) * (part + 0.5) / pouches + rng.normal(0, 1.5, 3)
            half = wide * rng.uniform(0.88, 1.1, 3)
            drawing.ellipsoid(at, half, Soft(Tissue.BOWEL, 40 + 0.3 * contrast, INSIDE))
            if filling == 0:
                drawing.ellipsoid(
                    at, half - 2.0, Soft(Tissue.STOOL, float(rng.uniform(10, 60)), room)
                )
            elif filling == 1:
                drawing.ellipsoid(at, half - 1.8, Soft(Tissue.GAS, -970.0, room))
            else:
                drawing.ellipsoid(
                    at, half - 2.5, Soft(Tissue.STOOL, float(rng.uniform(10, 50)), room)
                )
                drawing.ellipsoid(at - point(0, 0.4 * wide, 0), (half - 2.5) * (0.8, 0.45, 0.75),
                                  Soft(Tissue.GAS, -970.0, room))  # fmt: skip


def _draw_small_bowel(drawing: Drawing, rng: np.random.Generator, contrast: float) -> None:
    # Loops side by side, in jittered places; vessels of the mesentery between them.
    spots = [
        point(z, y, x) + rng.normal(0, 5, 3)
        for z in np.arange(-75, 130, 24.0)
        for y in (-124.0, -99.0, -74.0)
        for x in np.arange(-74, 100, 24.0)
        if (z < 70 or x > 10) and (y < -80 or abs(x) > 55 or z < -50)
    ]
    oral = rng.random() < 0.25
    for n in rng.permutation(len(spots))[: int(len(spots) * rng.uniform(0.6, 0.9))]:
        turn = rng.standard_normal(3) * (14, 8, 14)
        radius = rng.uniform(9, 12.5)
        content = rng.uniform(150, 320) if oral and rng.random() < 0.6 else rng.uniform(12, 45)
        line = [spots[n] - turn, spots[n] + rng.normal(0, 4, 3), spots[n] + turn]
        _draw_gut(
            drawing, line, [radius] * 3, 2.2, float(content), bool(rng.random() < 0.08), contrast
        )
    for _ in range(90):
        end = point(rng.uniform(-60, 100), rng.uniform(-125, -85), rng.uniform(-85, 85))
        root = point(rng.uniform(30, 100), -84, rng.uniform(-8, 12))
        start = end + (root - end) * rng.uniform(0.15, 0.4)
        drawing.tube([start, end], [rng.uniform(1.0, 2.2), 0.8],
                     Soft(Tissue.ORGAN, 40 + 0.7 * contrast, INSIDE))  # fmt: skip


def _draw_pelvic_organs(drawing: Drawing, rng: np.random.Generator, contrast: float) -> None:
    full = rng.uniform(0.6, 1.1)
    middle = point(-112, -70, rng.normal(0, 3))
    room = (Tissue.CAVITY, Tissue.ORGAN, Tissue.MUSCLE, Tissue.FAT, Tissue.STOOL, Tissue.GAS)
    half = np.array([34, 32, 38]) * full
    drawing.ellipsoid(middle, half + 3, Soft(Tissue.ORGAN, 42 + 0.3 * contrast, room))
    drawing.ellipsoid(middle, half, Soft(Tissue.ORGAN, 6.0, room))
    drawing.ellipsoid(point(-146, -58, 0), (18, 19, 23), Soft(Tissue.ORGAN, 44 + 0.35 * contrast))
    drawing.ellipsoid(point(-128, -28, 0), (10, 8, 26), Soft(Tissue.ORGAN, 36 + 0.2 * contrast))
    rectum = [
        (-44, -8, 2),
        (-72, 14, 4),
        (-104, 20, 0),
        (-132, 10, 0),
        (-172, 12, 0),
    ]
    drawing.tube(rectum, [13, 15, 16, 13, 9], Soft(Tissue.ORGAN, 44.0, room))
    content = Soft(*((Tissue.STOOL, 35.0) if rng.random() < 0.6 else (Tissue.GAS, -960.0)), room)
    drawing.tube(rectum[:4], [9, 11, 12, 7], content)
