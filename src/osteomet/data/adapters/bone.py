"""Which of the lesions of a whole body lie in bone, told from HU and shape."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Num
from scipy import ndimage

from osteomet.volume import Volume

BONE_HU = 180
"""Cortex and the bone around a lytic lesion are denser; so are contrast medium and calcium."""

MARGIN_MM = 15.0
"""So much around a lesion is searched for bone."""

CLOSING_MM = 5.0
"""Marrow and lytic holes of up to twice this width are filled."""

SMALLEST_BONE_MM3 = 1000.0
"""Smaller dense parts are calcifications, clips and vessels."""

IN_BONE, BESIDE_BONE = 0.5, 0.1
"""Shares of a lesion in bone: from the first on it is of bone, below the second it is not."""


@dataclass(frozen=True, eq=False)
class BoneLesions:
    """The lesions of a scan by whether they lie in bone.

    Attributes:
        mask: those of bone, and of them only what lies in bone.
        doubtful: those of which between a tenth and a half does.
        of_bone: how many there are.
        elsewhere: how many others there are, without the doubtful ones.
    """

    mask: Bool[np.ndarray, "z y x"]
    doubtful: Bool[np.ndarray, "z y x"]
    of_bone: int
    elsewhere: int


def lesions_in_bone(scan: Volume, lesions: Bool[np.ndarray, "z y x"]) -> BoneLesions:
    """Intersect lesions with bone.

    Args:
        scan: HU.
        lesions: any lesions on its grid; parts that touch are one.
    """
    parts, _ = ndimage.label(lesions, structure=np.ones((3, 3, 3)))
    mask, doubtful = np.zeros_like(lesions), np.zeros_like(lesions)
    of_bone = elsewhere = 0
    margin = np.ceil(MARGIN_MM / np.array(scan.spacing_zyx_mm)).astype(int)
    for label, place in enumerate(ndimage.find_objects(parts), start=1):
        window = tuple(
            slice(max(0, s.start - m), s.stop + m) for s, m in zip(place, margin, strict=True)
        )
        one = parts[window] == label
        bone = _bone(scan.voxels[window], scan.spacing_zyx_mm)
        share = (one & bone).sum() / one.sum()
        if share >= IN_BONE:
            mask[window] |= one & bone
            of_bone += 1
        elif share >= BESIDE_BONE:
            doubtful[window] |= one
        else:
            elsewhere += 1
    return BoneLesions(mask, doubtful, of_bone, elsewhere)


def _bone(
    hounsfield: Num[np.ndarray, "z y x"], spacing_zyx_mm: tuple[float, float, float]
) -> Bool[np.ndarray, "z y x"]:
    """Return bone with its marrow: dense parts, closed, and filled slice by slice."""
    parts, count = ndimage.label(hounsfield >= BONE_HU)
    sizes = np.bincount(parts.ravel(), minlength=count + 1) * float(np.prod(spacing_zyx_mm))
    large = sizes >= SMALLEST_BONE_MM3
    large[0] = False
    # Closing needs room around, or bone that leaves the window would be eaten from its border.
    room = [(int(np.ceil(CLOSING_MM / s)) + 1,) * 2 for s in spacing_zyx_mm]
    dense = np.pad(large[parts], room)
    if not dense.any():
        return np.zeros(hounsfield.shape, dtype=bool)
    near = ndimage.distance_transform_edt(~dense, sampling=spacing_zyx_mm) <= CLOSING_MM
    near = np.stack([ndimage.binary_fill_holes(plane) for plane in near])
    closed = ndimage.distance_transform_edt(near, sampling=spacing_zyx_mm) > CLOSING_MM
    inner = tuple(slice(low, -high) for low, high in room)
    bone: Bool[np.ndarray, "z y x"] = (closed | dense)[inner]
    return bone
