"""``osteomet pretrain``: from scans without labels to a backbone that has seen CT."""

import csv
import hashlib
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor, nn

import osteomet
from osteomet.checkpoint import load_into, load_weights, replace_file
from osteomet.config import Config
from osteomet.data.loader import PatchLoader
from osteomet.data.manifest import Case, MaskKind
from osteomet.data.patches import Patch, PatchSampler, validation_patches
from osteomet.data.prepare import STORE_FOLDER
from osteomet.data.store import Store, build_store, hu_statistics
from osteomet.errors import InputError
from osteomet.findings import PrimaryTumour
from osteomet.io.volumes import volume_format
from osteomet.models.masked_autoencoder import MaskedAutoencoder
from osteomet.ops.freed_memory import keep_freed_memory
from osteomet.reporting.files import write_atomically
from osteomet.reporting.reconstructions import Example, reconstructions_png
from osteomet.structures import Targets
from osteomet.training.fabric import lost_process_as_error, of_first_process, read_and_launch
from osteomet.training.loop import Trainer, TrainingData, TrainingResult
from osteomet.training.run_folder import RunFolder
from osteomet.training.schedule import steps_per_epoch
from osteomet.training.state import check_cohort, read_state, resumed_config
from osteomet.training.task import Task
from osteomet.training.validation import seed_torch

IMAGES, PICTURE = "images.csv", "reconstructions.png"
PICTURED = 4
"""Patches in the picture."""

UNLABELLED = {
    "data.lesion_fraction": 0.0,
    "data.hard_background_fraction": 0.0,
    "augment.intensity_probability": 0.0,
    "augment.thick_slices_probability": 0.0,
}
"""Patches lie anywhere with bone, and their voxels, which are the target, stay as they were."""


@dataclass(frozen=True)
class ReconstructionLoss:
    """Mean error of the hidden voxels of all validation patches."""

    loss: float

    def row(self) -> dict[str, float]:
        """Return what the logs show."""
        return {"loss": self.loss}


