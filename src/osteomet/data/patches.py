"""Patches to train and validate on, each a function of (seed, index) alone.

Workers, their number, and resuming change nothing. A patch first draws a patient, all alike,
then a scan, then a place: near a lesion, or anywhere with bone.

A lesion cut by the border trains, with the box and mask of its visible part, if at least
``data.min_visible_fraction`` of it is inside; less is a box to ignore. Its voxels stay in the
instance map, since they are lesion whatever the share.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import torch
from jaxtyping import Float, Int16
from scipy import ndimage
from torch import Tensor

from osteomet.config import AugmentConfig, Config
from osteomet.data.attributes import NotedAttributes
from osteomet.data.augment import (
    IntensityAugmentation,
    Placement,
    draw_matrix,
    sample_image,
    sample_instances,
)
from osteomet.data.store import Store, StoredScan
from osteomet.errors import ConfigError, InputError
from osteomet.findings import PrimaryTumour
from osteomet.structures import LUNG, METASTASIS, OTHER, Targets

LABELS = {
    PrimaryTumour.LUNG: LUNG,
    PrimaryTumour.OTHER: OTHER,
    PrimaryTumour.UNKNOWN: METASTASIS,
}

SMALL_LESION_POWER = 1.0
"""A lesion is chosen in proportion to its diameter to minus this: small ones, which are many
and hard to see, come more often."""

BORDER_SHARE = 0.25
BORDER_VOX = 4.0
"""A chosen lesion's middle keeps this share of its size, and so many voxels, from the border."""

BATCHES_AHEAD = 2
"""Batches prepared before they are asked for."""

VALIDATION_KEY = 1
"""Keeps validation patches apart from training patches of the same seed."""

NO_AUGMENTATION = AugmentConfig(
    flip=False,
    spatial_probability=0.0,
    intensity_probability=0.0,
    thick_slices_probability=0.0,
    translate_mm=0.0,
)


@dataclass(frozen=True, eq=False)
class Patch:
    """One input of the network.

    Attributes:
        image: ``(1, z, y, x)`` normalised HU.
        targets: what is true in it.
        scan_id: where it is from.
        center_zyx: its middle, in voxel edges of that scan's model grid.
    """

    image: Float[Tensor, "1 z y x"]
    targets: Targets
    scan_id: str
    center_zyx: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Batch:
    """Patches of one training step.

    Attributes:
        step: which one; the sampler's indices are ``step * b`` to ``step * b + b - 1``.
        images: ``(b, 1, z, y, x)``.
        targets: one per image.
    """

    step: int
    images: Float[Tensor, "b 1 z y x"]
    targets: list[Targets]


