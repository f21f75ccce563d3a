"""Muscles with the fat between them, limbs, and the table."""

from itertools import pairwise
from typing import Any

import numpy as np

from osteomet.simulate.bones import SIDES
from osteomet.simulate.shapes import Drawing, Soft, Tissue
from osteomet.simulate.torso import FAT_HU, Build

TORSO = (Tissue.MUSCLE, Tissue.FAT, Tissue.CAVITY)
WALL = (Tissue.MUSCLE, Tissue.FAT)


class _Painter:
    """Draws muscles, each in a sheath of fat."""

    def __init__(self, drawing: Drawing, rng: np.random.Generator, build: Build) -> None:
        self.drawing, self.rng = drawing, rng
        self.mean = build.muscle_hu
        self.sheath = 0.7 + 0.05 * build.fat_mm

    def tube(
        self, points: Any, radii: Any, flat: Any = (0.0, 1.0, 0.0), over: tuple[Tissue, ...] = TORSO
    ) -> None:
        half = np.asarray(radii, dtype=float)
        rough = float(min(0.13 * half.min(), 1.8))
        ink = Soft(Tissue.MUSCLE, float(self.mean + self.rng.normal(0, 3)), over, rough)
        # Sheaths differ: some are fat, of some only a shade is seen.
        shade = Soft(Tissue.FAT, float(self.rng.uniform(FAT_HU, 10)), over, rough)
        self.drawing.tube(points, half + self.sheath * self.rng.uniform(0.5, 1.4), shade, flat)
        self.drawing.tube(points, half, ink, flat)


def draw_legs(drawing: Drawing, build: Build) -> None:
    """Draw the thighs; below the pelvis nothing else fills them."""
    for grow, ink in ((1.6, Soft(Tissue.SKIN, 15.0, (Tissue.AIR,))),
                      (0.0, Soft(Tissue.FAT, FAT_HU, (Tissue.AIR, Tissue.SKIN)))):  # fmt: skip
        drawing.ellipsoid((-180, -16, 0), np.array([38, 70, 62]) + grow, ink)
    for side in SIDES:
        line = [
            (-176, -26, side * 90),
            (-250, -24, side * 88),
            (-420, -20, side * 80),
        ]
        fat = build.fat_mm * 0.55
        lean = np.array([(76.0, 78.0), (74.0, 74.0), (64.0, 62.0)])
        for grow, ink in (
            (fat + 1.6, Soft(Tissue.SKIN, 15.0, (Tissue.AIR,))),
            (fat, Soft(Tissue.FAT, FAT_HU, (Tissue.AIR, Tissue.SKIN))),
        ):
            drawing.tube(line, lean + grow, ink, (0.0, 1.0, 0.0))
        drawing.tube(line, lean, Soft(Tissue.FAT, FAT_HU, (Tissue.AIR, Tissue.SKIN, Tissue.FAT)))


def draw_arms(drawing: Drawing, build: Build) -> None:
    """Draw shoulders and the upper arms of raised arms."""
    for side in SIDES:
        line = [(392, 6, side * 112), (424, 0, side * 152), (470, -8, side * 178),
                (580, -24, side * 204)]  # fmt: skip
        lean = np.array([(34, 36), (38, 40), (42, 42), (38, 36.0)])
        fat = build.fat_mm * 0.5
        for grow, ink in (
            (fat + 1.6, Soft(Tissue.SKIN, 15.0, (Tissue.AIR,))),
            (fat, Soft(Tissue.FAT, FAT_HU, (Tissue.AIR, Tissue.SKIN))),
            (0.0, Soft(Tissue.MUSCLE, build.muscle_hu, (Tissue.AIR, Tissue.SKIN, Tissue.FAT))),
        ):
            drawing.tube(line, lean + grow, ink, (0.0, 1.0, 0.0))
        # The armpit.
        drawing.tube([(395, -30, side * 112), (330, -22, side * 128)], [(20, 14), (10, 8)],
                     Soft(Tissue.FAT, FAT_HU, WALL), (0, 1, 0))  # fmt: skip


def draw_muscles(drawing: Drawing, rng: np.random.Generator, build: Build) -> None:
    """Draw the muscles of trunk, pelvis and thighs."""
    paint = _Painter(drawing, rng, build)
    for side in SIDES:
        _draw_back(paint, side)
        _draw_front(paint, side)
        _draw_psoas(paint, side, float(rng.uniform(0.85, 1.15)))
        _draw_buttock(paint, side)
        _draw_thigh(paint, side)
        _draw_shoulder(paint, side)


