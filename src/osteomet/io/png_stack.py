"""Slices stored as PNG, as DeepLesion has them: 16 bits, HU + 32768."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from jaxtyping import Int16

from osteomet.errors import InputError

OFFSET_HU = 32768


def read_png_stack(files: Sequence[Path]) -> Int16[np.ndarray, "z y x"]:
    """Read slices in the order given.

    Args:
        files: at least one.

    Raises:
        InputError: a file is damaged, has another size than the first, or not 16 bits.
    """
    slices = [_slice(file) for file in files]
    for file, pixels in zip(files, slices, strict=True):
        if pixels.shape != slices[0].shape:
            raise InputError(
                f"{file}: has {pixels.shape} pixels and {files[0].name} {slices[0].shape}; "
                "expected slices of one size"
            )
    return np.stack(slices)


def _slice(file: Path) -> Int16[np.ndarray, "_ _"]:
    try:
        pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
    except RuntimeError as error:
        raise InputError(f"{file}: is damaged or no PNG; copy it again") from error
    if pixels.dtype != np.uint16 or pixels.ndim != 2:
        raise InputError(f"{file}: holds {pixels.dtype}; expected 16-bit greyscale of HU + 32768")
    return (pixels.astype(np.int32) - OFFSET_HU).astype(np.int16)
