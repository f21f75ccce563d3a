"""Make sure that voxels are Hounsfield units, stored in the smallest type that holds them.

The same rules serve DICOM and the volume formats, so that the same scan gives the same voxels
from either.
"""

import numpy as np
from jaxtyping import Bool, Num, Shaped

from osteomet.errors import NotCTError

AIR_HU = -1024
"""What lies outside the scanned field of view."""

LOWEST_TISSUE_HU = -1500
"""Anything lower is padding, not noise: scanners write -2000, -3024, -8192 or -32768."""

LARGEST_CT_NUMBER = 30_710
"""Highest value of the extended CT scale; anything above has left the range of a scanner."""


def settle(
    voxels: Shaped[np.ndarray, "z y x"],
) -> tuple[Num[np.ndarray, "z y x"], tuple[str, ...]]:
    """Return voxels in HU as int16, or float32 where int16 cannot hold them, and warnings.

    Values that cannot be tissue, and values that are no number, become air. Works plane by
    plane; writes into ``voxels`` if they have the right type already and may be written.

    Raises:
        NotCTError: the values cannot be Hounsfield units.
    """
    padded = lost = 0
    low, high, is_whole = np.inf, -np.inf, True
    for plane in voxels:
        if plane.min() >= LOWEST_TISSUE_HU and np.isfinite(plane.max()):
            valid = plane
        else:
            valid = plane[_is_valid(plane)]
            lost += int((~np.isfinite(plane)).sum())
            padded += plane.size - valid.size
        if valid.size:
            low, high = min(low, float(valid.min())), max(high, float(valid.max()))
            is_whole = is_whole and (
                valid.dtype.kind != "f" or bool((np.rint(valid) == valid).all())
            )
    refuse_unlikely(low, high)
    kind = np.int16 if is_whole and high <= np.iinfo(np.int16).max else np.float32
    in_place = voxels.dtype == kind and voxels.flags.writeable
    result = voxels if in_place else np.empty(voxels.shape, kind)
    if not in_place or padded:
        for plane, settled in zip(voxels, result, strict=True):
            settled[...] = np.where(_is_valid(plane), plane, AIR_HU)
    return result, _warnings(voxels.size, padded - lost, lost, high)


def _is_valid(plane: Shaped[np.ndarray, "y x"]) -> Bool[np.ndarray, "y x"]:
    valid: Bool[np.ndarray, "y x"] = np.isfinite(plane) & (plane >= LOWEST_TISSUE_HU)
    return valid


def refuse_unlikely(low: float, high: float) -> None:
    """Do nothing if values from ``low`` to ``high`` may be HU.

    Raises:
        NotCTError: nothing is below 0, where air, lung and fat lie, or the range is narrower
            than that between fat and bone.
    """
    if low < 0 and high - low >= 100:
        return
    if not low < high:
        guess = "the image is blank"
    elif high - low < 100:
        guess = "they look normalised"
    elif high <= 255:
        guess = "they look like the grey values of an 8-bit picture"
    else:
        guess = "the rescale intercept, often -1024, seems to be missing"
    raise NotCTError(
        f"values lie between {low:g} and {high:g}; expected Hounsfield units, with air near "
        f"-1000 and bone above 200: {guess}"
    )


def _warnings(size: int, padded: int, lost: int, high: float) -> tuple[str, ...]:
    found = []
    if lost:
        found.append(f"{lost} voxels are not a number: read as air ({AIR_HU} HU)")
    if padded:
        found.append(
            f"{100 * padded / size:.2g} % of the voxels are below {LOWEST_TISSUE_HU} HU: read as "
            f"padding ({AIR_HU} HU)"
        )
    if high > LARGEST_CT_NUMBER:
        found.append(
            f"the largest value is {high:g} HU, more than a scanner can measure: some values may "
            "have wrapped around"
        )
    return tuple(found)
