"""Vertebrae from the neck to the sacrum, with discs, canal and joints."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from osteomet.simulate.bones import SIDES, Frame, Part, Point
from osteomet.simulate.shapes import Bone, Drawing, Hollow, Load, Soft, Tissue

LEVELS = (
    # name, z, y of the middle; half height, half depth, half width of the body; half disc
    ("L5", 4, -38, 13.3, 17.2, 26.0, 4.3), ("L4", 38, -45, 13.8, 17.2, 25.0, 4.3),
    ("L3", 72, -45, 13.9, 16.8, 23.5, 4.1), ("L2", 106, -38, 13.8, 16.4, 22.2, 3.7),
    ("L1", 139, -27, 13.2, 16.0, 21.2, 3.2), ("T12", 169, -16, 12.2, 15.4, 20.2, 2.9),
    ("T11", 197, -6, 11.4, 14.6, 18.6, 2.4), ("T10", 223, 3, 10.8, 14.1, 17.0, 2.2),
    ("T9", 248, 10, 10.4, 13.7, 16.2, 2.1), ("T8", 273, 15, 10.1, 13.2, 15.6, 2.1),
    ("T7", 297, 17, 9.9, 12.8, 14.9, 2.0), ("T6", 320.5, 17, 9.6, 12.2, 14.3, 1.9),
    ("T5", 343, 13.5, 9.3, 11.5, 13.9, 1.9), ("T4", 365, 8, 9.1, 10.9, 13.7, 1.8),
    ("T3", 386.5, 0, 8.9, 10.3, 13.9, 1.8), ("T2", 408, -9, 8.8, 9.6, 14.7, 1.9),
    ("T1", 429, -18.5, 8.4, 9.0, 15.6, 2.1), ("C7", 449, -28, 7.2, 8.5, 14.6, 2.3),
    ("C6", 467.5, -36, 6.8, 8.4, 13.8, 2.4), ("C5", 485.5, -42, 6.7, 8.3, 13.2, 2.4),
    ("C4", 503.5, -45, 6.7, 8.2, 12.8, 2.4),
)  # fmt: skip
"""An adult lying on the back; sizes after textbooks of anatomy."""

DISC = 92.0


@dataclass(frozen=True, eq=False)
class Vertebra:
    """Where one vertebra is, and its size.

    Attributes:
        name: ``L5`` to ``C4``.
        middle: of the body.
        frame: unit vectors up, back and left, one per row.
        half: height, depth and width of the body, halved.
        disc: half the thickness of the disc above it.
    """

    name: str
    middle: Point
    frame: Frame
    half: tuple[float, float, float]
    disc: float

    @property
    def lumbar(self) -> bool:
        return self.name[0] == "L"

    @property
    def thoracic(self) -> bool:
        return self.name[0] == "T"

    @property
    def canal(self) -> float:
        """Return how far behind the middle of the body the middle of the canal lies."""
        return self.half[1] + (8.0 if self.lumbar else 7.2)

    def at(self, up: float | int, back: float | int, left: float | int) -> Point:
        """Return a place from mm along the vertebra's own axes."""
        place: Point = self.middle + np.array([up, back, left]) @ self.frame
        return place


