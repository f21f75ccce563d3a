"""Gradients of several processes on one machine, averaged in memory that all of them see.

Gloo sends them through sockets, which takes a tenth of a small network's step and more. Here each
process lays its gradient beside those of the others while backward goes on, and when all are there
each adds up all of them, in the same order.
"""

import contextlib
import mmap
import os
import tempfile
from pathlib import Path

import torch
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, distributed, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

FLOAT = 4
"""Bytes."""
MEMORY = Path("/dev/shm")
"""Where files are memory; elsewhere than on Linux there is no such place."""


class OneMachine(DDPStrategy):
    """Data-parallel training on the CPU by processes of one machine.

    Where there is no shared memory, or too little, gradients go through gloo as elsewhere.
    """

    def __init__(self) -> None:
        super().__init__(gradient_as_bucket_view=True)

    def setup_module(self, module: nn.Module) -> DistributedDataParallel:
        """Wrap a module; its gradients must be float32."""
        wrapped = super().setup_module(module)
        numbers = sum(p.numel() for p in module.parameters() if p.requires_grad)
        rows = open_shared_rows(numbers)
        if rows is not None:
            wrapped.register_comm_hook(SharedAverage(rows), average_bucket)
        return wrapped


def open_shared_rows(numbers: int) -> Tensor | None:
    """Return ``(processes, numbers)`` zeros that all processes share; None if there is no memory.

    All processes must call it at once. The memory has no name once they have it, and goes with the
    last of them, however that ends.
    """
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    size = FLOAT * processes * numbers
    told: list[str | None] = [_new_file(size) if rank == 0 else None]
    distributed.broadcast_object_list(told)
    name = told[0]
    if name is None:
        return None
    try:
        with open(name, "r+b") as file:
            shared = mmap.mmap(file.fileno(), size)
        distributed.barrier()
    finally:
        if rank == 0:
            Path(name).unlink()
    return torch.frombuffer(shared, dtype=torch.float32).view(processes, numbers)


def _new_file(size: int) -> str | None:
    """Return a file of memory that is really there, and not only promised."""
    if not MEMORY.is_dir():
        return None
    name = None
    try:
        handle, name = tempfile.mkstemp(prefix="osteomet-gradients-", dir=MEMORY)
        with os.fdopen(handle, "wb"):
            os.posix_fallocate(handle, 0, size)
    except OSError:  # full, or not to be written to
        if name is not None:
            with contextlib.suppress(OSError):
                Path(name).unlink()
        return None
    return name


class SharedAverage:
    """Averages the gradients of a step.

    Attributes:
        rows: of each process.
    """

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self._mine = rows[distributed.get_rank()]
        self._waiting: list[tuple[Tensor, int, Future[Tensor]]] = []

    def add(self, bucket: GradBucket) -> Future[Tensor]:
        """Take a part of the gradient; with the last one all of them become averages."""
        values = bucket.buffer()
        future: Future[Tensor] = Future()
        start = sum(len(before) for before, _, _ in self._waiting)
        torch.mul(values, 1 / len(self.rows), out=self._mine[start : start + len(values)])
        self._waiting.append((values, start, future))
        if bucket.is_last():
            self._average()
        return future

    def _average(self) -> None:
        distributed.barrier()  # all have laid down theirs
        for values, start, _ in self._waiting:
            torch.sum(self.rows[:, start : start + len(values)], dim=0, out=values)
        distributed.barrier()  # all have read: the next step may write
        done, self._waiting = self._waiting, []
        for values, _, future in done:
            future.set_result(values)


def average_bucket(average: SharedAverage, bucket: GradBucket) -> Future[Tensor]:
    """Do for torch's data-parallel module what it asks of a communication hook."""
    return average.add(bucket)
