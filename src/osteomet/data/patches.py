"""Patches to train and validate on, each a function of (seed, index) alone.

Workers, their number, and resuming change nothing. A patch first draws a patient, all alike,
then a scan, then a place: near a lesion, at a false positive of an earlier model if there are
any, or anywhere with bone.

A lesion cut by the border trains, with the box and mask of its visible part, if at least
``data.min_visible_fraction`` of it is inside; less is a box to ignore. Its voxels stay in the
instance map, since they are lesion whatever the share.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32, Int16, Int64
from torch import Tensor

from osteomet.config import AugmentConfig, Config
from osteomet.data.attributes import NotedAttributes
from osteomet.data.augment import Boxes, Placement, draw_intensities, draw_matrix
from osteomet.data.hard_places import lesion_boxes
from osteomet.data.render import NO_CHANGE, Renderer, Window
from osteomet.data.store import Store, StoredLesion, StoredScan
from osteomet.errors import InputError
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

    image: Float32[Tensor, "1 z y x"]
    targets: Targets
    scan_id: str
    center_zyx: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Draft:
    """A patch that is read and drawn, and not made yet.

    Attributes:
        window: its voxels and what shall be done to them.
        scan: where it is from.
        lesions: of the scan, those with a mask in the window, in the window's order.
        seed: of what is drawn while the patch trains.
    """

    window: Window
    scan: StoredScan
    lesions: tuple[StoredLesion, ...]
    seed: int

    def pinned(self) -> "Draft":
        """Return the same draft in memory from which a GPU copies without being waited for."""
        return replace(self, window=self.window.pinned())


class PatchSampler:
    """Cut patch ``index`` out of the scans of a store.

    Args:
        store: training or validation scans.
        config: sections preprocess, data and augment are used.
        seed: of all patches.
        augment: False gives patches as they are in the scan.
        hard_places: boxes of false positives of an earlier model, by scan_id.

    Raises:
        InputError: the store has no scans.
    """

    def __init__(
        self,
        store: Store,
        config: Config,
        seed: int,
        *,
        augment: bool = True,
        hard_places: Mapping[str, Boxes] | None = None,
    ) -> None:
        if not store.scans:
            raise InputError("there are no scans to take patches from; expected at least one")
        self.config = config
        self._seed = seed % 2**64  # a negative one is a seed too
        self._augment = config.augment if augment else NO_AUGMENTATION
        self._key = 0 if augment else VALIDATION_KEY
        self._hard_places = hard_places or {}
        self._attributes = NotedAttributes(store.scans)
        self._patients = _by_patient(store.scans)
        self._with_lesions = _by_patient([scan for scan in store.scans if len(lesion_boxes(scan))])
        self._with_hard_places = _by_patient(
            [scan for scan in store.scans if scan.case.scan_id in self._hard_places]
        )
        self._render = Renderer(config, torch.device("cpu"))

    def sample(self, index: int) -> Patch:
        """Return patch ``index``, at least 0, on the CPU: the same one wherever it is asked for."""
        return self.finish([self.draft(index)], self._render)[0]

    def draft(self, index: int) -> Draft:
        """Draw patch ``index`` and read its voxels, all of it that needs no device."""
        rng = np.random.default_rng((self._key, self._seed, index))
        matrix, aligned = draw_matrix(self._augment, rng)
        scan, target = self._choose(rng)
        placement = self._place(scan, target, matrix, aligned, rng)
        change = NO_CHANGE
        if self._augment.intensity_probability + self._augment.thick_slices_probability > 0:
            spacing, voxels = self.config.preprocess.spacing_mm, int(np.prod(placement.shape))
            change = draw_intensities(self._augment, spacing, voxels, rng)
        instances, present = scan.read_instances(*placement.source_box())
        lesions = tuple(lesion for lesion in scan.lesions if lesion.instance_id in present)
        window = Window(
            hu=_own(scan.read_hu(*placement.source_box())),
            instances=_own(instances) if lesions else None,
            placement=placement,
            change=change,
            ids=np.array([lesion.instance_id for lesion in lesions], dtype=np.int64),
            scan_boxes=np.array([lesion.box for lesion in lesions]).reshape(-1, 6),
        )
        return Draft(window, scan, lesions, seed=int(rng.integers(2**62)))

    def finish(self, drafts: Sequence[Draft], render: Renderer) -> list[Patch]:
        """Make patches of at least one draft, on the device of ``render``."""
        made = render([draft.window for draft in drafts])
        patches = []
        for k, draft in enumerate(drafts):
            z, y, x = draft.window.placement.center.tolist()
            targets = self._targets(draft, made.instances[k], made.voxels[k], made.boxes[k])
            patches.append(Patch(made.images[k], targets, draft.scan.case.scan_id, (z, y, x)))
        return patches

    def _choose(self, rng: np.random.Generator) -> tuple[StoredScan, Float[np.ndarray, " 6"]]:
        """Draw a scan and a box near which to look: a lesion, a hard background, or bone."""
        data = self.config.data
        if rng.random() < data.lesion_fraction and self._with_lesions:
            scan = _scan_of_one(self._with_lesions, rng)
            boxes = lesion_boxes(scan)
            diameters = (boxes[:, 3:] - boxes[:, :3]).prod(axis=1).clip(1) ** (1 / 3)
            weights = diameters**-SMALL_LESION_POWER
            return scan, boxes[rng.choice(len(boxes), p=weights / weights.sum())]
        if self._with_hard_places and rng.random() < data.hard_background_fraction:
            scan = _scan_of_one(self._with_hard_places, rng)
            boxes = self._hard_places[scan.case.scan_id]
            return scan, boxes[int(rng.integers(len(boxes)))]
        scan = _scan_of_one(self._patients, rng)
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

    def _targets(
        self,
        draft: Draft,
        instances: Int16[Tensor, "z y x"],
        voxels: Int64[np.ndarray, " n"],
        seen: Boxes,
    ) -> Targets:
        scan, placement = draft.scan, draft.window.placement
        least = self.config.data.min_visible_fraction
        kept = [_Truths.empty(), _Truths.empty()]
        for truth in (_masked(draft, voxels, seen), _unmasked(scan, placement)):
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
            instances=instances,
            instance_ids=torch.from_numpy(truths.instance_ids),
            ignore_boxes=torch.from_numpy(np.concatenate([cut.boxes, ignore])).float(),
            attributes=self._attributes.of(scan.case.scan_id, truths.instance_ids),
            seed=draft.seed,
        ).to(instances.device)


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


def _masked(draft: Draft, voxels: Int64[np.ndarray, " n"], seen: Boxes) -> _Truths:
    """Return the lesions with a mask, each with the tight box of its voxels in the patch."""
    placement = draft.window.placement
    boxes: list[np.ndarray] = []
    ids: list[int] = []
    shares: list[float] = []
    for lesion, count, box in zip(draft.lesions, voxels.tolist(), seen, strict=True):
        if count:
            boxes.append(box)
            shares.append(count / (lesion.voxels * placement.zoom**3))
        else:
            # Turned and shrunk, a lesion of a few voxels may fall between the samples, but the
            # image still shows it: not a target, and not background either.
            hull, inside = _clip(placement.move_boxes(lesion.box[None], hull=True), placement.shape)
            if not inside.size:
                continue
            boxes.append(hull[0])
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


def _own(block: Int16[np.ndarray, "z y x"]) -> Int16[Tensor, "z y x"]:
    """Return a tensor of a block that may be a read-only view of a file."""
    writable = block.flags.writeable and block.flags.c_contiguous
    return torch.from_numpy(block if writable else block.copy())


def _by_patient(scans: Sequence[StoredScan]) -> list[list[StoredScan]]:
    patients: dict[str, list[StoredScan]] = {}
    for scan in scans:
        patients.setdefault(scan.case.patient_id, []).append(scan)
    return list(patients.values())


def _scan_of_one(patients: Sequence[list[StoredScan]], rng: np.random.Generator) -> StoredScan:
    """Draw a patient, then one of their scans."""
    scans = patients[int(rng.integers(len(patients)))]
    return scans[int(rng.integers(len(scans)))]


def validation_patches(store: Store, config: Config, seed: int) -> Iterator[Patch]:
    """Yield the ``data.val_patches`` fixed patches of a seed, without augmentation."""
    sampler = PatchSampler(store, config, seed, augment=False)
    for index in range(config.data.val_patches):
        yield sampler.sample(index)
