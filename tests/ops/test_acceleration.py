"""The switch, the threads and the cache of compiled loops."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from osteomet.ops.acceleration import (
    NUMBA_ENABLED,
    channels_last_array,
    run_blocks,
    run_ranges,
)
from osteomet.ops.depthwise_conv import weight_gradient

needs_numba = pytest.mark.skipif(not NUMBA_ENABLED, reason="numba is not installed or off")


def run_python(code: str, **environment: str) -> str:
    """Run ``code`` in a process of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_the_environment_switches_numba_off() -> None:
    code = (
        "import sys, torch; from osteomet.ops import nms, roi_align, depthwise_conv\n"
        "kept = nms.nms(torch.eye(6)[:, [3, 4, 5, 0, 1, 2]], torch.ones(6), 0.5)\n"
        "print(len(kept), 'numba' in sys.modules)"
    )
    assert run_python(code, OSTEOMET_NUMBA="0") == "6 False"


@needs_numba
def test_kernels_compile_where_no_cache_can_be_written() -> None:
    """Without a folder for its cache numba refuses to cache; the kernel must not care."""
    code = (
        "import numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "import osteomet.ops.nms as nms, torch\n"
        "print(nms.nms(torch.tensor([[0., 0, 0, 1, 1, 1]]), torch.ones(1), 0.5).tolist())"
    )
    assert run_python(code) == "[0]"


@needs_numba
def test_processes_take_turns_at_the_cache(tmp_path: Path) -> None:
    """A process that reads or writes a compiled loop waits for one that holds the lock."""
    code = (
        "import pathlib, sys, time, numpy as np\n"
        "from filelock import FileLock\n"
        "from osteomet.ops.nms import _take_greedily as kernel\n"
        "lock = FileLock(pathlib.Path(kernel._cache.cache_path) / '.osteomet.lock', timeout=0)\n"
        "held = []\n"
        "look = kernel._cache._cache_file.load\n"
        "def load(key):\n"
        "    try:\n"
        "        lock.acquire(); lock.release(); held.append(False)\n"
        "    except TimeoutError:\n"
        "        held.append(True)\n"
        "    return look(key)\n"
        "kernel._cache._cache_file.load = load\n"
        "import osteomet.ops.nms as nms, torch\n"
        "nms.nms(torch.tensor([[0., 0, 0, 1, 1, 1]]), torch.ones(1), 0.5)\n"
        "print(held)"
    )
    assert run_python(code, NUMBA_CACHE_DIR=str(tmp_path)) == "[True]"


@pytest.mark.parametrize("threads", [1, 3])
def test_every_block_runs_once(threads: int) -> None:
    before, seen = torch.get_num_threads(), np.zeros(50, int)
    try:
        torch.set_num_threads(threads)
        run_blocks(lambda block: np.add.at(seen, block, 1), 50)
        run_blocks(lambda block: np.add.at(seen, block, 1), 0)
    finally:
        torch.set_num_threads(before)
    assert (seen == 1).all()


@pytest.mark.parametrize("count", [0, 1, 5, 50])
@pytest.mark.parametrize("threads", [1, 3])
def test_ranges_cover_every_block_once(threads: int, count: int) -> None:
    before, seen = torch.get_num_threads(), np.zeros(count, int)

    def add(first: int, last: int, amount: int) -> None:
        seen[first:last] += amount

    try:
        torch.set_num_threads(threads)
        run_ranges(add, count, 2)
        run_ranges(add, count, 1, max_threads=1)
    finally:
        torch.set_num_threads(before)
    assert (seen == 3).all()


def test_an_error_in_a_block_is_raised() -> None:
    def fail(block: int) -> None:
        raise ArithmeticError(block)

    with pytest.raises(ArithmeticError):
        run_blocks(fail, 5)


@needs_numba
def test_kernels_may_be_called_from_many_threads() -> None:
    x = torch.randn(1, 32, 5, 5, 5, generator=torch.Generator().manual_seed(0))
    expected, results = weight_gradient(x, x), []
    threads = [
        threading.Thread(target=lambda: results.append(weight_gradient(x, x))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(torch.equal(result, expected) for result in results)


@needs_numba
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_kernels_work_after_a_fork() -> None:
    """A data loader's worker is a fork, in which the threads of its parent are gone."""
    code = (
        "import os, torch; from osteomet.ops.depthwise_conv import weight_gradient\n"
        "torch.set_num_threads(2)\n"
        "x = torch.ones(1, 32, 3, 3, 3); weight_gradient(x, x)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    torch.set_num_threads(2)\n"
        "    os._exit(round(weight_gradient(x, x)[0, 0, 3, 3, 3].item()))\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    assert run_python(code) == "27"


def test_channels_last_array_is_a_view_where_it_can_be() -> None:
    x = torch.randn(2, 3, 4, 5, 6)
    assert np.array_equal(channels_last_array(x), x.movedim(1, -1).numpy())
    view = channels_last_array(x.to(memory_format=torch.channels_last_3d))
    assert view.base is not None
    assert np.array_equal(view, x.movedim(1, -1).numpy())
