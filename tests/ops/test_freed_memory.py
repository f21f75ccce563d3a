import platform
import subprocess
import sys

import pytest

from osteomet.ops.freed_memory import give_back_freed_memory, keep_freed_memory

GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")


@GLIBC
def test_glibc_takes_every_setting() -> None:
    assert keep_freed_memory()


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert not keep_freed_memory()
    assert not give_back_freed_memory()


RESIDENT_MB = """
import sys
from pathlib import Path
from threading import Thread

import numpy as np

from osteomet.ops.freed_memory import give_back_freed_memory, keep_freed_memory


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def fill() -> None:
    held = [np.ones(2**20, np.uint8) for _ in range(200)]
    pin.append(np.ones(2**20, np.uint8))  # above all others in the thread's heap


keep_freed_memory()
before, pin = resident_mb(), []
thread = Thread(target=fill)
thread.start()
thread.join()
kept = resident_mb() - before
give_back_freed_memory()
print(kept, resident_mb() - before)
"""


@GLIBC
def test_what_another_thread_kept_is_given_back() -> None:
    command = [sys.executable, "-c", RESIDENT_MB]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    kept, left = map(float, done.stdout.split())
    assert kept > 190
    assert left < 40
