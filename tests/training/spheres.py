"""The smallest training there is: bright spheres in noise and a network of a few channels."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric

from osteomet.config import Config, parse_config
from osteomet.data.loader import Batch
from osteomet.data.patches import Patch
from osteomet.structures import ATTRIBUTES, UNKNOWN, Targets
from osteomet.training.fabric import make_fabric
from osteomet.training.loop import Trainer, TrainingData
from osteomet.training.run_folder import RunFolder

SIDE = 32


def tiny_config(**training: Any) -> Config:
    steps = {"batch_size": 1, "max_steps": 6, "validate_every": 3, "checkpoint_every": 2}
    return parse_config(
        {
            "model": {
                "backbone": {"stem_stride": 4, "dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
                "neck": {"levels": [2, 3], "channels": 8},
                "anchors": {"sizes_mm": [[8.0], [16.0]]},
                "rpn": {"proposals_train": 16, "proposals_test": 16},
                "box_head": {"pool_size": 3, "hidden": 16, "rois_per_image": 8},
                "mask_head": {"size": 8, "channels": 4, "convolutions": 1, "rois_per_image": 2},
            },
            "data": {"patch_size": [SIDE] * 3, "val_patches": 2},
            "training": {**steps, "warmup_steps": 2, "roi_warmup_steps": 4, **training},
        },
        "test",
    )


def example(index: int, lesions: int = 1) -> Patch:
    """Return a patch with up to one sphere, drawn by its index."""
    generator = torch.Generator().manual_seed(index)
    image = 0.3 * torch.randn(1, SIDE, SIDE, SIDE, generator=generator)
    instances = torch.zeros(SIDE, SIDE, SIDE, dtype=torch.int16)
    boxes = torch.zeros(lesions, 6)
    for lesion in range(lesions):
        center = torch.rand(3, generator=generator) * (SIDE - 12) + 6
        axis = torch.arange(SIDE) + 0.5
        grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
        inside = (grid - center).square().sum(dim=-1) < 25
        instances[inside] = lesion + 1
        image[0, inside] += 2.0
        where = inside.nonzero()
        boxes[lesion] = torch.cat([where.amin(dim=0), where.amax(dim=0) + 1]).float()
    ids = torch.arange(1, lesions + 1)
    labels = torch.ones(lesions, dtype=torch.int64)
    unknown = torch.full((lesions, len(ATTRIBUTES)), UNKNOWN)
    targets = Targets(boxes, labels, instances, ids, torch.zeros(0, 6), unknown)
    return Patch(image, targets, "sphere", (0.0, 0.0, 0.0))


def sphere_data(batch_size: int = 1, lesions: int = 1) -> TrainingData:
    @contextmanager
    def batches(start: int) -> Iterator[Iterator[Batch]]:
        yield (batch(step) for step in itertools.count(start))

    def batch(step: int) -> Batch:
        first = step * batch_size
        patches = [example(index, lesions) for index in range(first, first + batch_size)]
        return Batch(step, torch.stack([p.image for p in patches]), [p.targets for p in patches])

    validation = [example(-1 - index, lesions) for index in range(2)]
    return TrainingData(batches, validation, epoch_steps=2, cohort_sha256="spheres", provenance={})


def cpu() -> Fabric:
    return make_fabric("cpu", "32")


def trainer(folder: RunFolder, config: Config, lesions: int = 1, **more: Any) -> Trainer:
    folder.open(resume="state" in more)
    return Trainer(cpu(), folder, config, sphere_data(lesions=lesions), **more)
