"""Compiled loops for the CPU where numba is there, and the switch that turns them off.

Every operator of this package also works through torch alone. numba only makes it faster;
``OSTEOMET_NUMBA=0`` in the environment switches it off, as a missing numba does.

Kernels are compiled without numba's own threads. Those crash a process that forks after
use (GNU OpenMP) or that calls a kernel from two threads at once (workqueue), and PyTorch
does both: data loaders fork, and autograd runs backward on a thread of its own. Here a
kernel handles one block of the work, and ``run_blocks`` spreads the blocks over ordinary
threads. What a block adds up never depends on who runs it, so results are the same for
any number of threads.

Large results are allocated by numpy, which asks for huge pages; torch does not, and then the
first touch of the memory costs more than the work.
"""

import importlib
import inspect
import math
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

import numpy as np
import torch
from filelock import FileLock

Function = TypeVar("Function", bound=Callable[..., Any])


def _import_numba() -> ModuleType | None:
    if os.environ.get("OSTEOMET_NUMBA", "1") == "0":
        return None
    try:
        return importlib.import_module("numba")
    except ImportError:  # not installed, or not made for this Python or numpy yet
        return None


_numba = _import_numba()
NUMBA_ENABLED = _numba is not None

FAST_MATH = {"contract", "reassoc", "nsz"}
"""What fast math may do: NaN and infinity keep their meaning, so that divergence shows."""


LOCK_S = 30.0
"""Seconds to wait for another process that reads or writes a compiled loop."""

CACHE_LINE = 64
"""Bytes."""

RANGES_A_THREAD = 4
"""Into how many parts work is cut, so that a thread which is held up does not hold up all."""


def compile_kernel(function: Function, fastmath: bool = True, inline: bool = False) -> Function:
    """Compile a loop over numpy arrays on its first call; without numba, leave it alone.

    Args:
        function: the loop; a decorator where nothing else is given.
        fastmath: fuse and reorder products and sums for vectors. Without it results equal
            those of torch to the last bit.
        inline: put it into the loops that call it: an innermost loop may take no longer than
            its call, which hands over every array number by number.
    """
    if _numba is None:
        return function
    plain = inspect.unwrap(function)  # the shape checker of the tests wraps what it sees
    compile_it = partial(
        _numba.njit,
        nogil=True,
        error_model="numpy",
        fastmath=fastmath and FAST_MATH,
        forceinline=inline,
    )
    try:
        compiled: Function = compile_it(cache=True)(plain)
    except RuntimeError:  # neither the package nor a home folder can be written: no cache
        return cast("Function", compile_it()(plain))
    _take_turns(compiled)
    return compiled


def _take_turns(compiled: Any) -> None:
    """Let processes take turns where a compiled loop is kept.

    numba counts the files there, lists them, and writes the new one after its list: of two
    processes that compile at once, one may read what the other has not written yet, in a file left
    by an older loop (numba issue 10128 is such a case). Processes that train together, and workers
    that predict, compile at once when they run for the first time.
    """
    cache = compiled._cache
    lock = FileLock(Path(cache.cache_path) / ".osteomet.lock", timeout=LOCK_S)

    def in_turn(work: Callable[..., Any]) -> Callable[..., Any]:
        def work_alone(*arguments: Any) -> Any:
            try:
                lock.acquire()
            except (OSError, NotImplementedError):  # a folder without locks, or a stopped process
                return work(*arguments)
            try:
                return work(*arguments)
            finally:
                lock.release()

        return work_alone

    cache.load_overload = in_turn(cache.load_overload)
    cache.save_overload = in_turn(cache.save_overload)


def uses_numba(*tensors: torch.Tensor) -> bool:
    """Return whether kernels, which compute in float32, can replace torch for these tensors."""
    for tensor in tensors:
        if tensor.device.type != "cpu" or tensor.dtype == torch.float64:
            return False
    return NUMBA_ENABLED


def channels_last_array(features: torch.Tensor) -> np.ndarray:
    """Return ``(b, c, z, y, x)`` features as ``(b, z, y, x, c)``: a view where memory allows."""
    moved = features.detach().movedim(1, -1)
    if moved.is_contiguous():
        view: np.ndarray = moved.numpy()
        return view
    array = np.empty(moved.shape, np.float32)
    torch.from_numpy(array).copy_(moved)
    return array


def aligned_array(shape: tuple[int, ...]) -> np.ndarray:
    """Return float32 numbers, not set, that start on a cache line, as torch's own memory does.

    A matrix product adds up in an order that follows from how its operands lie on cache lines.
    numpy promises 16 bytes only, and then the same run in another process, or resumed, would
    differ in the last bit.
    """
    count = math.prod(shape)
    raw = np.empty(count + CACHE_LINE // 4, np.float32)
    start = -raw.ctypes.data % CACHE_LINE // 4
    array: np.ndarray = raw[start : start + count].reshape(shape)
    return array


def run_blocks(
    kernel: Callable[..., None], count: int, *arguments: object, max_threads: int | None = None
) -> None:
    """Call ``kernel(block, *arguments)`` for every block in ``range(count)``.

    Blocks run on as many threads as torch uses, or ``max_threads`` if that is less, and must
    not write to the same memory. Calls from several threads at once, and after a fork, are
    safe.
    """
    blocks = _SharedRange(count)

    def work() -> None:
        for block in blocks:
            kernel(block, *arguments)

    helpers = min(max_threads or count, torch.get_num_threads(), count) - 1
    waiting = [_pool().submit(work) for _ in range(helpers)]
    work()
    for future in waiting:
        if not future.cancel():  # else it never started, and its blocks are done
            future.result()


def run_ranges(
    kernel: Callable[..., None], count: int, *arguments: object, max_threads: int | None = None
) -> None:
    """Call ``kernel(first, last, *arguments)`` for ranges that together are ``range(count)``.

    As ``run_blocks``, for blocks that take no longer than a call of a compiled loop.
    """
    threads = min(max_threads or count, torch.get_num_threads())
    if threads <= 1:
        kernel(0, count, *arguments)
        return
    parts = min(count, RANGES_A_THREAD * threads)

    def run(part: int) -> None:
        kernel(part * count // parts, (part + 1) * count // parts, *arguments)

    run_blocks(run, parts, max_threads=max_threads)


class _SharedRange:
    """The numbers below ``count``, each given once, to whichever thread asks first."""

    def __init__(self, count: int) -> None:
        self._left = iter(range(count))
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[int]:
        while True:
            with self._lock:
                block = next(self._left, None)
            if block is None:
                return
            yield block


_pools: dict[int, ThreadPoolExecutor] = {}


def _pool() -> ThreadPoolExecutor:
    """Return the threads of this process; a fork inherits none, so each has its own."""
    pid = os.getpid()
    pool = _pools.get(pid)
    if pool is None:
        pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="osteomet-ops")
        _pools[pid] = pool
    return pool
