"""A real CT that simulated metastases are put into: where its bone is, and how noisy it is.

Bone is found by value and shape: what is denser than enhanced soft tissue, in pieces that are
partly as dense as cortex, with the marrow that they enclose.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from osteomet.errors import InputError
from osteomet.io.scan_record import Scan
from osteomet.simulate.anatomy import Region
from osteomet.simulate.bones import Part
from osteomet.simulate.noise import Field
from osteomet.simulate.phantom import Phantom
from osteomet.volume import Volume

DENSE_HU, CORTEX_HU = 180.0, 350.0
METAL_HU, METAL_MARGIN_MM = 1900.0, 6.0
"""Metal, and how far around it streaks make lesions impossible to draw."""

CORTEX_SHARE = 0.1
"""Vessels and kidneys with contrast medium have hardly a voxel as dense as cortex."""

LEAST_PIECE_ML, LEAST_BONE_ML = 0.4, 3.0
GAP_MM = 2.5
LARGEST_MARROW_CM2 = 25.0
"""Soft tissue that bone encloses in a plane is marrow up to the size of a femoral head."""

LEAST_MARROW_HU = 65.0
"""Mean of what bone encloses, above which it is trabecular bone."""

SMOOTH_MM, SMOOTH_VOX = 0.7, (0.6, 1.0)
FAR_MM, DEEPEST_MM = 8.0, 20.0
"""Distances to the surface of bone are known up to here."""

SLAB = 48
NOISE_CUBE_VOX = 5
SOFT_HU = (-20.0, 110.0)

Mask = Bool[np.ndarray, "z y x"]


@dataclass(frozen=True, eq=False)
class Host:
    """A scan, upright, and what drawing needs to know of it.

    Attributes:
        volume: the scan.
        signal: it without its finest detail, in HU.
        bone: signed distance in mm to the surface of bone, negative inside.
        cortex: share of cortex.
        marrow_hu: median of the bone well under its surface.
        noise_hu: deviation of the finest detail in soft tissue.
    """

    volume: Volume
    signal: Field
    bone: Field
    cortex: Field
    marrow_hu: float
    noise_hu: float

    def phantom(self) -> Phantom:
        """Return a copy to draw in; its bones are all of one kind."""
        kind = np.broadcast_to(np.uint8(Part.BODY), self.signal.shape)
        spacing = np.array(self.volume.spacing_zyx_mm)
        # Which region it shows is not known, and nothing that draws lesions asks.
        return Phantom(
            self.signal.copy(), self.bone, kind, self.cortex, self.marrow_hu, spacing, Region.TRUNK
        )


def find_host(scan: Scan) -> Host:
    """Find the bone of a scan and measure its noise.

    Raises:
        InputError: there is next to no bone.
    """
    upright = scan.volume.closest_lps()
    spacing = np.array(upright.spacing_zyx_mm)
    voxels = upright.voxels.astype(np.float32)
    signal = ndimage.gaussian_filter(
        voxels, np.clip(SMOOTH_MM / spacing, *SMOOTH_VOX), truncate=3.0
    )
    plain = ndimage.gaussian_filter(voxels, np.minimum(SMOOTH_MM / spacing, 1.0), truncate=3.0)
    inside = find_bone(plain, spacing)
    bone_ml = float(inside.sum()) * upright.voxel_ml
    if bone_ml < LEAST_BONE_ML:
        raise InputError(
            f"{scan.info.source}: {bone_ml:.1f} ml of bone were found, denser than "
            f"{DENSE_HU:.0f} HU and of a bone's shape; expected at least {LEAST_BONE_ML:.0f} ml: "
            "give a CT in HU that shows bone"
        )
    bone = surface_distance(inside, spacing)
    deep = bone < -3.0
    marrow = float(np.median(signal[deep])) if deep.any() else 180.0
    cortex = np.clip((signal - marrow - 120) / 250, 0, 1) * (bone > -5.0) * (bone < 0.5)
    return Host(
        upright, signal, bone, cortex.astype(np.float32), marrow,
        _noise(voxels - signal, signal, bone),
    )  # fmt: skip


def find_bone(signal: Field, spacing: Float[np.ndarray, " 3"]) -> Mask:
    """Tell which voxels lie in bone or the marrow it encloses, away from metal."""
    metal = signal > METAL_HU
    dense = _pieces_of_bone(signal > DENSE_HU, signal > CORTEX_HU, spacing)
    filled = _closed(dense, spacing)
    for axis in range(3):
        filled |= _marrow(filled, signal, axis, spacing)
    # Fat of a canal or a gas-filled gap may be enclosed too.
    filled &= signal > -150
    if metal.any():
        filled &= ndimage.distance_transform_edt(~metal, sampling=spacing) > METAL_MARGIN_MM
    return filled


def _pieces_of_bone(dense: Mask, cortical: Mask, spacing: Float[np.ndarray, " 3"]) -> Mask:
    labels, count = ndimage.label(dense, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    hard = np.bincount(labels[cortical], minlength=count + 1)
    kept = (sizes * np.prod(spacing) / 1000 >= LEAST_PIECE_ML) & (hard >= CORTEX_SHARE * sizes)
    kept[0] = False
    pieces: Mask = kept[labels]
    return pieces


def _closed(mask: Mask, spacing: Float[np.ndarray, " 3"]) -> Mask:
    reach = np.maximum(np.round(GAP_MM / spacing).astype(int), 1)
    padded = np.pad(mask, [(r, r) for r in reach], mode="edge")
    box = np.ones(2 * np.minimum(reach, 1) + 1, dtype=bool)
    steps = int(reach.max())
    closed = ndimage.binary_closing(padded, box, iterations=steps)
    inner = tuple(slice(r, r + n) for r, n in zip(reach, mask.shape, strict=True))
    result: Mask = closed[inner] | mask
    return result


def _marrow(mask: Mask, signal: Field, axis: int, spacing: Float[np.ndarray, " 3"]) -> Mask:
    """Return what bone encloses in the planes across an axis, if it has marrow's size and value."""
    planes = np.moveaxis(mask, axis, 0)
    in_plane = np.zeros((3, 3, 3), dtype=bool)
    in_plane[1] = ndimage.generate_binary_structure(2, 1)
    labels, count = ndimage.label(~planes, structure=in_plane)
    flat = labels.ravel()
    sizes = np.bincount(flat, minlength=count + 1)
    sums = np.bincount(flat, np.moveaxis(signal, axis, 0).ravel(), minlength=count + 1)
    area_cm2 = float(np.delete(spacing, axis).prod()) / 100
    # The spinal canal is enclosed as well, but holds water and fat.
    chosen = (sizes * area_cm2 <= LARGEST_MARROW_CM2) & (sums > LEAST_MARROW_HU * sizes)
    chosen[0] = False
    for border in (labels[:, [0, -1]], labels[:, :, [0, -1]]):
        chosen[np.unique(border)] = False
    found: Mask = np.moveaxis(chosen[labels], 0, axis)
    return found


