"""Boxes as NumPy arrays, for what judges and prepares without torch; ``ops.boxes`` has tensors.

Boxes are ``(n, 6)``, ``(z1, y1, x1, z2, y2, x2)`` in any unit, half open.
"""

import numpy as np
from jaxtyping import Float

Boxes = Float[np.ndarray, "n 6"]


def box_iou(a: Float[np.ndarray, "n 6"], b: Float[np.ndarray, "m 6"]) -> Float[np.ndarray, "n m"]:
    """Return the intersection over union of every two boxes; 0 for degenerate ones."""
    shared = box_intersection(a, b)
    union = box_volume(a)[:, None] + box_volume(b)[None] - shared
    iou: Float[np.ndarray, "n m"] = shared / np.maximum(union, np.finfo(np.float64).tiny)
    return iou


def box_volume(boxes: Boxes) -> Float[np.ndarray, " n"]:
    """Return the volume of each box; 0 for degenerate ones."""
    volumes: Float[np.ndarray, " n"] = np.maximum(boxes[:, 3:] - boxes[:, :3], 0.0).prod(axis=1)
    return volumes


def box_intersection(
    a: Float[np.ndarray, "n 6"], b: Float[np.ndarray, "m 6"]
) -> Float[np.ndarray, "n m"]:
    """Return the volume that every two boxes share."""
    low = np.maximum(a[:, None, :3], b[None, :, :3])
    high = np.minimum(a[:, None, 3:], b[None, :, 3:])
    shared: Float[np.ndarray, "n m"] = np.maximum(high - low, 0.0).prod(axis=2)
    return shared