class PatchSampler:
    """Cut patch ``index`` out of the scans of a store.

    Args:
        store: training or validation scans.
        config: sections preprocess, data and augment are used.
        seed: of all patches.
        augment: False gives patches as they are in the scan.

    Raises:
        InputError: the store has no scans.
    """

    def __init__(self, store: Store, config: Config, seed: int, *, augment: bool = True) -> None:
        if not store.scans:
            raise InputError("there are no scans to take patches from; expected at least one")
        self.config = config
        self._seed = seed % 2**64  # a negative one is a seed too
        self._augment = config.augment if augment else NO_AUGMENTATION
        self._key = 0 if augment else VALIDATION_KEY
        shape = config.data.patch_size
        self._intensity = (
            IntensityAugmentation(
                self._augment, config.preprocess.spacing_mm, shape, config.preprocess.window_hu
            )
            if self._augment.intensity_probability + self._augment.thick_slices_probability > 0
            else None
        )
        self._attributes = NotedAttributes(store.scans)
        self._patients = _by_patient(store.scans)
        self._with_lesions = _by_patient([scan for scan in store.scans if len(_lesion_boxes(scan))])

    def sample(self, index: int) -> Patch:
        """Return patch ``index``, at least 0: the same one wherever it is asked for."""
        rng = np.random.default_rng((self._key, self._seed, index))
        matrix, aligned = draw_matrix(self._augment, rng)
        scan, target = self._choose(rng)
        placement = self._place(scan, target, matrix, aligned, rng)
        hu = sample_image(scan.read_hu(*placement.source_box()), placement)
        if self._intensity is not None:
            hu = self._intensity(hu, rng)
        z, y, x = placement.center.tolist()
        image = torch.from_numpy(self._normalise(hu))[None]
        return Patch(image, self._targets(scan, placement), scan.case.scan_id, (z, y, x))

    def _choose(self, rng: np.random.Generator) -> tuple[StoredScan, Float[np.ndarray, " 6"]]:
        """Draw a scan and a box near which to look: a lesion's, or a point in bone."""
        near_lesion = rng.random() < self.config.data.lesion_fraction
        near_lesion = near_lesion and len(self._with_lesions) > 0
        patients = self._with_lesions if near_lesion else self._patients
        scans = patients[int(rng.integers(len(patients)))]
        scan = scans[int(rng.integers(len(scans)))]
        if near_lesion:
            boxes = _lesion_boxes(scan)
            diameters = (boxes[:, 3:] - boxes[:, :3]).prod(axis=1).clip(1) ** (1 / 3)
            weights = diameters**-SMALL_LESION_POWER
            return scan, boxes[rng.choice(len(boxes), p=weights / weights.sum())]
        if len(scan.bone):
            point = scan.bone[int(rng.integers(len(scan.bone)))].astype(float)
        else:
            point = rng.uniform(0, scan.shape)
        return scan, np.concatenate([point, point])

    def _place(
        self,
        scan: StoredScan,
        target: Float[np.ndarray, " 6"],
        matrix: Float[np.ndarray, "3 3"],
        aligned: bool,
        rng: np.random.Generator,
    ) -> Placement:
        """Put the middle of ``target`` anywhere in the patch, but keep the patch in the scan."""
        shape = np.array(self.config.data.patch_size, dtype=float)
        border = BORDER_VOX + BORDER_SHARE * (target[3:] - target[:3])
        reach = (shape / 2 - border).clip(0)
        center = (target[:3] + target[3:]) / 2 - matrix @ rng.uniform(-reach, reach)
        # A scan smaller than the patch lies anywhere in it, a larger one surrounds it; either way
        # the patch may reach beyond by the translation.
        slack = self._augment.translate_mm / self.config.preprocess.spacing_mm
        spare = np.array(scan.shape) - shape
        low = np.minimum(0, spare) - slack
        high = np.maximum(0, spare) + slack
        corner = (center - shape / 2).clip(low, high)
        if aligned:
            corner = np.rint(corner)
        return Placement(matrix, corner + shape / 2, self.config.data.patch_size, aligned)

    def _normalise(self, hu: Float[np.ndarray, "z y x"]) -> Float[np.ndarray, "z y x"]:
        # The same as preprocess.normalise, in place and without torch's threads.
        preprocess = self.config.preprocess
        np.clip(hu, *preprocess.window_hu, out=hu)
        hu -= np.float32(preprocess.mean_hu)
        hu *= np.float32(1 / preprocess.std_hu)
        return hu

    def _targets(self, scan: StoredScan, placement: Placement) -> Targets:
        block, in_block = scan.read_instances(*placement.source_box())
        if not in_block:
            instances = np.zeros(placement.shape, dtype=np.int16)
        else:
            instances = sample_instances(block, placement)
        least = self.config.data.min_visible_fraction
        kept = [_Truths.empty(), _Truths.empty()]
        for truth in (_masked(scan, instances, placement, in_block), _unmasked(scan, placement)):
            enough = truth.visible >= least
            kept[0] = kept[0].joined(truth[enough])
            kept[1] = kept[1].joined(truth[~enough])
        ignore = placement.move_boxes(scan.ignore, hull=True)
        ignore, _ = _clip(ignore, placement.shape)
        truths, cut = kept
        label = LABELS[scan.case.primary]
        return Targets(
            boxes=torch.from_numpy(truths.boxes).float(),
            labels=torch.full((len(truths.boxes),), label, dtype=torch.int64),
            instances=torch.from_numpy(instances),
            instance_ids=torch.from_numpy(truths.instance_ids),
            ignore_boxes=torch.from_numpy(np.concatenate([cut.boxes, ignore])).float(),
            attributes=self._attributes.of(scan.case.scan_id, truths.instance_ids),
        )


@dataclass(frozen=True, eq=False)
class _Truths:
    """Lesions seen in a patch: clipped boxes, ids (0 without a mask), share of each inside."""

    boxes: Float[np.ndarray, "n 6"]
    instance_ids: np.ndarray
    visible: Float[np.ndarray, " n"]

    @classmethod
    def empty(cls) -> "_Truths":
        return cls(np.zeros((0, 6)), np.zeros(0, dtype=np.int64), np.zeros(0))

    def __getitem__(self, keep: np.ndarray) -> "_Truths":
        return _Truths(self.boxes[keep], self.instance_ids[keep], self.visible[keep])

    def joined(self, other: "_Truths") -> "_Truths":
        return _Truths(
            np.concatenate([self.boxes, other.boxes]),
            np.concatenate([self.instance_ids, other.instance_ids]),
            np.concatenate([self.visible, other.visible]),
        )


