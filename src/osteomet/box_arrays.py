"""Boxes as NumPy arrays, for what judges and prepares without torch; ``ops.boxes`` has tensors.

Boxes are ``(n, 6)``, ``(z1, y1, x1, z2, y2, x2)`` in any unit, half open.
"""

import numpy as np
from jaxtyping import Float, Int, Integer
from scipy import ndimage

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


def instance_boxes(
    instances: Integer[np.ndarray, "z y x"],
) -> tuple[Int[np.ndarray, " n"], Boxes]:
    """Return the ids in a label map, rising, and the voxel-edge box of each."""
    found = ndimage.find_objects(instances)
    ids = [place for place, region in enumerate(found, start=1) if region is not None]
    boxes = [
        [side.start for side in found[place - 1]] + [side.stop for side in found[place - 1]]
        for place in ids
    ]
    return np.array(ids, dtype=np.int64), np.array(boxes, dtype=np.float64).reshape(-1, 6)
