"""A stand-in for the network that finds bright blobs exactly, and scans to find them in."""

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor, nn

from osteomet.checkpoint import LoadedWeights
from osteomet.config import Config
from osteomet.io.scan_record import Scan, describe
from osteomet.ops.boxes import scale_boxes
from osteomet.ops.masks import crop_instances
from osteomet.structures import Detections, Targets
from osteomet.volume import Volume

BONE_HU, LESION_HU, TISSUE_HU, AIR_HU = 400, 1000, 40, -1000
MASK_SIZE = 24


class BlobFinder(nn.Module):
    """Finds voxels brighter than ``threshold`` (normalised); mean 0 and std 100 are expected."""

    def __init__(self, threshold: float = 7.0) -> None:
        super().__init__()
        self.threshold = threshold
        self.seen: list[tuple[int, ...]] = []

    def forward(
        self, images: Float[Tensor, "batch 1 z y x"], targets: list[Targets] | None = None
    ) -> tuple[list[Detections], dict[str, Tensor]]:
        self.seen.append(tuple(images.shape))
        return [self.find(image[0]) for image in images], {}

    def find(self, image: Float[Tensor, "z y x"]) -> Detections:
        parts, count = ndimage.label(image.numpy() > self.threshold)
        regions = ndimage.find_objects(parts)
        boxes = torch.tensor(
            [[*(s.start for s in r), *(s.stop for s in r)] for r in regions], dtype=torch.float32
        ).reshape(-1, 6)
        mask_boxes = scale_boxes(boxes, 1.2)
        ids = torch.arange(1, count + 1)
        masks = crop_instances(torch.from_numpy(parts).long(), ids, mask_boxes, MASK_SIZE)
        size = (boxes[:, 3:] - boxes[:, :3]).prod(dim=1)
        return Detections(
            boxes,
            scores=(0.9 * torch.ones(count)),
            p_lung=torch.full((count,), 0.25),
            embeddings=size[:, None].expand(count, 4).clone(),
            attributes=torch.tensor([0.9, 0.1, 0.3, 0.2]).expand(count, 4).clone(),
            mask_boxes=mask_boxes,
            masks=masks,
        )


def blob_weights(spacing_mm: float = 1.0, **settings: object) -> LoadedWeights:
    config = Config().updated(
        {
            "preprocess.spacing_mm": spacing_mm,
            "preprocess.std_hu": 100.0,
            "inference.tile_size": (64, 64, 64),
            "inference.overlap_vox": 24,
            **{name.replace("__", "."): value for name, value in settings.items()},
        }
    )
    return LoadedWeights(config, {}, None, {}, {}, name="blobs", sha256="0" * 64)


def ellipsoid(
    volume: Volume, centre_xyz_mm: tuple[float, ...], radii_mm: tuple[float, ...]
) -> np.ndarray:
    """Return which voxels of a grid have their centre in an ellipsoid placed in mm."""
    index = np.indices(volume.shape).reshape(3, -1).T.astype(np.float64)
    offset = (volume.index_to_world(index) - centre_xyz_mm) / radii_mm
    return ((offset**2).sum(axis=1) <= 1).reshape(volume.shape)


def torso(grid: Volume, centre_xyz_mm: tuple[float, ...], half_width_mm: float = 45.0) -> Volume:
    """Return air, a ball of tissue about a point, and a rod of bone through it along z."""
    voxels = np.full(grid.shape, AIR_HU, np.int16)
    voxels[ellipsoid(grid, centre_xyz_mm, (half_width_mm,) * 3)] = TISSUE_HU
    voxels[ellipsoid(grid, centre_xyz_mm, (12, 12, half_width_mm * 0.9))] = BONE_HU
    return grid.with_voxels(voxels)


CENTRE = (50.0, 50.0, 75.0)
LESIONS = (((50.0, 50.0, 40.0), (6.0, 6.0, 8.0)), ((52.0, 48.0, 90.0), (4.0, 5.0, 4.0)))


def scan_of(volume: Volume, **info: str) -> Scan:
    return Scan(volume, describe(volume, source="patient.nii.gz", file_format="nifti", **info))


def patient(spacing_zyx_mm: tuple[float, float, float] = (1.5, 1.0, 1.0)) -> Volume:
    shape = [round(n / s) for n, s in zip((150, 100, 100), spacing_zyx_mm, strict=True)]
    empty = Volume.from_spacing(np.full(shape, AIR_HU, np.int16), spacing_zyx_mm)
    volume = torso(empty, CENTRE, half_width_mm=70.0)
    for centre, radii in LESIONS:
        volume.voxels[ellipsoid(volume, centre, radii)] = LESION_HU
    return volume
