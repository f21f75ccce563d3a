"""``osteomet train``: from a cohort on disk to a folder with weights."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from rich.console import Console

import osteomet
from osteomet.checkpoint import load_weights
from osteomet.config import Config
from osteomet.data.hard_places import Boxes, false_positives
from osteomet.data.loader import PatchLoader
from osteomet.data.manifest import Cohort, read_cohort, with_split, write_split
from osteomet.data.patches import PatchSampler, validation_patches
from osteomet.data.prepare import STORE_FOLDER
from osteomet.data.store import Store, StoredScan, build_store, hu_statistics
from osteomet.errors import InputError
from osteomet.ops.freed_memory import keep_freed_memory
from osteomet.training.fabric import lost_process_as_error, of_first_process, read_and_launch
from osteomet.training.loop import Trainer, TrainingData, TrainingResult
from osteomet.training.run_folder import RunFolder
from osteomet.training.schedule import steps_per_epoch
from osteomet.training.starting_weights import StartingWeights, starting_weights
from osteomet.training.state import check_cohort, read_state, resumed_config


def train(  # noqa: PLR0913 - one keyword for each option of the command
    cohort_path: Path,
    config: Config,
    run_dir: Path,
    *,
    init: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    processes: int = 1,
    store_dir: Path | None = None,
    hard_places: Path | None = None,
    provenance: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> TrainingResult:
    """Train on the ``train`` scans of a cohort, checked on its ``val`` scans.

    A wall-clock budget counts from here: resampling the scans is part of it, unless an earlier
    run has left them in the store.

    Args:
        cohort_path: ``cohort.csv``; without a split it gets one, by ``training.seed``.
        config: the settings; the normalisation constants are measured and replaced.
        run_dir: made if it is missing; see ``RunFolder``.
        init: weights to start from, by bundled name or path: a detector's, a pretrained
            backbone's, or those of a 2D network. Tensors of the model that they lack, or have
            in another shape, start anew. Normalisation constants of osteomet's own weights
            stay, since their first layer knows HU by them. A resumed run has them already.
        resume: go on with the run in ``run_dir``.
        device: auto, cpu, cuda or mps.
        processes: that share each batch; a launcher such as torchrun says it by itself.
        store_dir: where resampled scans are kept.
        hard_places: what ``osteomet predict`` wrote for the training scans; its false positives
            become hard backgrounds. A resumed run needs the same.
        provenance: what the weights' file shall tell besides, such as the command.
        console: for progress and messages; None is silent.

    Raises:
        InputError: the cohort or one of its scans cannot be used.
        ConfigError: the settings do not fit each other or this machine.
        CheckpointError: the run cannot be resumed, or a checkpoint cannot be written.
        TrainingError: losses or gradients are not finite.
    """
    started = time.perf_counter()
    config = config.resolved()
    keep_freed_memory()
    folder = RunFolder(run_dir)
    folder.open(resume)
    state = read_state(folder.state) if resume else None
    if state is not None:
        config = resumed_config(folder.state, state, config)
    console = of_first_process(console)

    def read() -> _Material:
        return _read(cohort_path, config, init, resume, store_dir, hard_places, console)

    material, fabric = read_and_launch(read, device, config.training.precision, processes)
    training, validation, initial = material.training, material.validation, material.initial
    if state is not None:
        check_cohort(folder.state, state, material.digest)
    else:
        config = _with_hu_constants(config, training, initial)
        if fabric.is_global_zero:
            folder.write_config(config)
            folder.write_cohort(material.cohort)
    if fabric.is_global_zero:
        _tell_warnings(folder, [*training.scans, *validation.scans], console)
    about = {
        "osteomet": osteomet.__version__,
        "training_scans": len(training.scans),
        "validation_scans": len(validation.scans),
        "processes": fabric.world_size,
        **(provenance or {}),
    }
    if initial is not None:
        about["init"] = {"sha256": initial.sha256, **initial.provenance}
    elif resume:
        about |= _started_from(folder)
    data = _training_data(material, config, about, fabric)
    if config.training.epochs is not None and console is not None:
        console.print(f"{config.training.epochs} epochs of {data.epoch_steps} steps")
    with lost_process_as_error(fabric):
        trainer = Trainer(
            fabric, folder, config, data,
            initial=initial, state=state, started=started, console=console,
        )  # fmt: skip
        result = trainer.fit()
    if console is not None:
        console.print(_summary(result), highlight=False, markup=False, soft_wrap=True)
    return result


@dataclass(frozen=True, eq=False)
class _Material:
    """What a run reads before it begins.

    Attributes:
        cohort: all scans, with their split.
        training: the scans to learn from.
        validation: those to measure on.
        hard: boxes of hard backgrounds by scan_id.
        digest: of all of these.
        initial: weights to start from.
    """

    cohort: Cohort
    training: Store
    validation: Store
    hard: Mapping[str, Boxes]
    digest: str
    initial: StartingWeights | None


def _read(
    cohort_path: Path,
    config: Config,
    init: str | Path | None,
    resume: bool,
    store_dir: Path | None,
    hard_places: Path | None,
    console: Console | None,
) -> _Material:
    cohort = _split_cohort(cohort_path, config.training.seed)
    folder = store_dir or cohort_path.parent / STORE_FOLDER
    training, validation = _stores(cohort, folder, config, console)
    hard = false_positives(hard_places, training.scans) if hard_places is not None else {}
    digest = _digest(training, validation, hard)
    initial = None if init is None or resume else starting_weights(init, config)
    return _Material(cohort, training, validation, hard, digest, initial)


def _started_from(folder: RunFolder) -> dict[str, Any]:
    """Return what the run's weights tell of those it started from, if it did."""
    known = load_weights(folder.last_weights).provenance
    return {"init": known["init"]} if "init" in known else {}


