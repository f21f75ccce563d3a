"""Make sure that voxels are Hounsfield units, stored in the smallest type that holds them.

The same rules serve DICOM and the volume formats, so that the same scan gives the same voxels
from either.
"""

import numpy as np
from jaxtyping import Num, Shaped

from osteomet.errors import NotCTError

AIR_HU = -1024
"""What lies outside the scanned field of view."""

LOWEST_TISSUE_HU = -1500
"""Anything lower is padding, not noise: scanners write -2000, -3024, -8192 or -32768."""

LARGEST_CT_NUMBER = 30_710
"""Highest value of the extended CT scale; anything above has left the range of a scanner."""

INT16 = np.iinfo(np.int16)


def settle(
    voxels: Shaped[np.ndarray, "z y x"],
) -> tuple[Num[np.ndarray, "z y x"], tuple[str, ...]]:
    """Return voxels in HU as int16, or float32 where int16 cannot hold them, and warnings.

    Works plane by plane and, where the type allows it, in place. Values that cannot be
    tissue, and values that are no number, become air.

    Raises:
        NotCTError: the values cannot be Hounsfield units.
    """
    if voxels.dtype.kind not in "iuf" or voxels.dtype == np.float16:
        voxels = voxels.astype(np.float32)
    replaced = lost = 0
    low, high, is_whole = np.inf, -np.inf, True
    for plane in voxels:
        if plane.dtype.kind == "f":
            absent = ~np.isfinite(plane)
            lost += int(absent.sum())
            plane[absent] = AIR_HU
            is_whole = is_whole and bool((np.rint(plane) == plane).all())
        if plane.dtype.kind != "u" and plane.min(initial=0) < LOWEST_TISSUE_HU:
            padding = plane < LOWEST_TISSUE_HU
            replaced += int(padding.sum())
            plane[padding] = AIR_HU
        low, high = min(low, float(plane.min())), max(high, float(plane.max()))
    refuse_unlikely(low, high)
    is_small = is_whole and low >= INT16.min and high <= INT16.max
    voxels = voxels.astype(np.int16 if is_small else np.float32, copy=False)
    return voxels, _warnings(voxels.size, replaced, lost, high)


def refuse_unlikely(low: float, high: float) -> None:
    """Do nothing if values from ``low`` to ``high`` may be HU.

    Raises:
        NotCTError: nothing is below 0, where air, lung and fat lie, or the range is narrower
            than that between fat and bone.
    """
    if low < 0 and high - low >= 100:
        return
    if low == high:
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


def _warnings(size: int, replaced: int, lost: int, high: float) -> tuple[str, ...]:
    found = []
    if lost:
        found.append(f"{lost} voxels are not a number: read as air ({AIR_HU} HU)")
    if replaced:
        found.append(
            f"{100 * replaced / size:.2g} % of the voxels are below {LOWEST_TISSUE_HU} HU: read as "
            f"padding ({AIR_HU} HU)"
        )
    if high > LARGEST_CT_NUMBER:
        found.append(
            f"the largest value is {high:g} HU, more than a scanner can measure: some values may "
            "have wrapped around"
        )
    return tuple(found)
