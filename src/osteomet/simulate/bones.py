"""The kinds of bone, and what all who draw them share.

Millimetres in the patient, z to superior, y to posterior, x to left. The origin lies at the
upper edge of the sacrum, in the middle; the whole trunk has this one system.
"""

from enum import IntEnum

import numpy as np
from jaxtyping import Float


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


def point(z: float | int, y: float | int, x: float | int) -> Point:
    """Return a place in the patient."""
    return np.array([z, y, x], dtype=np.float64)
