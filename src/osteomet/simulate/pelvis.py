"""Sacrum, hip bones and proximal femurs."""

from collections.abc import Callable

import numpy as np

from osteomet.simulate.bones import SIDES, Frame, Part, Point, point
from osteomet.simulate.shapes import Bone, Drawing, Hollow, Load, Soft, Tissue

HIP = (-130.0, -38.0, 87.0)
"""Centre of the left femoral head."""

SACRUM = (
    # z and y of the middle of each segment, its tilt, half height, depth and width
    (-33, -19, 0.74, 15.2, 15.5, 25.0), (-53, 2, 0.86, 14.2, 11.5, 19.0),
    (-72, 21, 0.70, 12.6, 9.0, 15.0), (-90, 33.5, 0.45, 10.6, 7.5, 12.0),
    (-107, 38.5, 0.10, 8.6, 6.0, 9.5), (-121, 37, -0.35, 6.5, 4.5, 6.5),
    (-132, 31, -0.6, 5.0, 3.8, 4.5),
)  # fmt: skip


def _leaning(tilt: float) -> Frame:
    c, s = np.cos(tilt), np.sin(tilt)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def draw_sacrum(drawing: Drawing, rng: np.random.Generator) -> None:
    """Draw the sacrum with its foramina and its canal, and the coccyx."""
    slim = rng.uniform(0.93, 1.07)
    ala = Bone(Part.SACRUM, 0.7, 0.5)
    segments = []
    for n, (z, y, tilt, height, depth, width) in enumerate(SACRUM):
        frame = _leaning(tilt)
        segments.append((point(z, y, 0), frame))
        ink = Bone(Part.SACRUM, 0.7, 0.82 - 0.05 * n)
        drawing.vertebral_body(
            (z, y, 0), (height, depth, width * slim), frame, ink, waist=0.06, concavity=0.2,
            end_wall_mm=0.8,
        )  # fmt: skip

    def at(n: int, up: float | int, back: float | int, left: float | int) -> Point:
        middle, frame = segments[n]
        place: Point = middle + np.array([up, back, left]) @ frame
        return place

    for side in SIDES:
        drawing.tube(
            [at(0, 2, 4, side * 18), at(0, -2, 9, side * 44 * slim)], [(13, 14), (19, 17)], ala,
            segments[0][1][1],
        )  # fmt: skip
        drawing.tube(
            [at(0, -4, 12, side * 44 * slim), at(1, -2, 10, side * 40 * slim),
             at(2, -4, 4, side * 28), at(4, 0, 1, side * 14)],
            [(20, 17), (18, 15), (10, 12), (5, 6)], ala, segments[1][1][1],
        )  # fmt: skip
        # The surface of the joint with the ilium, dense and slanted.
    arch = Bone(Part.SACRUM, 1.2, 0.6)
    for n in range(4):
        reach = (27, 23, 18, 14)[n]
        drawing.tube([at(n, 4, reach, -14), at(n, 0, reach + 4, 0), at(n, 4, reach, 14)],
                     [(3.2, 8), (3.6, 9), (3.2, 8)], arch, segments[n][1][1])  # fmt: skip
    drawing.tube([at(0, 6, 32, 0), at(1, 0, 27, 0), at(2, 0, 22, 0), at(3, 0, 16, 0)],
                 [(5, 3), (6, 3), (5, 3), (3, 3)], arch, segments[1][1][1])  # fmt: skip
    _draw_sacral_holes(drawing, at, segments)


def _draw_sacral_holes(
    drawing: Drawing,
    place: Callable[[int, float | int, float | int, float | int], Point],
    segments: list[tuple[Point, Frame]],
) -> None:
    fat, nerve = Soft(Tissue.FAT, -80.0), Soft(Tissue.ORGAN, 30.0)
    for side in SIDES:
        for n, across in enumerate((23.0, 19.5, 16.0, 13.0)):
            height = SACRUM[n][3]
            depth = SACRUM[n][4]
            line = [place(n, -height, -depth - 14, side * (across + 5)),
                    place(n, -height, 0, side * across),
                    place(n, -height * 0.6, depth + 16, side * across)]  # fmt: skip
            drawing.tube(line, [6.5, 4.4, 3.0], Hollow())
            drawing.tube(line, [6.5, 4.4, 3.0], fat)
            drawing.tube(line[:2], [3.0, 2.6], nerve)
    canal = [place(n, 0, (24, 19, 14, 10)[n], 0) for n in range(4)]
    canal.insert(0, place(0, 16, 26, 0))
    wide = [(7.5, 12.5), (6.5, 11), (4.5, 8), (3, 5.5), (2, 4)]
    drawing.tube(canal, wide, Hollow(), segments[1][1][1])
    drawing.tube(canal, wide, Soft(Tissue.FAT, -60.0), segments[1][1][1])
    drawing.tube(canal[:3], [(5, 8), (4, 7), (2.5, 4)], Soft(Tissue.ORGAN, 15.0), segments[1][1][1])


