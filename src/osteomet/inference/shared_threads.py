"""Pieces of a scan side by side on the cores of a CPU.

Threads that share one tile wait for each other after every layer. Threads that each have a tile of
their own wait once, at the end of the scan.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

MOST_AT_ONCE = 4
"""Each tile in work takes some hundred MB, so that many cores share fewer tiles."""


@contextmanager
def sharing_threads(jobs: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yield a ``map`` whose calls run at once, and share torch's threads between them.

    Results come in order. Where one thread or one job is all there is, it is Python's own.

    Args:
        jobs: how many calls there will be.
    """
    threads = torch.get_num_threads()
    at_once = min(threads, jobs, MOST_AT_ONCE)
    if at_once <= 1:
        yield map
        return
    # torch keeps the number a thread, but hands new threads the last one that was set.
    share = (threads // at_once,)
    pool = ThreadPoolExecutor(at_once, "osteomet-scan", torch.set_num_threads, share)
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
