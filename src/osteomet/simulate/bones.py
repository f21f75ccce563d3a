"""Bones, as shapes drawn onto a canvas.

Millimetres in the patient, z to superior, y to posterior, x to left. Sizes are those of
adults, each varied from patient to patient.
"""

from collections.abc import Callable
from enum import IntEnum

import numpy as np
from jaxtyping import Float

from osteomet.simulate.shapes import PAINT, SUBTRACT, Canvas


class Part(IntEnum):
    """A kind of bone, by cortex and by how often metastases settle there."""

    NONE = 0
    BODY = 1
    POSTERIOR = 2
    RIB = 3
    SACRUM = 4
    ILIUM = 5
    FEMUR = 6
    STERNUM = 7
    CLAVICLE = 8
    SCAPULA = 9
    HUMERUS = 10


Frame = Float[np.ndarray, "3 3"]
Point = Float[np.ndarray, " 3"]
SIDES = (-1.0, 1.0)


class Spine:
    """A stack of vertebrae on a bent line."""

    def __init__(
        self,
        rng: np.random.Generator,
        size: tuple[float, float, float],
        *,
        disc: float,
        bend: float,
        lumbar: bool,
    ) -> None:
        scale = rng.normal(1.0, 0.06)
        self.half = np.clip(scale, 0.86, 1.15) * np.array(size)
        self.disc = disc * rng.uniform(0.65, 1.15)
        self.bend = bend * rng.uniform(0.4, 1.5)
        self.scoliosis = rng.normal(0, 0.0005)
        self.shift = rng.uniform(-0.5, 0.5)
        self.lumbar = lumbar
        self.waist = rng.uniform(0.08, 0.17)
        self.concavity = rng.uniform(0.6, 2.4)
        self.wear = rng.choice([0.05, 0.35, 0.8])
        self.slope = rng.uniform(0.25, 0.8) if not lumbar else rng.uniform(0.0, 0.2)

    def levels(self) -> list[tuple[Point, Frame]]:
        """Return middle and axes (up, back, left) of each vertebra near the field of view."""
        pitch = 2 * self.half[0] + self.disc
        count = int(110 // pitch) + 1
        levels = []
        for n in range(-count, count + 1):
            z = (n + self.shift) * pitch
            tilt, lean = 2 * self.bend * z, 2 * self.scoliosis * z
            up = np.array([1.0, tilt, lean])
            up /= np.linalg.norm(up)
            left = np.array([-lean, 0.0, 1.0])
            left -= up * (left @ up)
            left /= np.linalg.norm(left)
            back = np.cross(up, left) * -1.0
            if back[1] < 0:
                back = -back
            middle = np.array([z, self.bend * z * z, self.scoliosis * z * z])
            levels.append((middle, np.stack([up, back, left])))
        return levels

    def draw(self, canvas: Canvas, rng: np.random.Generator, middle: Point, frame: Frame) -> None:
        height, depth, width = (self.half * rng.normal(1.0, 0.02, 3)).tolist()

        def at(up: float | int, back: float | int, left: float | int) -> Point:
            position: Point = middle + np.array([up, back, left]) @ frame
            return position

        canvas.vertebral_body(
            at(height + self.disc / 2, 0, 0), (self.disc / 2 + 1, depth * 0.98, width * 0.98),
            frame, waist=-0.03, concavity=-self.concavity * 0.7, mode=PAINT,
            value=float(rng.uniform(75, 105)),
        )  # fmt: skip
        canal = depth + (8.5 if self.lumbar else 8.0)
        canvas.tube(
            [at(-height * 1.4, canal, 0), at(height * 1.4, canal, 0)], 8.5, mode=PAINT, value=28.0
        )
        canvas.vertebral_body(
            middle, (height, depth, width), frame, waist=self.waist,
            concavity=self.concavity * rng.uniform(0.6, 1.4), value=Part.BODY,
        )  # fmt: skip
        if rng.random() < self.wear:
            self._osteophytes(canvas, rng, at, (height, depth, width))
        self._arch(canvas, rng, at, (height, depth, width), frame)
        radius = (8.0, 11.5) if self.lumbar else (7.8, 8.8)
        canvas.tube(
            [at(-height * 1.25, canal, 0), at(height * 1.25, canal, 0)],
            [radius, radius], frame[1], mode=SUBTRACT,
        )  # fmt: skip
        if rng.random() < 0.7:
            canvas.tube(
                [at(0, depth * 0.6, 0), at(0.5, depth * 1.1, 0)], rng.uniform(0.5, 1.3),
                mode=SUBTRACT,
            )  # fmt: skip

    def _osteophytes(
        self,
        canvas: Canvas,
        rng: np.random.Generator,
        at: Callable[..., Point],
        half: tuple[float, float, float],
    ) -> None:
        # Beaks on the front and side rims of the end plates.
        height, depth, width = half
        for _ in range(rng.integers(1, 5)):
            angle, end = rng.uniform(np.pi * 0.9, np.pi * 2.1), rng.choice([-1, 1])
            out = np.array([np.sin(angle) * depth, np.cos(angle) * width])
            size = rng.uniform(0.06, 0.2)
            canvas.tube(
                [at(end * height * 0.75, *(out * 0.85)), at(end * height, *(out * (1 + size)))],
                [3.0, rng.uniform(1.2, 2.6)], value=Part.BODY,
            )  # fmt: skip

    def _arch(
        self,
        canvas: Canvas,
        rng: np.random.Generator,
        at: Callable[..., Point],
        half: tuple[float, float, float],
        frame: Frame,
    ) -> None:
        height, depth, width = half
        _, back, left = frame
        canal = depth + (8.5 if self.lumbar else 8.0)
        drop = 4.0 if self.lumbar else 14.0 * self.slope + 4
        reach = rng.uniform(24, 31) if self.lumbar else rng.uniform(20, 28)
        for side in SIDES:
            root = at(height * 0.3, depth * 0.6, side * width * 0.62)
            joint = at(height * 0.1, canal + 4, side * (width * 0.62 + 1))
            facet_up = at(height * 1.15, canal + 6.0, side * width * 0.68)
            facet_down = at(-height * 1.1, canal + 9.5, side * width * 0.5)
            arch = at(-height * 0.25, canal + 13, side * 2)
            pedicle = (4.6, 7.0) if self.lumbar else (3.2, 5.6)
            canvas.tube([root, joint], [pedicle, pedicle], left, value=Part.POSTERIOR)
            canvas.tube([joint, facet_up], [(4.6, 6.0), (2.6, 5.2)], back, value=Part.POSTERIOR)
            canvas.tube([joint, facet_down], [(4.2, 6.0), (2.8, 5.0)], back, value=Part.POSTERIOR)
            canvas.tube(
                [joint, arch], [(3.4, 7.5), (3.6, 8.5)], (0.8 * back + 0.6 * side * left),
                value=Part.POSTERIOR,
            )  # fmt: skip
            if self.lumbar:
                tip = at(height * 0.2, canal + 3, side * (width + 17))
                canvas.tube([joint, tip], [(2.8, 5.2), (2.0, 4.0)], back, value=Part.POSTERIOR)
            else:
                tip = at(height * 0.3, canal + 15, side * (width + 14))
                canvas.tube([joint, tip], [(4.2, 5.2), (4.4, 5.4)], back, value=Part.POSTERIOR)
        canvas.tube(
            [at(-height * 0.25, canal + 11, 0), at(-height * 0.35 - drop, canal + 11 + reach, 0)],
            [(2.9, 8.5), (3.4, 7.5 if self.lumbar else 5.0)], left, value=Part.POSTERIOR,
        )  # fmt: skip


def draw_rib(
    canvas: Canvas,
    rng: np.random.Generator,
    middle: Point,
    size: tuple[float, float, float],
    side: float,
) -> None:
    """Draw the rib of one vertebra: its middle, half sizes, and the side (-1 right, 1 left)."""
    # From the joint at the upper edge of the body, back along the transverse process, then
    # around the lung and down.
    height, depth, width = size
    z, y, x = middle
    head = np.array([z + height * 0.95, y + depth * 0.55, x + side * (width + 4.2)])
    neck = np.array([z + height * 0.9, y + depth + 8.5, x + side * (width + 15)])
    slope = rng.uniform(0.3, 0.5)
    angles = np.linspace(2.05, -1.0, 16)
    around = np.stack(
        [
            z + height * 0.85 - slope * 62 * np.maximum(1.9 - angles, 0),
            -28 + 69.0 * np.sin(angles),
            side * (74 + 68.0 * np.cos(angles)),
        ],
        axis=1,
    )
    points = np.vstack([head, neck, around])
    outward = np.stack([0.12 * np.ones(16), np.sin(angles), side * np.cos(angles)], axis=1)
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    flat = np.vstack([outward[0], outward[0], outward])
    thick = np.array([3.4, 3.6, *np.full(16, 3.3)]) * rng.uniform(0.9, 1.12)
    tall = np.array([5.0, 5.2, *np.linspace(6.4, 5.6, 16)]) * rng.uniform(0.9, 1.12)
    canvas.tube(points, np.stack([thick, tall], axis=1), flat, value=Part.RIB)


def draw_sacrum(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw the sacrum with the lowest lumbar body, its foramina and its canal."""
    scale = rng.normal(1.0, 0.05)
    tilt = rng.uniform(0.5, 0.85)
    up = np.array([np.cos(tilt), -np.sin(tilt), 0.0])
    back = np.array([np.sin(tilt), np.cos(tilt), 0.0])
    left = np.array([0.0, 0.0, 1.0])
    frame = np.stack([up, back, left])

    def at(u: float | int, b: float | int, v: float | int) -> Point:
        position: Point = np.array([u, b + 0.006 * min(u - 20, 0) ** 2, v]) * scale @ frame
        return position

    canvas.vertebral_body(
        at(60, -2, 0), (14, 17, 25), frame, waist=0.12, concavity=1.2, value=Part.BODY
    )
    canvas.vertebral_body(
        at(41.5, -1, 0), (5, 17, 25), frame, waist=0.0, concavity=-1.0, mode=PAINT, value=88.0
    )
    levels = [(26, 11.5, 16, 24), (3, 10.5, 12, 19), (-18, 9.5, 9.5, 16), (-37, 8.5, 7.5, 13)]
    for u, h, d, w in levels:
        canvas.vertebral_body(
            at(u, 0, 0), (h, d, w), frame, waist=0.06, concavity=0.3, value=Part.SACRUM
        )
    for side in SIDES:
        canvas.tube(
            [at(27, 4, side * 14), at(22, 6, side * 44)], [(14, 15), (13, 17)], back,
            value=Part.SACRUM,
        )  # fmt: skip
        canvas.tube(
            [at(20, 6, side * 36), at(-8, 6, side * 30), at(-42, 4, side * 15)],
            [(10, 15), (8, 13), (6, 8)], back, value=Part.SACRUM,
        )  # fmt: skip
    canvas.tube([at(30, 26, 0), at(-38, 14, 0)], [(4, 11), (3, 7)], back, value=Part.SACRUM)
    for side in SIDES:
        for u, v in ((12, 23), (-9, 20), (-28, 16)):
            canvas.tube([at(u - 2, -22, side * v), at(u, 24, side * v)], [3.6, 3.2], mode=SUBTRACT)
        for u, v in ((44, 15), (26, 14)):
            canvas.tube([at(u, 22, side * v), at(u - 8, 22, side * (v + 4))], 3, mode=SUBTRACT)
    canvas.tube([at(45, 19, 0), at(-30, 8.5, 0)], [(5, 11), (2, 5)], back, mode=SUBTRACT)


def draw_hip(canvas: Canvas, rng: np.random.Generator, side: float) -> None:
    """Draw one hip bone and the proximal femur; ``side`` is -1 for right, 1 for left."""
    scale = float(np.clip(rng.normal(1.0, 0.05), 0.88, 1.12))
    thick = rng.uniform(0.85, 1.15)

    def at(z: float | int, y: float | int, x: float | int) -> Point:
        return np.array([z, y, side * x]) * scale

    socket = at(-72, -34, 88)
    # The wing is a plate from the socket and the joint to the crest, thin in the middle.
    fan = [
        ((74, -46, 122), 4.0), ((88, -18, 121), 3.2), ((91, 6, 107), 3.0),
        ((82, 26, 88), 4.2), ((64, 40, 68), 6.5),
    ]  # fmt: skip
    roots = [(-40, -44, 92), (-32, -30, 90), (-26, -12, 82), (-12, 6, 70), (0, 16, 60)]
    plate, widths = [], []
    for root, (crest, width) in zip(roots, fan, strict=True):
        bends = [np.array(root) * (1 - t) + np.array(crest) * t for t in (0.35, 0.7)]
        hollow = np.array((0, 3.0, -4.0))
        plate.append([at(*root), at(*(bends[0] + hollow)), at(*(bends[1] + hollow)), at(*crest)])
        widths.append([9.0, width * 1.25, width, width * 1.3])
    canvas.sheet(np.array(plate), thick * np.array(widths), value=Part.ILIUM)
    normal = np.array([0.1, 0.62, side * -0.78])
    crests = [at(*crest) for crest, _ in fan]
    canvas.tube(crests, [(5.8, 8.0)] * 5, normal, value=Part.ILIUM)
    canvas.tube([at(66, 40, 66), at(20, 44, 52), at(-14, 28, 60)], [(8, 10), (9, 13), (7, 9)],
                np.array([0, 0.5, side * -0.85]), value=Part.ILIUM)  # fmt: skip
    canvas.ellipsoid(socket + np.array([7, 3, -side * 4]), (34, 31, 28), value=Part.ILIUM)
    canvas.tube([at(-78, -48, 74), at(-88, -74, 38), at(-92, -78, 8)], [(10, 9), (7, 9), (8, 14)],
                (0, 1, 0), value=Part.ILIUM)  # fmt: skip
    canvas.tube([at(-88, -10, 76), at(-122, -2, 68), at(-135, -20, 58), at(-112, -66, 18)],
                [12, 11, 9, 6], value=Part.ILIUM)  # fmt: skip
    radius = rng.uniform(22, 25)
    canvas.ellipsoid(socket, np.full(3, radius + 2.4), mode=SUBTRACT)
    canvas.tube([socket + np.array([-6, -3, side * 8]), socket + np.array([-28, -10, side * 48])],
                [radius + 3, radius + 22],
                mode=SUBTRACT)  # fmt: skip
    canvas.tube([socket, socket + np.array([-6, 0, side * 14])], radius + 1, mode=PAINT, value=70.0)
    canvas.ellipsoid(socket, np.full(3, radius), value=Part.FEMUR)
    trochanter = socket + np.array([-24, 12, side * 56])
    canvas.tube([socket, socket + np.array([-16, 6, side * 34]), trochanter], [16, 14.5, 15],
                value=Part.FEMUR)  # fmt: skip
    canvas.tube([trochanter + np.array([14, 6, side * 4]), trochanter], [11, 15],
                value=Part.FEMUR)  # fmt: skip
    canvas.tube([trochanter, trochanter + np.array([-45, -4, -side * 6]),
                 trochanter + np.array([-120, -8, -side * 10])], [18, 16, 14],
                value=Part.FEMUR)  # fmt: skip
