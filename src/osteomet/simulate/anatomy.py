"""Bones and organs of a field of view, as shapes drawn onto a canvas.

Millimetres in the patient: the middle of the chosen spine segment (or of the sacrum) lies
near the origin, z to superior, y to posterior, x to left. Sizes are those of adults.
"""

from enum import IntEnum, StrEnum

import numpy as np
from jaxtyping import Float

from osteomet.simulate.shapes import PAINT, SUBTRACT, Canvas


class Region(StrEnum):
    THORACIC = "thoracic"
    LUMBAR = "lumbar"
    PELVIS = "pelvis"


class Part(IntEnum):
    """A kind of bone, by cortex and by how often metastases settle there."""

    NONE = 0
    BODY = 1
    POSTERIOR = 2
    RIB = 3
    SACRUM = 4
    ILIUM = 5
    FEMUR = 6


Frame = Float[np.ndarray, "3 3"]
Point = Float[np.ndarray, " 3"]
SIDES = (-1.0, 1.0)


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
    canvas.tube([(-120, -36, 14), (120, -32, 16)], 13.0, mode=PAINT, value=42 + contrast)
    canvas.tube([(-120, -46, 1), (120, -44, -2)], 7.0, mode=PAINT, value=38.0)
    canvas.ellipsoid((0, -84, 10), (300, 40, 34), mode=PAINT, value=45 + 0.7 * contrast)
    if rng.random() < 0.5:
        canvas.tube([(0, -58, -3), (120, -50, -2)], 9.0, mode=PAINT, value=-980.0)
    level = rng.uniform(0, 1)
    size = (10.2 + 1.8 * level, 14.5 + 2.0 * level, 15.0 + 3.0 * level)
    spine = _Spine(rng, size, disc=4.5, bend=-0.0018, lumbar=False)
    for middle, frame in spine.levels():
        spine.draw(canvas, rng, middle, frame)
        for side in SIDES:
            _rib(canvas, rng, middle, size, side)


def draw_abdomen(canvas: Canvas, rng: np.random.Generator, contrast: float) -> None:
    """Draw the abdomen around the lumbar spine; arguments as for ``draw_thorax``."""
    fat = float(rng.uniform(10, 35))
    depth = float(rng.uniform(78, 92))
    canvas.ellipsoid(
        (0, depth - 125, 0), (900, 125 + fat / 2, 165 + fat), boxy=True, mode=PAINT, value=-104.0
    )
    canvas.ellipsoid((0, depth - fat - 118, 0), (900, 118, 150), boxy=True, mode=PAINT, value=50.0)
    # Fat of the abdomen, with its organs, begins at the front of the spine.
    canvas.ellipsoid((0, -84, 0), (900, 66, 132), boxy=True, mode=PAINT, value=-100.0)
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
    canvas.tube([(-130, -34, 8), (130, -36, 6)], 9.5, mode=PAINT, value=42 + contrast)
    canvas.tube(
        [(-130, -32, -18), (130, -36, -20)], [(8, 11), (9, 12)], (0, 1, 0),
        mode=PAINT, value=40 + 0.6 * contrast,
    )  # fmt: skip
    _bowel(canvas, rng, 14, (-70, -120, -90), (70, -55, 90))
    level = rng.uniform(0, 1)
    size = (13.0 + 1.5 * level, 16.0 + 2.0 * level, 21.5 + 4.0 * level)
    spine = _Spine(rng, size, disc=9.0, bend=0.0022, lumbar=True)
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
        canvas.tube(
            [(60, -48, side * 28), (0, -56, side * 46), (-100, -92, side * 78)],
            5.5, mode=PAINT, value=42 + contrast,
        )  # fmt: skip
        canvas.tube(
            [(60, -42, side * 30), (0, -46, side * 44), (-100, -84, side * 72)],
            6.5, mode=PAINT, value=42 + 0.6 * contrast,
        )  # fmt: skip
    _bowel(canvas, rng, 12, (-40, -110, -70), (80, -35, 70))
    canvas.ellipsoid((-85, -62, 0), (34, 36, 42), mode=PAINT, value=8.0)
    canvas.tube([(60, 0, 0), (0, 12, 4), (-80, 12, 0)], 12, mode=PAINT, value=35.0)
    _sacrum(canvas, rng)
    for side in SIDES:
        _hip(canvas, rng, side)


def _turned(angle: float) -> Frame:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0, 0], [0, c, s], [0, -s, c]])


class _Spine:
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
        height, depth, width = self.half * rng.normal(1.0, 0.02, 3)

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
        self._arch(canvas, rng, at, (height, depth, width), frame)
        radius = (8.0, 11.5) if self.lumbar else (7.8, 8.8)
        canvas.tube(
            [at(-height * 1.25, canal, 0), at(height * 1.25, canal, 0)],
            [radius, radius], frame[1], mode=SUBTRACT,
        )  # fmt: skip
        if rng.random() < 0.7:
            canvas.tube(
                [at(0, depth * 0.2, 0), at(0.5, depth * 1.1, 0)], rng.uniform(0.8, 1.6),
                mode=SUBTRACT,
            )  # fmt: skip

    def _arch(self, canvas, rng, at, half, frame) -> None:  # type: ignore[no-untyped-def]
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


def _rib(
    canvas: Canvas,
    rng: np.random.Generator,
    middle: Point,
    size: tuple[float, float, float],
    side: float,
) -> None:
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


def _sacrum(canvas: Canvas, rng: np.random.Generator) -> None:
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


def _hip(canvas: Canvas, rng: np.random.Generator, side: float) -> None:
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