def _summary(result: TrainingResult) -> str:
    return (
        f"{result.outcome} after step {result.step} in {result.seconds / 60:.1f} minutes; best "
        f"validation at step {result.best_step}, loss {result.best_loss:.4f}: {result.weights}"
    )


def _with_hu_constants(config: Config, training: Store, initial: StartingWeights | None) -> Config:
    if initial is None or initial.preprocess is None:
        mean_hu, std_hu = hu_statistics(training, config.preprocess.window_hu)
    else:
        mean_hu, std_hu = initial.preprocess.mean_hu, initial.preprocess.std_hu
    return config.updated({"preprocess.mean_hu": mean_hu, "preprocess.std_hu": std_hu})


def _split_cohort(path: Path, seed: int) -> Cohort:
    """Read the cohort; one without a split gets it, in the file too, for all later runs."""
    cohort = read_cohort(path)
    if not cohort.has_split:
        cohort = with_split(cohort, seed)
        write_split(path, cohort)
    for side in ("train", "val"):
        if not cohort.of_split(side):
            raise InputError(
                f"{path}: no scan has split {side!r}; expected at least one: change the column "
                "split, or leave it out to have one made"
            )
    return cohort


def _stores(
    cohort: Cohort, folder: Path, config: Config, console: Console | None
) -> tuple[Store, Store]:
    """Open the resampled training and validation scans, made first where they are missing."""
    cases = [*cohort.of_split("train"), *cohort.of_split("val")]
    with (console or Console(quiet=True)).status("resampling scans") as status:
        store = build_store(
            cases,
            folder,
            config.preprocess.spacing_mm,
            workers=max(1, config.data.workers),
            progress=lambda done, count: status.update(f"resampling scans: {done} of {count}"),
        )
    return _side(store, "train"), _side(store, "val")


def _side(store: Store, side: str) -> Store:
    scans = tuple(scan for scan in store.scans if scan.case.split == side)
    return Store(scans, store.spacing_mm)


def _training_data(
    material: _Material, config: Config, provenance: Mapping[str, Any], fabric: Fabric
) -> TrainingData:
    settings, scans = config.training, material.training
    sampler = PatchSampler(scans, config, settings.seed, hard_places=material.hard)
    return TrainingData(
        batches=lambda step: PatchLoader(
            sampler,
            settings.batch_size,
            start_step=step,
            workers=config.data.workers,
            rank=fabric.global_rank,
            processes=fabric.world_size,
            device=fabric.device,
        ),
        validation=list(validation_patches(material.validation, config, settings.seed)),
        epoch_steps=steps_per_epoch(len(scans.scans), settings),
        cohort_sha256=material.digest,
        provenance=provenance,
    )


def _digest(training: Store, validation: Store, hard: Mapping[str, Boxes]) -> str:
    """Return a digest of what patches depend on: scans, their order, lesions and hard places.

    Places and dates of files are left out, so that a run may move with its data.
    """
    content: list[Any] = [
        [_identity(scan) for scan in store.scans] for store in (training, validation)
    ]
    if hard:
        content.append({scan_id: boxes.tolist() for scan_id, boxes in hard.items()})
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _identity(scan: StoredScan) -> list[Any]:
    case = scan.case
    lesions = [[lesion.corner, lesion.shape, lesion.voxels] for lesion in scan.lesions]
    boxes = [scan.boxes.tolist(), scan.ignore.tolist()]
    return [case.scan_id, case.patient_id, case.primary.value, scan.shape, lesions, boxes]


def _tell_warnings(folder: RunFolder, scans: list[StoredScan], console: Console | None) -> None:
    warnings = [f"{scan.case.scan_id}: {text}" for scan in scans for text in scan.warnings]
    folder.write_warnings(warnings)
    if warnings and console is not None:
        console.print(
            f"{len(warnings)} warnings about scans, in {folder.path / 'warnings.txt'}; the first: "
            f"{warnings[0]}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