@dataclass(frozen=True, eq=False)
class Spine:
    """All vertebrae of a patient, from L5 upwards.

    Attributes:
        vertebrae: in that order.
        wear: 0 to 1; how far discs and joints are worn.
    """

    vertebrae: tuple[Vertebra, ...]
    wear: float

    def lean(self, z: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Return y of the middle of the bodies at each height."""
        heights = [-120.0, -70.0, -34.0, *[v.middle[0] for v in self.vertebrae]]
        depths = [34.0, 22.0, -16.0, *[v.middle[1] for v in self.vertebrae]]
        lean: Float[np.ndarray, " n"] = np.interp(z, heights, depths)
        return lean


def draw_curve(rng: np.random.Generator, age: int) -> Spine:
    """Draw the curve of a patient's spine and the sizes of the vertebrae."""
    table = np.array([level[1:] for level in LEVELS], dtype=float)
    lordosis, kyphosis = rng.uniform(0.7, 1.25), rng.uniform(0.75, 1.2) + 0.004 * (age - 60)
    z, y = table[:, 0], table[:, 1]
    straight = np.interp(z, [4, 169, 449, 504], [-38, -16, -28, -45])
    y = straight + (y - straight) * np.where(z < 169, lordosis, kyphosis)
    swing, phase = rng.normal(0, 2.5), rng.uniform(0, 2 * np.pi)
    x = swing * np.sin(z / 75 + phase) - swing * np.sin(phase)
    slim = np.clip(rng.normal(1.0, 0.05), 0.9, 1.12)
    middles = np.stack([z, y, x], axis=1)
    tangents = np.gradient(middles, z, axis=0)
    # The lowest lumbar vertebra leans forward with the sacrum.
    tangents[0] += (0, -0.22, 0)
    vertebrae = []
    for n, level in enumerate(LEVELS):
        own = rng.normal(1.0, 0.015, 3)
        half = (table[n, 2] * own[0], table[n, 3] * slim * own[1], table[n, 4] * slim * own[2])
        vertebrae.append(
            Vertebra(str(level[0]), middles[n], _frame(tangents[n]), half, table[n, 5])
        )
    wear = float(np.clip(rng.normal((age - 45) / 45, 0.25), 0, 1))
    return Spine(tuple(vertebrae), wear)


def _frame(tangent: Point) -> Frame:
    up = tangent / np.linalg.norm(tangent)
    left = np.array([0.0, 0.0, 1.0])
    left -= up * (left @ up)
    left /= np.linalg.norm(left)
    back = np.cross(left, up)
    return np.stack([up, back if back[1] > 0 else -back, left])


def draw_spine(drawing: Drawing, rng: np.random.Generator, spine: Spine) -> None:
    """Draw all vertebrae with what lies between and within them."""
    for vertebra in spine.vertebrae:
        _draw_around(drawing, rng, vertebra)
    for vertebra in spine.vertebrae:
        waist, hollow = rng.uniform(0.07, 0.14), rng.uniform(0.5, 1.5)
        _draw_body(drawing, rng, vertebra, waist, hollow)
        if rng.random() < spine.wear:
            _draw_osteophytes(drawing, rng, vertebra, spine.wear)
        _draw_arch(drawing, rng, vertebra)
        _draw_canal(drawing, rng, vertebra)


def _draw_around(drawing: Drawing, rng: np.random.Generator, v: Vertebra) -> None:
    # Muscle and ligaments hug the body; fat with a nerve fills the foramen below the pedicle.
    height, depth, width = v.half
    ligament = Soft(Tissue.MUSCLE, 50.0, (Tissue.LUNG, Tissue.CAVITY))
    reach = height + v.disc + 1
    drawing.tube(
        [v.at(-reach, 0, 0), v.at(reach, 0, 0)], (depth + 2.5, width + 3), ligament, v.frame[1]
    )
    drawing.vertebral_body(
        v.at(height + v.disc, 0, 0), (v.disc + 1.2, depth * 0.98, width * 0.98), v.frame,
        Soft(Tissue.ORGAN, float(rng.normal(DISC, 8))), waist=-0.03, concavity=-1.2,
    )  # fmt: skip
    fat, nerve = Soft(Tissue.FAT, -85.0), Soft(Tissue.ORGAN, 32.0)
    low = -height * 0.55
    for side in SIDES:
        inner, outer = (
            v.at(low, v.canal - 2, side * 8),
            v.at(low - 3, v.canal - 5, side * (width + 2)),
        )
        drawing.tube([inner, outer], (5.0, 4.0), fat)
        drawing.tube([inner, v.at(low - 6, v.canal - 9, side * (width + 8))], 2.1, nerve)


def _draw_body(
    drawing: Drawing, rng: np.random.Generator, v: Vertebra, waist: float, hollow: float
) -> None:
    ink = Bone(Part.BODY, 0.55, float(rng.normal(1.0, 0.05)))
    drawing.vertebral_body(
        v.middle, v.half, v.frame, ink, waist=waist, concavity=hollow,
        end_wall_mm=float(rng.uniform(0.6, 0.95)),
    )  # fmt: skip
    height, depth, width = v.half
    # Trabeculae are densest towards the end plates' rims and the back, sparse in the middle.
    drawing.ellipsoid(v.at(0, -depth * 0.25, 0), (height * 0.7, depth * 0.6, width * 0.62),
                      Load(0.85, 8.0), v.frame)  # fmt: skip
    if rng.random() < 0.8:
        vein = rng.uniform(0.7, 1.5)
        drawing.tube([v.at(0, depth * 0.35, 0), v.at(0.3, depth * 1.2, 0)], vein, Load(0.3, 1.5))
        drawing.tube([v.at(0, depth * 0.8, 0), v.at(0.3, depth * 1.1, 0)], vein, Hollow())


def _draw_osteophytes(drawing: Drawing, rng: np.random.Generator, v: Vertebra, wear: float) -> None:
    # Beaks on the front and side rims of the end plates.
    height, depth, width = v.half
    for _ in range(rng.integers(1, 2 + int(5 * wear))):
        angle, end = rng.uniform(np.pi * 0.5, np.pi * 1.5), rng.choice([-1, 1])
        out = np.array([np.cos(angle) * depth, np.sin(angle) * width])
        size = rng.uniform(0.04, 0.1) + 0.12 * wear * rng.random()
        drawing.tube(
            [v.at(end * height * 0.72, *(out * 0.84)),
             v.at(end * height * 0.98, *(out * (1 + size)))],
            [3.2, rng.uniform(1.0, 2.2)], Bone(Part.BODY, 1.1, 1.5),
        )  # fmt: skip


def _draw_arch(drawing: Drawing, rng: np.random.Generator, v: Vertebra) -> None:
    if v.lumbar:
        _draw_lumbar_arch(drawing, rng, v)
    else:
        _draw_thoracic_arch(drawing, rng, v)


def _draw_lumbar_arch(drawing: Drawing, rng: np.random.Generator, v: Vertebra) -> None:
    height, depth, width = v.half
    canal, (_, back, left) = v.canal, v.frame
    ink, hard = Bone(Part.POSTERIOR, 0.85, 1.0), Bone(Part.POSTERIOR, 1.3, 1.2)
    joint = height + v.disc
    wide = width * 0.62 + (1.5 if v.name == "L5" else 0.0)
    # Facets meet halfway between two bodies: the upper vertebra's inside the lower one's.
    inner, outer = 0.40 * width + 1.0, 0.40 * width + 9.2
    for side in SIDES:
        root = v.at(height * 0.38, depth * 0.55, side * wide)
        pillar = v.at(height * 0.25, canal + 3.5, side * (wide + 0.5))
        thick = rng.uniform(4.2, 5.2) + (1.5 if v.name == "L5" else 0.0)
        drawing.tube([root, pillar], [(thick, 7.2), (thick, 7.0)], ink, left)
        facet = v.at(joint + 3, canal + 6.5, side * outer)
        drawing.tube([pillar, facet], [(4.4, 6.5), (2.7, 5.8)], hard, left)
        lamina = v.at(-height * 0.35, canal + 8.5, side * (inner + 2.5))
        drawing.tube([pillar, lamina], [(4.0, 6.5), (4.0, 6.5)], hard, back)
        lower = v.at(-joint - 4, canal + 9.5, side * inner)
        drawing.tube([lamina, lower], [(4.0, 5.6), (3.0, 5.0)], hard, left)
        middle = v.at(-height * 0.45, canal + 12.5, side * 1.5)
        drawing.tube(
            [lamina, middle], [(3.0, 8.0), (3.2, 9.0)], hard, 0.8 * back + 0.6 * side * left
        )
        tip = v.at(height * 0.25, canal + rng.uniform(1, 5), side * (width + rng.uniform(15, 21)))
        drawing.tube([pillar, tip], [(3.2, 5.4), (2.0, 4.2)], ink, back)
    reach = rng.uniform(25, 31) - (6.0 if v.name == "L5" else 0.0)
    root, tip = v.at(-height * 0.4, canal + 11, 0), v.at(-height * 0.7, canal + 11 + reach, 0)
    drawing.tube([root, tip], [(2.8, 8.5), (3.6, 8.5)], Bone(Part.POSTERIOR, 0.9, 0.9), left)


def _draw_thoracic_arch(drawing: Drawing, rng: np.random.Generator, v: Vertebra) -> None:
    height, depth, width = v.half
    canal, (_, back, left) = v.canal, v.frame
    ink, hard = Bone(Part.POSTERIOR, 0.75, 1.0), Bone(Part.POSTERIOR, 1.0, 1.1)
    joint, number = height + v.disc, int(v.name[1:])
    wide = width * 0.68
    for side in SIDES:
        root = v.at(height * 0.45, depth * 0.5, side * wide)
        pillar = v.at(height * 0.35, canal + 2.5, side * (wide + 0.5))
        drawing.tube([root, pillar], [(3.1, 6.0), (3.2, 6.0)], ink, left)
        # Facets face back and front: the upper vertebra's lies behind the lower one's.
        drawing.tube([pillar, v.at(joint + 4, canal + 4.5, side * (wide + 0.5))],
                     [(3.4, 5.4), (2.2, 5.0)], hard, back)  # fmt: skip
        lamina = v.at(-height * 0.3, canal + 9.5, side * (wide * 0.75))
        drawing.tube([pillar, lamina], [(3.4, 5.6), (3.0, 6.2)], hard, back)
        drawing.tube([lamina, v.at(-joint - 4, canal + 10.5, side * (wide * 0.75))],
                     [(2.8, 5.8), (2.2, 5.2)], hard, back)  # fmt: skip
        middle = v.at(-height * 0.5, canal + 12, side * 1.0)
        drawing.tube(
            [lamina, middle], [(2.6, 9.0), (2.9, 9.5)], hard, 0.75 * back + 0.65 * side * left
        )
        _draw_transverse(drawing, rng, v, side, pillar, number)
    drop, reach = _spinous(v, number)
    root = v.at(-height * 0.5, canal + 11, 0)
    middle = v.at(-height * 0.6 - drop * 0.45, canal + 11 + reach * 0.5, 0)
    tip = v.at(-height * 0.6 - drop, canal + 11 + reach, 0)
    drawing.tube([root, middle, tip], [(2.6, 8.0), (2.2, 6.0), (3.2, 5.0)],
                 Bone(Part.POSTERIOR, 0.8, 0.9), left)  # fmt: skip


def _draw_transverse(
    drawing: Drawing, rng: np.random.Generator, v: Vertebra, side: float, pillar: Point, number: int
) -> None:  # fmt: skip
    height, _, width = v.half
    if not v.thoracic:
        tip = v.at(height * 0.2, v.canal - 3, side * (width + 10))
        drawing.tube([pillar, tip], [(4.0, 4.5), (3.0, 3.5)], Bone(Part.POSTERIOR, 1.1, 1.0),
                     v.frame[1])  # fmt: skip
        return
    reach = float(np.interp(number, [1, 3, 9, 10, 11, 12], [21, 17, 14, 12, 8, 5]))
    tip = v.at(height * 0.35, v.canal + rng.uniform(10, 14), side * (width + reach))
    drawing.tube(
        [pillar, tip], [(3.8, 5.0), (4.4, 5.2)], Bone(Part.POSTERIOR, 0.8, 0.9), v.frame[1]
    )


def _spinous(v: Vertebra, number: int) -> tuple[float, float]:
    # How far a spinous process drops and reaches back.
    if not v.thoracic:
        return 9.0, 26.0 if v.name == "C7" else 18.0
    drop = float(np.interp(number, [1, 3, 6, 8, 10, 12], [12, 20, 30, 28, 16, 6]))
    reach = float(np.interp(number, [1, 3, 6, 8, 10, 12], [26, 21, 17, 17, 20, 22]))
    return drop, reach


def _draw_canal(drawing: Drawing, rng: np.random.Generator, v: Vertebra) -> None:
    height = v.half[0]
    half = (8.0, 11.3) if v.lumbar else (7.3, 9.0)
    reach = height + v.disc
    ends = [v.at(-reach, v.canal, 0), v.at(reach, v.canal, 0)]
    drawing.tube(ends, [half, half], Hollow(), v.frame[1])
    drawing.tube(ends, [half, half], Soft(Tissue.FAT, -35.0), v.frame[1])
    sac = (6.4, 8.6) if v.lumbar else (5.9, 7.2)
    drawing.tube(ends, [sac, sac], Soft(Tissue.ORGAN, 18.0), v.frame[1])
    cord = (3.2, 4.6) if v.thoracic else (3.4, 6.2)
    drawing.tube(ends, [cord, cord], Soft(Tissue.ORGAN, 36.0), v.frame[1])
