"""A CT scan as a voxel grid in the patient's coordinates.

Array order is ``(z, y, x)``: first axis slowest. World coordinates are LPS in mm, in the
order ``(x, y, z)``: x grows to the patient's Left, y to Posterior, z to Superior (DICOM
PS3.3 C.7.6.2.1.1). The affine maps the *centre* of voxel ``(k, j, i)``, written as integer
indices, to the world; boxes and grids use voxel *edges*, where voxel ``i`` covers
``[i, i + 1)`` and its centre is ``i + 0.5``. Only this module converts between the two.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num

from osteomet.errors import GeometryError

Affine = Float[np.ndarray, "4 4"]
Points = Float[np.ndarray, "points 3"]
ShapeZYX = tuple[int, int, int]
Window = tuple[slice, slice, slice]
"""A box of whole voxels along ``(z, y, x)``."""

ORTHOGONALITY_TOLERANCE = 1e-3
"""Largest cosine between two axes of a grid that still counts as orthogonal (0.06 degrees)."""


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxel values and where they lie in the patient.

    Attributes:
        voxels: values in HU (or labels), ``(z, y, x)``.
        affine: 4 x 4; maps the centre ``(k, j, i, 1)`` of a voxel to LPS ``(x, y, z, 1)`` in mm.
    """

    voxels: Num[np.ndarray, "z y x"]
    affine: Affine

    def __post_init__(self) -> None:
        axes = self.affine[:3, :3]
        lengths = np.linalg.norm(axes, axis=0)
        if not np.isfinite(self.affine).all() or (lengths <= 0).any():
            raise GeometryError(
                f"the voxel grid has spacing {lengths.tolist()} mm; expected three positive "
                "lengths: the file's spacing or direction is damaged"
            )
        cosines = (axes / lengths).T @ (axes / lengths)
        worst = float(np.abs(cosines - np.eye(3)).max())
        if worst > ORTHOGONALITY_TOLERANCE:
            raise GeometryError(
                f"the axes of the voxel grid are not orthogonal (largest cosine {worst:.4f}); "
                "expected perpendicular axes: resample the scan to an upright grid first"
            )

    @classmethod
    def from_spacing(
        cls,
        voxels: Num[np.ndarray, "z y x"],
        spacing_zyx_mm: tuple[float, float, float],
        origin_xyz_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> "Volume":
        """Place an axial array upright: z to Superior, y to Posterior, x to Left.

        Args:
            voxels: values, ``(z, y, x)``.
            spacing_zyx_mm: distance between voxel centres along z, y and x.
            origin_xyz_mm: world position of the centre of voxel ``[0, 0, 0]``.
        """
        affine = np.eye(4)
        affine[:3, :3] = np.diag(spacing_zyx_mm)[::-1]
        affine[:3, 3] = origin_xyz_mm
        return cls(voxels, affine)

    @property
    def shape(self) -> ShapeZYX:
        z, y, x = self.voxels.shape
        return z, y, x

    @property
    def spacing_zyx_mm(self) -> tuple[float, float, float]:
        z, y, x = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return z, y, x

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    def with_voxels(self, voxels: Num[np.ndarray, "z y x"]) -> "Volume":
        """Return other values, labels say, on the same grid."""
        if voxels.shape != self.voxels.shape:
            raise ValueError(f"values of shape {voxels.shape} on a grid of {self.voxels.shape}")
        return Volume(voxels, self.affine)

    def index_to_world(self, index_zyx: Points) -> Points:
        """Map voxel centres, given as ``(k, j, i)`` indices, to LPS ``(x, y, z)`` mm."""
        world: Points = index_zyx @ self.affine[:3, :3].T + self.affine[:3, 3]
        return world

    def world_to_index(self, world_xyz_mm: Points) -> Points:
        """Map LPS ``(x, y, z)`` mm to fractional centre indices ``(k, j, i)``."""
        offset = world_xyz_mm - self.affine[:3, 3]
        index: Points = offset @ np.linalg.inv(self.affine[:3, :3]).T
        return index

    def edge_to_world(self, edge_zyx: Points) -> Points:
        """Map voxel-edge coordinates, those of boxes, to LPS ``(x, y, z)`` mm."""
        return self.index_to_world(edge_zyx - 0.5)

    def world_to_edge(self, world_xyz_mm: Points) -> Points:
        """Map LPS ``(x, y, z)`` mm to voxel-edge coordinates, those of boxes."""
        return self.world_to_index(world_xyz_mm) + 0.5

    def boxes_to_world(self, boxes: Float[np.ndarray, "boxes 6"]) -> Float[np.ndarray, "boxes 6"]:
        """Return the LPS extents ``(x1, y1, z1, x2, y2, z2)`` in mm of boxes in voxels.

        On an oblique grid the extent is that of the box's eight corners, so it is larger
        than the box.
        """
        return _extents(boxes, self.edge_to_world)

    def boxes_from_world(
        self, boxes_xyz_mm: Float[np.ndarray, "boxes 6"]
    ) -> Float[np.ndarray, "boxes 6"]:
        """Return the voxel-edge boxes ``(z1, y1, x1, z2, y2, x2)`` around LPS extents in mm."""
        return _extents(boxes_xyz_mm, self.world_to_edge)

    def closest_lps(self) -> "Volume":
        """Return the same voxels with their axes permuted and flipped closest to ``(S, P, L)``.

        The result is a view: writing into its voxels writes into this volume's. No value
        is interpolated and an oblique grid stays oblique.
        """
        axes = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        # Give each world axis (z, y, x) the array axis most parallel to it, surest first.
        order, left = [0, 0, 0], [0, 1, 2]
        for world in sorted(range(3), key=lambda w: -np.abs(axes[2 - w]).max()):
            order[world] = max(left, key=lambda a: abs(axes[2 - world, a]))
            left.remove(order[world])
        affine, voxels = self.affine.copy(), self.voxels.transpose(order)
        affine[:3, :3] = self.affine[:3, order]
        for axis in range(3):
            if affine[2 - axis, axis] < 0:
                affine[:3, 3] += affine[:3, axis] * (voxels.shape[axis] - 1)
                affine[:3, axis] *= -1
                voxels = np.flip(voxels, axis)
        return Volume(voxels, affine)


def _extents(
    boxes: Float[np.ndarray, "boxes 6"], transform: Callable[[Points], Points]
) -> Float[np.ndarray, "boxes 6"]:
    columns = [(3 * a, 3 * b + 1, 3 * c + 2) for a, b, c in itertools.product((0, 1), repeat=3)]
    corners = np.stack([boxes[:, list(chosen)] for chosen in columns])
    moved = transform(corners.reshape(-1, 3)).reshape(8, -1, 3)
    return np.concatenate([moved.min(axis=0), moved.max(axis=0)], axis=1)