def _masked(
    scan: StoredScan,
    instances: Int16[np.ndarray, "z y x"],
    placement: Placement,
    in_block: dict[int, int],
) -> _Truths:
    """Return the lesions with a mask, each with the tight box of its voxels in the patch."""
    boxes: list[list[float]] = []
    ids: list[int] = []
    shares: list[float] = []
    regions = ndimage.find_objects(instances) if in_block else []
    for lesion in scan.lesions:
        if lesion.instance_id not in in_block:
            continue
        found = lesion.instance_id <= len(regions)
        region = regions[lesion.instance_id - 1] if found else None
        if region is not None:
            count = np.count_nonzero(instances[region] == lesion.instance_id)
            boxes.append([*(r.start for r in region), *(r.stop for r in region)])
            shares.append(count / (lesion.voxels * placement.zoom**3))
        else:
            # Turned and shrunk, a lesion of a few voxels may fall between the samples, but the
            # image still shows it: not a target, and not background either.
            box, inside = _clip(placement.move_boxes(lesion.box[None], hull=True), placement.shape)
            if not inside.size:
                continue
            boxes.append(box[0].tolist())
            shares.append(0.0)
        ids.append(lesion.instance_id)
    return _Truths(
        np.array(boxes, dtype=float).reshape(-1, 6),
        np.array(ids, dtype=np.int64),
        np.array(shares, dtype=float),
    )


def _unmasked(scan: StoredScan, placement: Placement) -> _Truths:
    """Return the lesions without a mask; the visible share is that of their box."""
    boxes, share = _clip(placement.move_boxes(scan.boxes, hull=False), placement.shape)
    return _Truths(boxes, np.zeros(len(boxes), dtype=np.int64), share)


def _clip(
    boxes: Float[np.ndarray, "n 6"], shape: tuple[int, int, int]
) -> tuple[Float[np.ndarray, "m 6"], Float[np.ndarray, " m"]]:
    """Clip boxes to a patch, without those outside it; also return the share left of each."""
    high = np.array(shape, dtype=float)
    clipped = np.hstack([boxes[:, :3].clip(0, high), boxes[:, 3:].clip(0, high)])
    sides, full = clipped[:, 3:] - clipped[:, :3], boxes[:, 3:] - boxes[:, :3]
    keep = (sides > 0).all(axis=1)
    return clipped[keep], sides[keep].prod(axis=1) / full[keep].prod(axis=1)


def _lesion_boxes(scan: StoredScan) -> Float[np.ndarray, "n 6"]:
    masked = [lesion.box for lesion in scan.lesions]
    return np.concatenate([np.array(masked).reshape(-1, 6), scan.boxes])


def _by_patient(scans: Sequence[StoredScan]) -> list[list[StoredScan]]:
    patients: dict[str, list[StoredScan]] = {}
    for scan in scans:
        patients.setdefault(scan.case.patient_id, []).append(scan)
    return list(patients.values())


def validation_patches(store: Store, config: Config, seed: int) -> Iterator[Patch]:
    """Yield the ``data.val_patches`` fixed patches of a seed, without augmentation."""
    sampler = PatchSampler(store, config, seed, augment=False)
    for index in range(config.data.val_patches):
        yield sampler.sample(index)


class PatchLoader:
    """Iterate over training batches without end, prepared ahead by threads.

    The order and the content of batches depend on the sampler alone. Close it, or use it in a
    ``with`` statement: its threads end then, whatever was raised.

    Args:
        sampler: makes patches.
        batch_size: patches a step.
        start_step: first step, after resuming.
        workers: threads; 0 prepares each batch when it is asked for.
        rank: of this process among those that share each batch; process r takes patches r,
            r + processes, r + 2 processes and so on.
        processes: how many share a batch; ``batch_size`` is a multiple.
    """

    def __init__(
        self,
        sampler: PatchSampler,
        batch_size: int,
        start_step: int = 0,
        workers: int = 1,
        *,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        if batch_size % processes:
            raise ConfigError(
                f"training.batch_size is {batch_size}; expected a multiple of the {processes} "
                "processes that share a batch"
            )
        self._sampler = sampler
        self._batch_size = batch_size // processes
        self._stride = processes
        self._next_index = start_step * batch_size + rank
        self._step = start_step
        self._pool = (
            ThreadPoolExecutor(workers, thread_name_prefix="osteomet-patches") if workers else None
        )
        self._waiting: deque[Future[Patch]] = deque()
        self._ahead = max(self._batch_size * BATCHES_AHEAD, workers)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        patches = [self._next_patch() for _ in range(self._batch_size)]
        step, self._step = self._step, self._step + 1
        return Batch(step, torch.stack([p.image for p in patches]), [p.targets for p in patches])

    def close(self) -> None:
        """End the threads after the patch that each is at."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._waiting.clear()

    def __enter__(self) -> "PatchLoader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _next_patch(self) -> Patch:
        if self._pool is None:
            return self._sampler.sample(self._take_index())
        while len(self._waiting) < self._ahead:
            self._waiting.append(self._pool.submit(self._sampler.sample, self._take_index()))
        return self._waiting.popleft().result()

    def _take_index(self) -> int:
        index = self._next_index
        self._next_index += self._stride
        return index
