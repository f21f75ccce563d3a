"""Device, precision and processes of a run, as Fabric."""

import logging
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from rich.console import Console

from osteomet.config import Config
from osteomet.errors import ConfigError, TrainingError
from osteomet.training.update import OneMachine

Read = TypeVar("Read")

LAUNCHERS = ("LOCAL_WORLD_SIZE", "SLURM_JOB_ID")
"""What the environment holds where something else starts processes, or may be asked to."""


def read_and_launch(
    read: Callable[[], Read], device: str, precision: str, processes: int = 1
) -> tuple[Read, Fabric]:
    """Read what a run needs and start its processes; return that, and Fabric.

    With several ``processes`` the command is started again for each of them, after the first has
    read, so that whatever is wrong is told once. Where a launcher such as torchrun has started
    them, whose numbers count then, the first reads, and what it writes, before the others. Each
    gets its share of the processor's cores, or a card of its own.

    Args:
        read: called in every process.
        device: auto, cpu, cuda or mps; ``auto`` takes CUDA if there is a card, else the CPU: MPS
            lacks 3D operators that training needs, so that it must be asked for.
        precision: auto, 32 or bf16.
        processes: that share each batch.

    Raises:
        ConfigError: the device is unknown or not there.
    """
    device = _available(device)
    if "LOCAL_WORLD_SIZE" not in os.environ:
        content = read()
        return content, make_fabric(device, precision, processes)
    fabric = make_fabric(device, precision, processes)
    with fabric.rank_zero_first():
        return read(), fabric


def make_fabric(device: str, precision: str, processes: int = 1) -> Fabric:
    """Return Fabric, with its processes started; see ``read_and_launch``."""
    device = _available(device)
    if precision == "auto":
        has_bf16 = device == "cuda" and torch.cuda.is_bf16_supported()
        precision = "bf16" if has_bf16 else "32"
    launched = "LOCAL_WORLD_SIZE" in os.environ
    here = int(os.environ["LOCAL_WORLD_SIZE"]) if launched else processes
    everywhere = int(os.environ["WORLD_SIZE"]) if launched else here
    strategy: str | OneMachine = "auto"
    if everywhere > 1:
        strategy = OneMachine() if device == "cpu" and here == everywhere else "ddp"
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # else a banner for each
    fabric = Fabric(
        accelerator=device,
        devices=here,
        num_nodes=everywhere // here,
        strategy=strategy,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


def processes_that_help(device: str, config: Config) -> int:
    """Return how many processes a run is best shared by, where nothing is said of it.

    On a CPU processes use cores better than threads do (``benchmarks/training_processes.md``): as
    many as share a batch evenly, one for each of the cores that torch may use. One where the
    result would be another: statistics over a batch, or branches dropped at random, are of each
    process alone; one where a launcher decides, and where there is no memory to share.
    """
    backbone = config.resolved().model.backbone
    by_batch = backbone.normalisation == "batch" and not backbone.name.startswith("convnext")
    alone = by_batch or backbone.drop_path > 0 or not hasattr(os, "memfd_create")
    if _available(device) != "cpu" or alone or any(name in os.environ for name in LAUNCHERS):
        return 1
    batch = config.training.batch_size
    return max(n for n in range(1, torch.get_num_threads() + 1) if batch % n == 0)


def of_first_process(console: Console | None) -> Console | None:
    """Return the console in the process that tells, None in others, before Fabric is there."""
    number = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))
    return console if number == "0" else None


@contextmanager
def lost_process_as_error(fabric: Fabric) -> Iterator[None]:
    """Say in one line that another process is gone, which has said itself why if it could.

    Raises:
        TrainingError: it is.
    """
    try:
        yield
    except (RuntimeError, ConnectionError) as error:
        files = [Path(call.filename) for call in traceback.extract_tb(error.__traceback__)]
        exchanges = "torch/distributed/", "training/local_sums.py"
        if not any(name in file.as_posix() for name in exchanges for file in files):
            raise
        raise TrainingError(
            f"process {fabric.global_rank + 1} of {fabric.world_size} lost another one, which "
            "failed or was killed; go on with --resume from the last checkpoint"
        ) from error


def _available(device: str) -> str:
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if device == "auto":
        return "cuda" if available["cuda"] else "cpu"
    if not available.get(device, False):
        usable = ", ".join(name for name, there in available.items() if there)
        raise ConfigError(f"device {device!r} is not available here; expected auto or {usable}")
    return device
