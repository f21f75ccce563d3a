"""A window of a scan and what was drawn for it -> a patch, on the device of the model.

Reading a window is the loader's work; everything that takes time is done here, with one
interface for two ways. On a CPU with numba, compiled loops make one patch at a time, in the
loader's threads. On any other device, or without numba, torch makes a batch at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32, Int16, Int64
from torch import Tensor

from osteomet.config import Config
from osteomet.data import render_batch, render_compiled
from osteomet.data.augment import Boxes, IntensityChange, Placement, noise_supply
from osteomet.ops.acceleration import NUMBA_ENABLED

NO_CHANGE = IntensityChange()


@dataclass(frozen=True, eq=False)
class Window:
    """What is read and drawn for one patch.

    Attributes:
        hu: HU of ``placement.source_box()``.
        instances: the instance map there; None where it is empty.
        placement: where the patch lies in its scan.
        change: of its intensities.
        ids: values in ``instances``.
        scan_boxes: tight boxes of these lesions in the scan.
    """

    hu: Int16[Tensor, "z y x"]
    instances: Int16[Tensor, "z y x"] | None
    placement: Placement
    change: IntensityChange
    ids: Int64[np.ndarray, " n"]
    scan_boxes: Boxes

    def pinned(self) -> "Window":
        """Return the same window in memory from which a GPU copies without being waited for."""
        instances = None if self.instances is None else self.instances.pin_memory()
        return replace(self, hu=self.hu.pin_memory(), instances=instances)


@dataclass(frozen=True, eq=False)
class Rendered:
    """Patches, and where lesions with a mask ended up in them.

    Attributes:
        images: ``(b, 1, z, y, x)`` normalised HU.
        instances: ``(b, z, y, x)``.
        voxels: for each patch, how many of each of the window's lesions are in it.
        boxes: for each patch, their tight boxes; zeros where there is no voxel.
    """

    images: Float32[Tensor, "b 1 z y x"]
    instances: Int16[Tensor, "b z y x"]
    voxels: Sequence[Int64[np.ndarray, " _"]]
    boxes: Sequence[Float[np.ndarray, "_ 6"]]


class Renderer:
    """Turn windows into patches on one device.

    Args:
        config: patch size and normalisation.
        device: on which images and instances end up.
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        self.device = device
        self._preprocess = config.preprocess
        z, y, x = config.data.patch_size
        self._noise = torch.from_numpy(noise_supply(z * y * x)).to(device)

    @property
    def one_by_one(self) -> bool:
        """Whether loader threads had better make each patch, and not a batch at once."""
        return NUMBA_ENABLED and self.device.type == "cpu"

    def __call__(self, windows: Sequence[Window]) -> Rendered:
        """Return the patches of at least one window, in their order."""
        return self._compiled(windows) if self.one_by_one else self._batch(windows)

    def _compiled(self, windows: Sequence[Window]) -> Rendered:
        images, instances, voxels, boxes = [], [], [], []
        for window in windows:
            hu = render_compiled.sample_image(window.hu.numpy(), window.placement)
            if window.change != NO_CHANGE:
                hu = render_compiled.change_intensities(
                    hu, window.change, self._preprocess.window_hu, self._noise.numpy()
                )
            render_compiled.normalise_in_place(hu, self._preprocess)
            if window.instances is None:
                labels = np.zeros(window.placement.shape, dtype=np.int16)
                count, box = np.zeros(0, dtype=np.int64), np.zeros((0, 6))
            else:
                labels, count, box = render_compiled.sample_lesions(
                    window.instances.numpy(), window.placement, window.ids, window.scan_boxes
                )
            images.append(torch.from_numpy(hu)[None])
            instances.append(torch.from_numpy(labels))
            voxels.append(count)
            boxes.append(box)
        return Rendered(_stacked(images), _stacked(instances), voxels, boxes)

    def _batch(self, windows: Sequence[Window]) -> Rendered:
        images = torch.stack(
            [
                render_batch.sample_image(self._sent(window.hu), window.placement)
                for window in windows
            ]
        )
        instances = torch.stack(
            [
                render_batch.sample_instances(
                    None if window.instances is None else self._sent(window.instances),
                    window.placement,
                    self.device,
                )
                for window in windows
            ]
        )
        changes = [window.change for window in windows]
        if any(change != NO_CHANGE for change in changes):
            images = render_batch.change_intensities(
                images, changes, self._preprocess.window_hu, self._noise
            )
        images = render_batch.normalise(images, self._preprocess)[:, None]
        voxels, boxes = render_batch.lesion_extents(instances, [window.ids for window in windows])
        return Rendered(images, instances, voxels, boxes)

    def _sent(self, block: Int16[Tensor, "z y x"]) -> Int16[Tensor, "z y x"]:
        return block.to(self.device, non_blocking=True)


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Stack without a copy where there is one only, as there is in a loader's thread."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(list(tensors))