def pretrain(  # noqa: PLR0913 - one keyword for each option of the command
    images: Sequence[Path],
    config: Config,
    run_dir: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    processes: int = 1,
    store_dir: Path | None = None,
    provenance: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> TrainingResult:
    """Let the backbone of a configuration guess hidden cubes of scans.

    The run's folder is that of ``train``, with ``images.csv`` and ``reconstructions.png``. Its
    weights are for ``train(init=...)``.

    Args:
        images: scans, as ``find_images`` takes them; a resumed run needs the same.
        config: the settings; the normalisation constants are measured and replaced.
        run_dir: made if it is missing.
        resume: go on with the run in ``run_dir``.
        device: auto, cpu, cuda or mps.
        processes: that share each batch.
        store_dir: where resampled scans are kept; None takes a folder beside ``run_dir``.
        provenance: what the weights' file shall tell besides, such as the command.
        console: for progress and messages; None is silent.

    Raises:
        InputError: there is no scan, or one cannot be used.
        ConfigError: the settings do not fit each other, or the backbone cannot be pretrained.
        CheckpointError: the run cannot be resumed, or a checkpoint cannot be written.
        TrainingError: losses or gradients are not finite.
    """
    started = time.perf_counter()
    config = config.resolved()
    with torch.device("meta"):  # refuses a backbone before scans are read
        MaskedAutoencoder(config)
    keep_freed_memory()
    cases = _cases(find_images(images), config)
    folder = RunFolder(run_dir)
    folder.open(resume)
    state = read_state(folder.state) if resume else None
    if state is not None:
        config = resumed_config(folder.state, state, config)
    console = of_first_process(console)

    def read() -> Store:
        return _store(cases, store_dir or run_dir.parent / STORE_FOLDER, config, console)

    store, fabric = read_and_launch(read, device, config.training.precision, processes)
    learning, measuring = _side(store, "train"), _side(store, "val")
    digest = _digest(store)
    if state is not None:
        check_cohort(folder.state, state, digest)
    else:
        mean_hu, std_hu = hu_statistics(learning, config.preprocess.window_hu)
        config = config.updated({"preprocess.mean_hu": mean_hu, "preprocess.std_hu": std_hu})
    if fabric.is_global_zero:
        folder.write_config(config)
        _write_images(folder, cases)
        folder.write_warnings([f"{s.case.scan_id}: {w}" for s in store.scans for w in s.warnings])
    about = {
        "osteomet": osteomet.__version__,
        "pretrained_on_images": len(learning.scans),
        "processes": fabric.world_size,
        **(provenance or {}),
    }
    data = _data(learning, measuring, config, digest, about, fabric)
    with lost_process_as_error(fabric):
        trainer = Trainer(
            fabric, folder, config, data,
            task=PRETRAINING, state=state, started=started, console=console,
        )  # fmt: skip
        result = trainer.fit()
    if fabric.is_global_zero and result.weights.is_file():
        write_atomically(folder.path / PICTURE, picture(result.weights, data.validation))
    if console is not None:
        console.print(_summary(result), highlight=False, markup=False, soft_wrap=True)
    return result


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Return the scans that paths of a user name, in their order.

    A file, a zip, and a folder of DICOM files are one scan each; a folder that holds NIfTI, NRRD
    or MetaImage files, at any depth, is as many.

    Raises:
        InputError: a path is missing or given twice, or there is none.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: there is no such file or folder; expected a scan")
        inside = path.rglob("*") if path.is_dir() else ()
        volumes = sorted(p for p in inside if p.is_file() and volume_format(p) is not None)
        found += volumes or [path]
    places = [path.resolve() for path in found]
    for index, place in enumerate(places):
        if place in places[:index]:
            raise InputError(f"{found[index]}: is given twice; expected each scan once")
    if not found:
        raise InputError("no scan is given; expected at least one file or folder")
    return found


def picture(weights: Path, patches: Sequence[Patch]) -> bytes:
    """Return a PNG of what pretrained weights make of at least one patch.

    Raises:
        CheckpointError: the weights are not those of a pretraining run.
    """
    loaded = load_weights(weights)
    model = MaskedAutoencoder(loaded.config).eval()
    load_into(model, loaded.model_state, str(weights))
    mean_hu, std_hu = loaded.config.preprocess.mean_hu, loaded.config.preprocess.std_hu
    examples = []
    for number, patch in enumerate(patches[:PICTURED]):
        seed_torch(loaded.config.training.seed, "picture", number)
        made = model.reconstruct(patch.image[None])

        def in_hu(values: Tensor) -> np.ndarray:
            return (values[0] * std_hu + mean_hu).numpy()

        examples.append(
            Example(in_hu(patch.image), made.visible[0, 0].numpy(), in_hu(made.predicted[0]))
        )
    return reconstructions_png(examples, loaded.config.preprocess.window_hu)


def _losses(model: nn.Module, images: Tensor, _: list[Targets]) -> dict[str, Tensor]:
    losses: dict[str, Tensor] = model(images)
    return losses


@torch.no_grad()
def _measure(
    fabric: Fabric, model: nn.Module, patches: Sequence[Patch], batch_size: int, seed: int
) -> ReconstructionLoss:
    """Hide the same cubes of the same patches each time."""
    total = 0.0
    for start in range(0, len(patches), batch_size):
        batch = patches[start : start + batch_size]
        images = torch.stack([patch.image for patch in batch]).to(fabric.device)
        seed_torch(seed, "validation", start)
        with fabric.autocast():
            losses = model(images)
        total += float(losses["reconstruction"]) * len(batch)
    return ReconstructionLoss(total / len(patches))


PRETRAINING = Task(MaskedAutoencoder, _losses, _measure)


def _cases(images: Sequence[Path], config: Config) -> list[Case]:
    """Number the scans, since names may be patients', and choose those that only measure."""
    share = config.pretraining.held_out
    count = round(share * len(images))
    if share > 0 and len(images) > 1:
        count = min(len(images) - 1, max(1, count))
    order = np.random.default_rng(config.training.seed % 2**64).permutation(len(images))
    held_out = set(order[:count].tolist()) if len(images) > 1 else set()
    return [
        Case(
            scan_id=f"image-{number + 1:05d}",
            patient_id=f"image-{number + 1:05d}",
            image=image,
            mask=None,
            centre="",
            primary=PrimaryTumour.UNKNOWN,
            split="val" if number in held_out else "train",
            mask_kind=MaskKind.NONE,
        )
        for number, image in enumerate(images)
    ]


def _store(cases: Sequence[Case], folder: Path, config: Config, console: Console | None) -> Store:
    with (console or Console(quiet=True)).status("resampling scans") as status:
        return build_store(
            cases,
            folder,
            config.preprocess.spacing_mm,
            workers=max(1, config.data.workers),
            progress=lambda done, count: status.update(f"resampling scans: {done} of {count}"),
        )


def _side(store: Store, side: str) -> Store:
    return Store(tuple(scan for scan in store.scans if scan.case.split == side), store.spacing_mm)


def _digest(store: Store) -> str:
    """Return a digest of the scans' voxels and their order; places and dates are left out."""
    content = []
    for scan in store.scans:
        histogram = (scan.folder / "histogram.npy").read_bytes()
        content.append([scan.case.split, scan.shape, hashlib.sha256(histogram).hexdigest()])
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _write_images(folder: RunFolder, cases: Sequence[Case]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["image_id", "path", "use"])
    for case in cases:
        use = "learning" if case.split == "train" else "measuring"
        writer.writerow([case.scan_id, case.image.resolve(), use])
    content = text.getvalue().encode()
    replace_file(folder.path / IMAGES, lambda file: file.write_bytes(content))


def _data(
    learning: Store,
    measuring: Store,
    config: Config,
    digest: str,
    provenance: Mapping[str, Any],
    fabric: Fabric,
) -> TrainingData:
    seed, of_patches = config.training.seed, config.updated(UNLABELLED)
    sampler = PatchSampler(learning, of_patches, seed)
    # A single scan is measured on itself: better a curve that flatters than none.
    measured = measuring if measuring.scans else learning
    return TrainingData(
        batches=lambda step: PatchLoader(
            sampler,
            config.training.batch_size,
            start_step=step,
            workers=config.data.workers,
            rank=fabric.global_rank,
            processes=fabric.world_size,
            device=fabric.device,
        ),
        validation=list(validation_patches(measured, of_patches, seed)),
        epoch_steps=steps_per_epoch(len(learning.scans), config.training),
        cohort_sha256=digest,
        provenance=provenance,
    )


def _summary(result: TrainingResult) -> str:
    return (
        f"{result.outcome} after step {result.step} in {result.seconds / 60:.1f} minutes; lowest "
        f"reconstruction loss {result.best_loss:.4f} at step {result.best_step}: {result.weights}"
    )