def draw_hips(drawing: Drawing, rng: np.random.Generator) -> None:
    """Draw both hip bones and proximal femurs."""
    thick, radius = float(rng.uniform(0.88, 1.12)), float(rng.uniform(22, 25))
    for side in SIDES:
        _draw_ilium(drawing, side, thick)
        _draw_joint_of_sacrum(drawing, side)
        _draw_pubis_and_ischium(drawing, side, thick)
        _draw_socket_and_femur(drawing, rng, side, radius)
    fibrocartilage = Soft(Tissue.ORGAN, 90.0)
    drawing.tube([(-126, -90, 0), (-152, -82, 0)], [(2.5, 8), (2.5, 7)], fibrocartilage,
                 (0, 0, 1))  # fmt: skip
    drawing.tube([(-122, -92, 0), (-158, -80, 0)], [(1.8, 10), (1.8, 10)], Hollow(), (0, 0, 1))


def _draw_ilium(drawing: Drawing, side: float, thick: float) -> None:
    # The wing, row by row from the socket's roof to the crest, each from front to back.
    rows = (
        (-76, ((-78, 104), (-66, 102), (-52, 95), (-38, 88), (-24, 80), (-12, 75))),
        (-48, ((-92, 122), (-76, 118), (-56, 111), (-38, 101), (-20, 84), (-2, 72))),
        (-24, ((-86, 132), (-68, 130), (-48, 125), (-32, 112), (-12, 83), (6, 66))),
        (0, ((-60, 139), (-50, 137), (-36, 127), (-20, 106), (-4, 79), (14, 63))),
        (22, ((-42, 131), (-36, 128), (-27, 119), (-16, 106), (-4, 91), (8, 76))),
    )  # fmt: skip
    widths = ((8, 8, 8.5, 9, 9, 7), (5.5, 4, 4, 4.5, 6, 8), (5.5, 3.8, 3.0, 3.0, 5, 8.5),
              (5.5, 4, 2.7, 2.6, 4.5, 8), (4.5, 4.5, 4, 4, 4.5, 6))  # fmt: skip
    grid = np.array([[(z, y, side * x) for y, x in row] for z, row in rows])
    ink = Bone(Part.ILIUM, 0.8, 0.75)
    drawing.sheet(grid, thick * np.array(widths), ink)
    crest = [(-24, -88, 132), (0, -60, 140), (18, -44, 135), (27, -26, 119), (25, -10, 99),
             (16, 8, 77),
             (8, 22, 65), (-6, 40, 52)]  # fmt: skip
    drawing.tube([point(z, y, side * x) for z, y, x in crest],
                 [5.8, 6.4, 6.4, 5.8, 5.4, 6.0, 7.0, 6.0], Bone(Part.ILIUM, 0.85, 0.7))  # fmt: skip
    # The mass behind, beside the sacrum.
    rear = [[(0, 8, 68), (-2, 22, 61), (-8, 34, 55)], [(-26, 4, 69), (-26, 20, 58), (-26, 38, 51)],
            [(-50, 0, 71), (-48, 14, 61), (-44, 30, 53)], [(-68, -10, 73), (-62, 4, 68),
                                                           (-56, 16, 60)]]  # fmt: skip
    grid = np.array([[(z, y, side * x) for z, y, x in row] for row in rear])
    drawing.sheet(grid, thick * np.array([[9, 8.5, 6], [10, 10, 8], [10, 9.5, 6], [8, 7, 5]]), ink)
    # Load passes from the joint with the sacrum to the socket.
    drawing.tube([(-18, 4, side * 66), (-60, -22, side * 80), (-96, -40, side * 88)],
                 [7, 7, 12], Load(1.6, 9.0))  # fmt: skip


def _draw_joint_of_sacrum(drawing: Drawing, side: float) -> None:
    # A slanted gap of about 3 mm.
    grid = np.array([
        [(2, -14, side * 62), (2, 4, side * 57), (-2, 22, side * 48)],
        [(-30, -22, side * 63), (-28, 0, side * 56.5), (-28, 24, side * 45)],
        [(-66, -8, side * 61), (-62, 6, side * 55), (-58, 22, side * 47)],
    ])  # fmt: skip
    drawing.sheet(grid, np.full((3, 3), 1.4), Hollow())


