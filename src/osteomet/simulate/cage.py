"""Ribs with their cartilage, sternum and the bones of the shoulder."""

from collections.abc import Callable

import numpy as np

from osteomet.simulate.bones import SIDES, Part, Point, point
from osteomet.simulate.shapes import Bone, Drawing, Hollow, Load, Soft, Tissue
from osteomet.simulate.spine import Spine, Vertebra

Place = Callable[[float | int, float | int, float | int], Point]

RIBS = (
    # drop of the front end, front angle in degrees, middle y, half depth, half width
    (42, 150, -27, 36, 58), (62, 148, -37, 56, 86), (82, 145, -44, 74, 106),
    (98, 140, -50, 88, 119), (115, 136, -56, 100, 128), (130, 132, -61, 109, 134),
    (138, 127, -65, 113, 138), (141, 118, -61, 107, 140), (131, 110, -60, 102, 141),
    (111, 100, -50, 86, 140), (92, 76, -36, 60, 135), (52, 44, -30, 46, 126),
)  # fmt: skip
"""From the first to the twelfth; each lies on an ellipse around the lungs."""

STERNUM_FRONT = ((392.0, -70.0), (346.0, -98.0), (300.0, -120.0), (252.0, -138.0))
"""z and y of the notch, of the angle, of the middle and of the lower end."""


def draw_cage(drawing: Drawing, rng: np.random.Generator, spine: Spine, age: int) -> None:
    """Draw ribs, costal cartilage and sternum."""
    calcified = float(np.clip(rng.normal((age - 55) / 50, 0.2), 0, 0.8))
    girth, slope = rng.normal(1.0, 0.02), rng.normal(1.0, 0.06)
    by_name = {v.name: v for v in spine.vertebrae}
    for number in range(1, 13):
        for side in SIDES:
            end = _draw_rib(drawing, rng, by_name[f"T{number}"], number, side, girth, slope)
            if number <= 10:
                _draw_cartilage(drawing, rng, end, number, side, calcified)
    _draw_sternum(drawing, rng)


def _draw_rib(
    drawing: Drawing, rng: np.random.Generator, v: Vertebra, number: int, side: float,
    girth: float, slope: float,
) -> Point:  # fmt: skip
    # From the joint with the body, back along the transverse process, then around the lung
    # and down. Returns its front end.
    drop, turn, middle, deep, wide = RIBS[number - 1]
    height, depth, width = v.half
    lift = 0.95 if number > 1 else 0.4
    head = v.at(height * lift, depth * 0.45, side * (width + 4.0))
    neck = v.at(height * 0.9, depth + 7.0, side * (width + 11.0))
    shift = v.middle[1] - (-18.5, -9, 0, 8, 13.5, 17, 17, 15, 10, 3, -6, -16)[number - 1]
    start = 30.0 if number < 11 else 26.0
    angles = np.radians(np.linspace(start, turn, 12 if number < 12 else 6))
    share = (angles - angles[0]) / (angles[-1] - angles[0])
    z = v.middle[0] + height * 0.5 - slope * drop * (0.35 * share + 0.65 * share**1.25)
    y = middle + deep * np.cos(angles) + shift * (1 - share)
    x = v.middle[2] * (1 - share) + side * wide * girth * np.sin(angles)
    around = np.stack([z, y, x], axis=1)
    points = np.vstack([head, neck, around])
    outward = np.stack([np.full(len(angles), 0.15), np.cos(angles), side * np.sin(angles)], axis=1)
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    flat = np.vstack([outward[0], outward[0], outward])
    size = rng.uniform(0.92, 1.1) * (0.85 if number > 10 else 1.0)
    thick = size * np.array([3.2, 3.3, *np.linspace(3.7, 3.0, len(angles))])
    tall = size * np.array([4.8, 5.0, *np.linspace(6.2, 5.6, len(angles))])
    if number == 1:
        flat = np.vstack([np.tile([1.0, 0.2, 0.0], (len(points), 1))])
        tall = tall * 1.15
    walls = [0.6, 0.65, *np.linspace(0.85, 0.6, len(angles)).tolist()]
    # The inner and the outer table differ; a rib is a tube of fatty, loose marrow.
    drawing.tube(points, np.stack([thick, tall], axis=1), Bone(Part.RIB, 1.0, 0.72), flat, walls)
    front: Point = around[-1]
    return front


def _draw_cartilage(
    drawing: Drawing, rng: np.random.Generator, end: Point, number: int, side: float,
    calcified: float
) -> None:  # fmt: skip
    z, y = np.array(STERNUM_FRONT).T
    if number <= 7:
        level = (380.0, 346.0, 322.0, 300.0, 280.0, 264.0, 254.0)[number - 1]
        inner = 24.0 if number == 1 else 17.0
        target = point(level, float(np.interp(level, z[::-1], y[::-1])), side * inner)
    else:
        # The false ribs' cartilage joins that of the rib above.
        target = end + point(32.0, -22.0, -side * 34.0)
    bend = (end + target) / 2 + point(-6.0 - 1.2 * number, -7.0, side * 3.0)
    line = [end, bend, target]
    ink = Soft(Tissue.ORGAN, float(rng.uniform(85, 125)))
    drawing.tube(line, [(4.4, 6.4), (4.4, 6.6), (4.0, 5.6)], ink, (0.1, 1.0, 0.0))
    for _ in range(rng.poisson(9 * calcified)):
        t = rng.random()
        spot = end * (1 - t) ** 2 + 2 * bend * t * (1 - t) + target * t * t + rng.normal(0, 2.2, 3)
        along = (target - end) / np.linalg.norm(target - end)
        drawing.tube(
            [spot, spot + along * rng.uniform(1, 8)], rng.uniform(0.6, 1.5),
            Soft(Tissue.ORGAN, float(rng.uniform(220, 520))),
        )  # fmt: skip


