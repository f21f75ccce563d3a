"""``reconstructions.png``: what a masked autoencoder made of what was hidden from it."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

PIXELS_PER_VOXEL = 3
GAP_PX = 6
HIDDEN_GREY = 90
"""Of cubes that were hidden; no HU has it alone, but its squares are plain to see."""


@dataclass(frozen=True, eq=False)
class Example:
    """One patch.

    Attributes:
        image: HU.
        visible: voxels that the network saw.
        predicted: HU; as the image where it is visible.
    """

    image: Float[np.ndarray, "z y x"]
    visible: Bool[np.ndarray, "z y x"]
    predicted: Float[np.ndarray, "z y x"]


def reconstructions_png(examples: Sequence[Example], window_hu: tuple[float, float]) -> bytes:
    """Return a picture of at least one patch, a row each.

    A row shows the middle plane as it is, as the network saw it, and as it was filled in.
    """
    rows = [_row(example, window_hu) for example in examples]
    gap = np.full((GAP_PX, rows[0].shape[1]), 255, dtype=np.uint8)
    parts = [part for row in rows for part in (row, gap)][:-1]
    target = io.BytesIO()
    Image.fromarray(np.concatenate(parts)).save(target, format="PNG")
    return target.getvalue()


def _row(example: Example, window_hu: tuple[float, float]) -> UInt8[np.ndarray, "h w"]:
    middle = example.image.shape[0] // 2
    image = _grey(example.image[middle], window_hu)
    seen = np.where(example.visible[middle], image, np.uint8(HIDDEN_GREY))
    predicted = _grey(example.predicted[middle], window_hu)
    planes = [
        np.kron(p, np.ones((PIXELS_PER_VOXEL,) * 2, np.uint8)) for p in (image, seen, predicted)
    ]
    gap = np.full((planes[0].shape[0], GAP_PX), 255, dtype=np.uint8)
    return np.concatenate([planes[0], gap, planes[1], gap, planes[2]], axis=1)


def _grey(hu: Float[np.ndarray, "y x"], window_hu: tuple[float, float]) -> UInt8[np.ndarray, "y x"]:
    low, high = window_hu
    return (255 * ((hu - low) / (high - low)).clip(0, 1)).round().astype(np.uint8)