def _draw_back(paint: _Painter, side: float) -> None:
    fat = Soft(Tissue.FAT, FAT_HU + 10, WALL)
    # A bed of fat behind the spine, in which the long muscles lie.
    paint.drawing.tube(
        [(-50, 40, side * 24), (40, 12, side * 36), (170, 30, side * 36),
         (300, 48, side * 30), (440, -4, side * 24)],
        [(18, 26), (30, 38), (24, 38), (15, 30), (12, 22)], fat, (0, 1, 0),
    )  # fmt: skip
    paint.tube(
        [(-60, 46, side * 12), (0, 26, side * 17), (60, 12, side * 15), (150, 26, side * 13),
         (300, 48, side * 11), (440, -2, side * 12)],
        [(10, 9), (15, 14), (16, 13), (14, 10), (12, 9), (10, 9)], over=WALL,
    )  # fmt: skip
    paint.tube(
        [(-30, 42, side * 32), (30, 14, side * 38), (90, 12, side * 40), (170, 30, side * 38),
         (300, 50, side * 32), (430, 0, side * 28)],
        [(9, 12), (20, 17), (21, 19), (16, 18), (9, 15), (7, 10)], over=WALL,
    )  # fmt: skip
    paint.tube(
        [(0, 20, side * 58), (70, 14, side * 66), (160, 26, side * 66), (290, 42, side * 56)],
        [(12, 8), (17, 12), (12, 12), (6, 12)], over=WALL,
    )  # fmt: skip
    paint.tube([(6, -8, side * 72), (125, 2, side * 46)], [(7, 16), (6, 9)])
    # Trapezius and latissimus are sheets.
    paint.tube([(420, 14, side * 40), (330, 62, side * 34), (210, 52, side * 14)],
               [(5, 34), (4, 30), (3, 12)], (0.2, 1.0, side * 0.3), WALL)  # fmt: skip
    paint.tube([(60, 34, side * 92), (180, 36, side * 114), (300, 26, side * 128),
                (380, -4, side * 132)], [(4, 26), (5, 34), (7, 34), (10, 20)],
               (0, 0.75, side * 0.66), WALL)  # fmt: skip


def _draw_front(paint: _Painter, side: float) -> None:
    paint.tube([(240, -146, side * 44), (60, -154, side * 36), (-130, -100, side * 14)],
               [(4, 26), (5.5, 30), (4, 11)], over=WALL)  # fmt: skip
    paint.tube([(380, -88, side * 66), (320, -122, side * 84), (262, -142, side * 70)],
               [(9, 40), (9, 42), (4, 30)], (0.2, 0.85, -side * 0.45), WALL)  # fmt: skip
    # The breast is fat.
    paint.drawing.ellipsoid((285, -146, side * 86), (48, 14, 46), Soft(Tissue.FAT, FAT_HU, WALL))


def _draw_psoas(paint: _Painter, side: float, size: float) -> None:
    paint.tube(
        [(150, -12, side * 26), (70, -30, side * 41), (0, -44, side * 52), (-60, -66, side * 64),
         (-120, -76, side * 84), (-185, -34, side * 104)],
        [(8, 7), (18 * size, 17 * size), (20 * size, 18 * size), (17, 16), (13, 17), (7, 8)],
    )  # fmt: skip
    paint.tube(
        [(12, -30, side * 108), (-24, -36, side * 104), (-70, -60, side * 88)],
        [(11, 22), (13, 24), (11, 15)], (0, 0.55, side * 0.83),
    )  # fmt: skip


