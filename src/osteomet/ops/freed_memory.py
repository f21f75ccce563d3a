"""What happens to freed memory: kept for the next step or tile, or given back for another stage."""

import ctypes
import sys
from collections.abc import Callable

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
LARGEST_MMAP_THRESHOLD = 32 * 2**20
KEPT_BYTES = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell glibc not to give large blocks back to the kernel; return whether it was told.

    By default every tensor of some MB is mapped anew, and its pages are filled with zeros,
    several times a step: up to a fifth of a small network's step, or of its pass over a tile,
    on a CPU. Elsewhere than on glibc nothing happens.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None:
        return False
    settings = (
        (M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD),
        (M_TRIM_THRESHOLD, KEPT_BYTES),
        (M_TOP_PAD, LARGEST_MMAP_THRESHOLD),
    )
    return all(mallopt(name, value) == 1 for name, value in settings)


def give_back_freed_memory() -> bool:
    """Return to the kernel what is freed and was kept; tell whether there was any.

    Each thread has a heap of its own, so that what one kept is of no use to the others. Elsewhere
    than on glibc nothing happens.
    """
    malloc_trim = _of_glibc("malloc_trim")
    return malloc_trim is not None and malloc_trim(0) == 1


def _of_glibc(name: str) -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        function: Callable[..., int] = getattr(ctypes.CDLL("libc.so.6"), name)
    except (OSError, AttributeError):
        return None
    return function