def _draw_sternum(drawing: Drawing, rng: np.random.Generator) -> None:
    tilt = (0.42, 0.9, 0.0)
    ink = Bone(Part.STERNUM, 0.85, 0.62)
    (z0, y0), (z1, y1), (z2, y2), (z3, y3) = STERNUM_FRONT
    wide = rng.uniform(0.9, 1.1)
    drawing.tube([(z0 - 9, y0 - 4, 0), (z1 + 9, y1 + 4, 0)],
                 [(6.2, 27 * wide), (5.2, 17 * wide)], ink, tilt)  # fmt: skip
    drawing.ellipsoid(point(z0 + 6, y0 + 3, 0), (9, 12, 11), Hollow())
    drawing.tube(
        [(z1 - 8, y1 - 4, 0), (z2, y2, 0), (z3 + 8, y3 + 3, 0)],
        [(4.8, 13 * wide), (5.2, 17 * wide), (4.8, 15 * wide)], ink, tilt,
    )  # fmt: skip
    drawing.tube([(z3 - 2, y3 - 1, 0), (z3 - 26, y3 - 7, 0)], [(3.2, 7), (2.2, 4)],
                 Bone(Part.STERNUM, 1.0, 0.5), tilt)  # fmt: skip


def draw_shoulders(drawing: Drawing, rng: np.random.Generator) -> None:
    """Draw clavicles, scapulae and the upper humeri of raised arms."""
    for side in SIDES:
        at = _shoulder(side, float(rng.uniform(-5, 8)))
        drawing.tube(
            [at(397, -70, 20), at(404, -76, 50), at(416, -58, 88), at(434, -28, 122),
             at(440, -8, 146)],
            [(7.5, 8.5), (5.2, 6.0), (5.0, 6.0), (4.8, 7.5), (4.6, 9.5)],
            Bone(Part.CLAVICLE, 1.5, 0.6), (1.0, 0.3, 0.0), [0.9, 1.7, 2.0, 1.6, 0.9],
        )  # fmt: skip
        _draw_scapula(drawing, at)
        _draw_humerus(drawing, rng, at(418, -4, 166), side)


def _shoulder(side: float, lift: float) -> Place:
    # Places of the shoulder girdle: the further from the midline, the more it is lifted.
    def at(z: float | int, y: float | int, x: float | int) -> Point:
        return point(z + lift * max(abs(x) - 30, 0) / 100, y, side * x)

    return at


def _draw_scapula(drawing: Drawing, place: Place) -> None:
    ink = Bone(Part.SCAPULA, 0.9, 0.7)
    medial = [place(398, 42, 62), place(362, 52, 66), place(322, 54, 76), place(284, 46, 98)]
    blade = [place(394, 24, 96), place(360, 34, 98), place(324, 40, 100), place(290, 42, 108)]
    lateral = [place(398, 8, 134), place(358, 16, 128), place(320, 26, 120), place(288, 36, 114)]
    grid = np.stack([medial, blade, lateral], axis=1)
    thick = np.array([[2.6, 1.5, 4.5], [2.4, 1.2, 4.8], [2.4, 1.3, 4.4], [3.4, 3.0, 3.6]])
    drawing.sheet(grid, thick, ink)
    drawing.tube(lateral, [5.2, 4.6, 4.2, 4.0], ink)
    spine = [place(384, 52, 68), place(398, 50, 98), place(418, 42, 130), place(440, 22, 152)]
    root = [place(384, 46, 68), place(392, 28, 98), place(402, 16, 130), place(432, 18, 150)]
    drawing.sheet(
        np.stack([root, spine], axis=1), np.array([[2, 3], [1.8, 4], [2.4, 5], [4, 5]]), ink
    )
    drawing.tube([place(440, 20, 152), place(446, -6, 160)], [(4.4, 9.0), (4.0, 8.0)], ink,
                 (1.0, 0.0, 0.0))  # fmt: skip
    drawing.tube(
        [place(406, -2, 132), place(424, -20, 130), place(424, -40, 132)], [6.0, 5.6, 5.0], ink
    )
    drawing.ellipsoid(place(410, 2, 140), (18, 13, 8), Bone(Part.SCAPULA, 1.2, 1.0))


def _draw_humerus(drawing: Drawing, rng: np.random.Generator, head: Point, side: float) -> None:
    radius = rng.uniform(22, 24.5)
    drawing.ellipsoid(head, radius + 2.2, Hollow())
    drawing.ellipsoid(head, radius + 1.8, Soft(Tissue.ORGAN, 70.0))
    shaft = [
        head + point(18, 4, side * 10),
        head + point(52, 0, side * 20),
        head + point(160, -14, side * 38),
    ]
    drawing.tube(shaft[1:], [14, 11], Bone(Part.HUMERUS, 3.5, 0.2), walls_mm=[3.2, 4.2])
    middle = (shaft[0] + shaft[1]) / 2
    drawing.tube([middle, shaft[1]], [17.5, 14], Bone(Part.HUMERUS, 2.0, 0.35), walls_mm=[2.0, 3.2])
    drawing.tube([shaft[0], middle], [21, 17.5], Bone(Part.HUMERUS, 1.0, 0.55), walls_mm=[1.0, 2.0])
    drawing.ellipsoid(head, radius, Bone(Part.HUMERUS, 0.9, 0.75))
    drawing.ellipsoid(head + point(6, 8, side * 16), (14, 14, 12), Bone(Part.HUMERUS, 0.9, 0.35))
    drawing.ellipsoid(head, radius * 0.7, Load(1.25))