def _draw_pubis_and_ischium(drawing: Drawing, side: float, thick: float) -> None:
    ink = Bone(Part.ILIUM, 0.85, 0.65)

    def at(z: float | int, y: float | int, x: float | int) -> Point:
        return point(z, y, side * x)

    drawing.tube([at(-112, -66, 74), at(-120, -76, 48), at(-128, -86, 26), at(-134, -91, 12)],
                 [(11, 12), (7, 8), (7, 8), (7, 12)], ink, (0.5, 0.8, 0.0))  # fmt: skip
    drawing.tube([at(-130, -91, 11), at(-148, -84, 11)], [(6.5, 9), (6, 8)], ink, (0, 1, 0))
    drawing.tube([at(-104, -14, 74), at(-128, -8, 70), at(-154, -2, 66), at(-178, -12, 60)],
                 thick * np.array([13, 13, 13, 12.0]), ink)  # fmt: skip
    drawing.tube([at(-180, -16, 58), at(-178, -44, 40), at(-164, -68, 24), at(-150, -80, 13)],
                 [(9, 9), (4.5, 7.5), (4.5, 7), (5.5, 7.5)],
                 ink, (0.2, 0.3, 0.9 * side))  # fmt: skip
    drawing.tube([at(-104, -10, 72), at(-112, 4, 60)], [7.0, 2.5], ink)
    body = Bone(Part.ILIUM, 0.9, 0.85)
    drawing.ellipsoid(at(-108, -40, 85), (30, 31, 25), body)
    drawing.ellipsoid(at(-130, -38, 80), (26, 32, 26), body)


def _draw_socket_and_femur(
    drawing: Drawing, rng: np.random.Generator, side: float, radius: float
) -> None:
    hip = np.array(HIP) * (1, 1, side)

    def at(z: float | int, y: float | int, x: float | int) -> Point:
        place: Point = hip + np.array([z, y, side * x])
        return place

    # Cartilage first, then the socket's mouth, which opens to the side, down and forward.
    drawing.ellipsoid(hip, radius + 3.0, Hollow())
    drawing.tube([at(-8, -4, 10), at(-26, -10, 50)], [radius + 2.5, radius + 20], Hollow())
    drawing.ellipsoid(hip, radius + 3.2, Soft(Tissue.ORGAN, 75.0))
    drawing.tube([at(-12, -6, -6), at(-22, -10, -14)], [11, 6], Hollow())
    drawing.tube([at(-12, -4, -8), at(-20, -8, -14)], [11, 6], Soft(Tissue.FAT, -70.0))
    axis = [at(0, 0, 0), at(-17, 5, 22), at(-31, 10, 42)]
    shaft = [at(-36, 8, 40), at(-62, 8, 37), at(-110, 4, 33), at(-230, -2, 26)]
    drawing.tube([at(-4, 1, 6), *axis[1:]], [17, 14.5, 17], Bone(Part.FEMUR, 1.4, 0.55),
                 walls_mm=[0.8, 1.8, 1.2])  # fmt: skip
    drawing.tube([at(-14, 14, 46), at(-36, 10, 43)], [12, 18], Bone(Part.FEMUR, 0.8, 0.38))
    drawing.tube(shaft, [(18, 18), (16.5, 16), (14.5, 14.5), (13.5, 13.5)],
                 Bone(Part.FEMUR, 4.0, 0.12),
                 (0, 1, 0), [1.2, 3.8, 5.6, 6.2])  # fmt: skip
    drawing.tube([at(-58, 14, 26), at(-66, 20, 20)], [10, 6.5], Bone(Part.FEMUR, 1.0, 0.5))
    drawing.ellipsoid(hip, radius, Bone(Part.FEMUR, 0.8, 0.85))
    # The arcades: pressure into the head, tension over the neck.
    drawing.tube([at(15, -1, -5), at(-4, 0, 2), at(-34, 4, 20)], [10, 8, 5], Load(1.6, 7.0))
    drawing.tube(
        [at(-60, 8, 52), at(-22, 7, 38), at(-8, 3, 18), at(-10, 0, -8)], 3.5, Load(1.5, 5.0)
    )
    drawing.ellipsoid(at(-27, 7, 26), (8, 9, 8), Load(0.45, 6.0))
