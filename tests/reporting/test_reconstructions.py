"""The picture of a masked autoencoder, pixel by pixel."""

import io

import numpy as np
from PIL import Image

from osteomet.reporting.reconstructions import (
    GAP_PX,
    HIDDEN_GREY,
    PIXELS_PER_VOXEL,
    Example,
    reconstructions_png,
)


def example(height: int = 4) -> Example:
    image = np.full((3, height, 5), -2000.0)
    image[1] = np.linspace(-100, 100, 5)
    visible = np.zeros(image.shape, dtype=bool)
    visible[:, :2] = True
    return Example(image, visible, np.where(visible, image, 100.0))


def test_planes_stand_side_by_side_within_the_window() -> None:
    with Image.open(io.BytesIO(reconstructions_png([example()], (-100.0, 100.0)))) as picture:
        pixels = np.asarray(picture)
    height, width = 4 * PIXELS_PER_VOXEL, 5 * PIXELS_PER_VOXEL
    assert pixels.shape == (height, 3 * width + 2 * GAP_PX)
    voxels = pixels[1::PIXELS_PER_VOXEL]
    image, seen, filled = (
        voxels[:, start + 1 : start + width : PIXELS_PER_VOXEL]
        for start in (0, width + GAP_PX, 2 * (width + GAP_PX))
    )
    grey = [0, 64, 128, 191, 255]
    assert image.tolist() == [grey] * 4
    assert seen.tolist() == [grey] * 2 + [[HIDDEN_GREY] * 5] * 2
    assert filled.tolist() == [grey] * 2 + [[255] * 5] * 2


def test_rows_stand_below_each_other() -> None:
    png = reconstructions_png([example(), example()], (-100.0, 100.0))
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.size[1] == 2 * 4 * PIXELS_PER_VOXEL + GAP_PX
