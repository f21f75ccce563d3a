"""Regions drawn on a scan by someone else, painted into one label map on the scan's grid.

DICOM SEG and RTSTRUCT both end here. Each region keeps its name, so that a user can choose
which of them are lesions.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Num
from scipy import ndimage

from osteomet.errors import AnnotationError
from osteomet.volume import ShapeZYX, Volume

LESION_WORDS = re.compile(
    r"lesion|metasta|tumou?r|gtv|neoplas|cancer|carcinom|myelom|sarcom|malignan|mass|nodule|lytic|"
    r"blastic|sclerotic|morphologically a",
    re.IGNORECASE,
)
"""What names of lesions have in common; SEG's category is "Morphologically Altered Structure"."""

NAMED = 8
"""A message lists at most so many names."""


@dataclass(frozen=True, eq=False)
class Region:
    """The voxels of one region: a crop and its place on the scan's grid.

    Attributes:
        name: as the file calls it.
        corner: first voxel ``(z, y, x)`` of the crop on the scan's grid.
        mask: ``(z, y, x)``; may be empty or all false.
    """

    name: str
    corner: tuple[int, int, int]
    mask: Bool[np.ndarray, "z y x"]


@dataclass(frozen=True, eq=False)
class Regions:
    """All regions of a file that are wanted.

    Attributes:
        labels: 0 where there is none; region ``n`` has label ``n + 1``.
        names: of all regions, also of those without a voxel.
        warnings: one sentence for each doubt.
    """

    labels: Int[np.ndarray, "z y x"]
    names: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def chosen(
    descriptions: Sequence[str], pattern: re.Pattern[str] | None
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return which regions are wanted, and a warning that names the others.

    Args:
        descriptions: all that the file says about each region; its name is the first line.
        pattern: is searched in them; None takes the words of ``LESION_WORDS``.

    Raises:
        AnnotationError: none is wanted.
    """
    wanted = (pattern or LESION_WORDS).search
    kept = tuple(n for n, text in enumerate(descriptions) if wanted(text))
    others = [text for n, text in enumerate(descriptions) if n not in kept]
    if not kept:
        raise AnnotationError(
            f"none of its regions is called a lesion; there are {_listed(others)}: name those that "
            "are with --lesions PATTERN"
        )
    left_out = f"{len(others)} regions were left out as no lesions: {_listed(others)}"
    return kept, (left_out,) if others else ()


def paint(regions: Sequence[Region], shape: ShapeZYX) -> Regions:
    """Paint regions into one label map, larger ones first, so that smaller ones stay whole."""
    labels = np.zeros(shape, dtype=np.int16)
    sizes = [int(region.mask.sum()) for region in regions]
    lost = 0
    for n in sorted(range(len(regions)), key=lambda n: -sizes[n]):
        corner, mask = regions[n].corner, regions[n].mask
        window = labels[tuple(slice(c, c + s) for c, s in zip(corner, mask.shape, strict=True))]
        lost += int((mask & (window > 0)).sum())
        window[mask] = n + 1
    warnings = []
    if lost:
        warnings.append(f"regions overlap in {lost} voxels, which went to the smaller region")
    empty = [region.name for region, size in zip(regions, sizes, strict=True) if not size]
    if empty:
        warnings.append(f"{len(empty)} regions have no voxel on the scan: {_listed(empty)}")
    return Regions(labels, tuple(region.name for region in regions), tuple(warnings))


def joined(parts: Sequence[Regions]) -> Regions:
    """Join the regions of several files on one scan; where they overlap, the first file's stay."""
    labels, names, lost = parts[0].labels.copy(), list(parts[0].names), 0
    for part in parts[1:]:
        new = part.labels > 0
        lost += int((new & (labels > 0)).sum())
        new &= labels == 0
        labels[new] = part.labels[new] + np.int16(len(names))
        names += part.names
    warnings = [text for part in parts for text in part.warnings]
    if lost:
        warnings.append(f"regions of several files overlap in {lost} voxels: the first was kept")
    return Regions(labels, tuple(names), tuple(warnings))


def sample(share: Volume, name: str, scan: Volume) -> tuple[Region, int]:
    """Sample a region on the scan's grid: a voxel is inside where linear interpolation gives 0.5.

    On the scan's own grid, whatever the order of its axes, this gives back the very voxels.

    Args:
        share: from 0 outside to 1 inside, on any grid.
        name: of the region.
        scan: whose grid is wanted.

    Returns:
        The region, and how many of its voxels lie outside the scan.
    """
    found = ndimage.find_objects((share.voxels >= 0.5).view(np.uint8))
    if not found:
        return Region(name, (0, 0, 0), np.zeros((0, 0, 0), dtype=bool)), 0
    first = np.array([edge.start for edge in found[0]])
    crop = share.voxels[found[0]].astype(np.float32)
    low, high, outside = _extent(share, first, crop, scan)
    mask = np.zeros(tuple((high - low).tolist()), dtype=bool)
    rows = np.stack(np.meshgrid(*map(np.arange, low[1:], high[1:]), indexing="ij"), axis=-1)
    plane = np.concatenate([np.zeros((*rows.shape[:2], 1)), rows], axis=-1).reshape(-1, 3)
    for n, k in enumerate(range(int(low[0]), int(high[0]))):
        plane[:, 0] = k
        index = share.world_to_index(scan.index_to_world(plane)) - first
        # Beyond its last voxel a region fades over one voxel: its edge is half a voxel out.
        values = ndimage.map_coordinates(crop, index.T, order=1, mode="grid-constant")
        mask[n] = values.reshape(rows.shape[:2]) >= 0.5
    z, y, x = low.tolist()
    return Region(name, (z, y, x), mask), outside


def _extent(
    share: Volume, first: Int[np.ndarray, "3"], crop: Num[np.ndarray, "z y x"], scan: Volume
) -> tuple[Int[np.ndarray, "3"], Int[np.ndarray, "3"], int]:
    """Return the scan's voxels around a crop, and how many of the crop's lie outside the scan."""
    edges = np.concatenate([first, first + np.array(crop.shape)]).astype(float)[None]
    box = scan.boxes_from_world(share.boxes_to_world(edges))[0]
    # Half a voxel of the region more, over which it fades.
    reach = np.ceil(max(share.spacing_zyx_mm) / np.array(scan.spacing_zyx_mm) / 2)
    shape = np.array(scan.shape)
    low = np.clip(np.floor(box[:3]) - reach, 0, shape).astype(int)
    high = np.clip(np.ceil(box[3:]) + reach, low, shape).astype(int)
    inside = np.argwhere(crop >= 0.5) + first
    index = np.rint(scan.world_to_index(share.index_to_world(inside.astype(float))))
    return low, high, int(((index < 0) | (index >= shape)).any(axis=1).sum())


def _listed(names: Sequence[str]) -> str:
    listed = ", ".join(repr(name.partition("\n")[0]) for name in names[:NAMED])
    more = len(names) - NAMED
    return f"{listed} and {more} more" if more > 0 else listed
