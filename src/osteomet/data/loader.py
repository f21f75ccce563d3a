"""Batches of patches, prepared ahead by threads.

Threads and not processes: reading, decompressing and the compiled loops all let go of Python's
lock, nothing has to be copied between processes, and there is no worker that could be killed, or
hang at a fork, without the run. What is raised in a thread is raised where its patch is due.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import torch
from jaxtyping import Float32
from torch import Tensor

from osteomet.data.patches import Draft, Patch, PatchSampler
from osteomet.data.render import Renderer
from osteomet.errors import ConfigError
from osteomet.structures import Targets

BATCHES_AHEAD = 2
"""Batches prepared before they are asked for."""

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Batch:
    """Patches of one training step.

    Attributes:
        step: which one; the sampler's indices are ``step * b`` to ``step * b + b - 1``.
        images: ``(b, 1, z, y, x)``, on the loader's device like the targets.
        targets: one per image.
    """

    step: int
    images: Float32[Tensor, "b 1 z y x"]
    targets: list[Targets]


class PatchLoader:
    """Iterate over training batches without end, prepared ahead by threads.

    The order and the content of batches depend on the sampler alone. On a CPU the threads make
    whole patches. On another device they only read windows, and the batch is made there when it
    is asked for. Close the loader, or use it in a ``with`` statement: its threads end then,
    whatever was raised.

    Args:
        sampler: makes patches.
        batch_size: patches a step.
        start_step: first step, after resuming.
        workers: threads; 0 prepares each batch when it is asked for.
        rank: of this process among those that share each batch; process r takes patches r,
            r + processes, r + 2 processes and so on.
        processes: how many share a batch; ``batch_size`` is a multiple.
        device: of the model, where batches are wanted.
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
        device: torch.device = CPU,
    ) -> None:
        if batch_size % processes:
            raise ConfigError(
                f"training.batch_size is {batch_size}; expected a multiple of the {processes} "
                "processes that share a batch"
            )
        self._sampler = sampler
        self._render = Renderer(sampler.config, device)
        self._batch_size = batch_size // processes
        self._stride = processes
        self._next_index = start_step * batch_size + rank
        self._step = start_step
        self._pool = (
            ThreadPoolExecutor(workers, thread_name_prefix="osteomet-patches") if workers else None
        )
        self._waiting: deque[Future[Patch | Draft]] = deque()
        self._ahead = max(self._batch_size * BATCHES_AHEAD, workers)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        ready = [self._next_one() for _ in range(self._batch_size)]
        drafts = [one for one in ready if isinstance(one, Draft)]
        patches = [one for one in ready if isinstance(one, Patch)]
        if drafts:
            patches = self._sampler.finish(drafts, self._render)
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

    def _next_one(self) -> Patch | Draft:
        if self._pool is None:
            return self._prepare(self._take_index())
        while len(self._waiting) < self._ahead:
            self._waiting.append(self._pool.submit(self._prepare, self._take_index()))
        return self._waiting.popleft().result()

    def _prepare(self, index: int) -> Patch | Draft:
        """Do a thread's share of one patch."""
        if self._render.one_by_one:
            return self._sampler.sample(index)
        draft = self._sampler.draft(index)
        return draft.pinned() if self._render.device.type == "cuda" else draft

    def _take_index(self) -> int:
        index = self._next_index
        self._next_index += self._stride
        return index