def surface_distance(inside: Mask, spacing: Float[np.ndarray, " 3"]) -> Field:
    """Return the signed distance in mm to the surface of a mask, negative inside, as far as known.

    It works in slabs, because a distance transform takes twenty times its input's memory.
    """
    reach = int(np.ceil(DEEPEST_MM / spacing[0]))
    distance = np.empty(inside.shape, np.float32)
    half = 0.5 * float(spacing.min())
    for first in range(0, len(inside), SLAB):
        low, high = max(first - reach, 0), min(first + SLAB + reach, len(inside))
        part = inside[low:high]
        outward = ndimage.distance_transform_edt(~part, sampling=spacing) if part.any() else FAR_MM
        inward = ndimage.distance_transform_edt(part, sampling=spacing)
        signed = np.where(part, half - np.minimum(inward, DEEPEST_MM), np.minimum(outward, FAR_MM))
        distance[first : first + SLAB] = signed[first - low : first - low + SLAB]
    return distance


def _noise(detail: Field, signal: Field, bone: Field) -> float:
    """Return the usual deviation of the finest detail in soft tissue."""
    mean = ndimage.uniform_filter(detail, NOISE_CUBE_VOX)
    spread = np.sqrt(np.maximum(ndimage.uniform_filter(detail**2, NOISE_CUBE_VOX) - mean**2, 0))
    soft = (signal > SOFT_HU[0]) & (signal < SOFT_HU[1]) & (bone > 5.0)
    # Edges of vessels and fat only raise it.
    return float(np.percentile(spread[soft], 30)) if soft.any() else float(np.median(spread))