def _draw_buttock(paint: _Painter, side: float) -> None:
    fat = Soft(Tissue.FAT, FAT_HU + 8, WALL)
    tilt = (0.0, 0.85, side * 0.52)
    paint.drawing.tube(
        [(-20, 40, side * 72), (-150, 22, side * 108)], [(22, 44), (26, 52)], fat, tilt
    )
    paint.tube([(-15, 46, side * 66), (-90, 38, side * 92), (-165, 16, side * 118)],
               [(12, 34), (19, 48), (17, 40)], tilt, WALL)  # fmt: skip
    paint.tube([(10, -26, side * 130), (-50, -22, side * 124), (-130, -20, side * 134)],
               [(8, 30), (17, 44), (7, 18)], (0, 0.5, side * 0.86), WALL)  # fmt: skip
    paint.tube([(-40, -44, side * 116), (-90, -46, side * 114), (-130, -44, side * 128)],
               [(7, 18), (12, 24), (6, 10)], (0, 0.3, side * 0.95), WALL)  # fmt: skip
    # Fat around the sciatic nerve and beside the rectum.
    paint.drawing.tube([(-70, 16, side * 62), (-150, 10, side * 80)], [11, 8], fat)
    paint.drawing.tube([(-78, 4, side * 58), (-160, 8, side * 86)], [4.5, 3.5],
                       Soft(Tissue.ORGAN, 28.0))  # fmt: skip
    paint.drawing.tube([(-120, 34, side * 22), (-185, 34, side * 26)], [(18, 15), (30, 22)],
                       Soft(Tissue.FAT, FAT_HU, TORSO), (0, 1, 0))  # fmt: skip
    paint.tube([(-84, -62, side * 50), (-128, -46, side * 49), (-150, -8, side * 54)],
               [(8, 14), (9, 22), (6, 9)], (0, -0.2, side * 0.97))  # fmt: skip
    paint.tube([(-148, -74, side * 40), (-160, -40, side * 64), (-158, -14, side * 104)],
               [(9, 11), (9, 11), (5, 6)], (1, 0, 0))  # fmt: skip


def _draw_thigh(paint: _Painter, side: float) -> None:
    for y, x, top, low, size in (
        (-86, 100, -110, (-62, 86), (13, 17)), (-70, 128, -130, (-56, 112), (19, 17)),
        (-52, 128, -175, (-40, 116), (22, 17)), (-34, 114, -190, (-48, 96), (18, 22)),
        (-88, 74, -120, (-56, 54), (9, 13)), (-70, 50, -150, (-44, 56), (18, 19)),
        (-36, 50, -160, (-14, 58), (27, 22)), (-52, 78, -185, (-30, 66), (14, 17)),
        (-2, 62, -180, (8, 66), (17, 17)), (12, 82, -185, (10, 84), (16, 16)),
        (0, 106, -190, (6, 98), (13, 15)), (22, 116, -160, (6, 112), (14, 22)),
    ):  # fmt: skip
        line = [(top, y, side * x), (-260, (y + low[0]) / 2, side * (x + low[1]) / 2),
                (-420, low[0], side * low[1])]  # fmt: skip
        paint.tube(line, [size, size, size], over=(Tissue.FAT, Tissue.MUSCLE))
    vessels = [
        (-150, -98, side * 80),
        (-260, -74, side * 70),
        (-420, -40, side * 64),
    ]
    paint.drawing.tube(vessels, [13, 9, 8], Soft(Tissue.FAT, FAT_HU, WALL))


def _draw_shoulder(paint: _Painter, side: float) -> None:
    paint.tube([(404, 36, side * 80), (424, 16, side * 128)], [(9, 14), (8, 10)], (0.6, 0.8, 0))
    paint.tube([(340, 50, side * 92), (392, 26, side * 140)], [(8, 30), (9, 16)],
               (0, 0.9, side * 0.4))  # fmt: skip
    paint.tube([(345, 28, side * 96), (396, -12, side * 138)], [(8, 30), (8, 14)],
               (0, 0.9, side * 0.4))  # fmt: skip
    for y, x in ((24, 178), (-28, 176), (-4, 200)):
        paint.tube(
            [(436, y * 0.9, side * (x - 12)), (500, y - 14, side * x)],
            [(12, 18), (9, 14)],
        )


def draw_table(drawing: Drawing, rng: np.random.Generator, build: Build) -> None:
    """Draw the table under the patient: two thin, curved shells, and a mattress."""
    top = 63 + 1.05 * build.fat_mm + rng.uniform(2, 7)
    curve, depth = rng.uniform(0.0004, 0.0011), rng.uniform(22, 48)
    air = (Tissue.AIR,)
    across = np.linspace(-230, 230, 24)
    for gap, radius, hu in ((0.0, 1.2, -120.0), (7.0, 1.6, float(rng.uniform(-150, 150))),
                            (7.0 + depth, 1.4, float(rng.uniform(-150, 100)))):  # fmt: skip
        for low, high in pairwise(across):
            corners = [
                [(z, top + gap - curve * x * x, x) for x in (low, high)] for z in (-420, 640)
            ]
            drawing.sheet(np.array(corners), np.full((2, 2), radius), Soft(Tissue.TABLE, hu, air))
