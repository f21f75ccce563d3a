"""Memory that processes share, and systems that have none."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import distributed

from osteomet.training.shared_memory import open_shared_rows

needs_memory = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="this system has no memory as files"
)


@pytest.fixture(autouse=True)
def one_process(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


@needs_memory
def test_rows_of_zeros_that_leave_no_file_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    rows = open_shared_rows(3, 100)
    assert rows is not None
    assert rows.shape == (3, 100)
    assert not rows.any()
    rows[1] = 2
    assert rows.sum() == 200
    # mmap keeps one for itself
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_a_system_without_memory_as_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    assert open_shared_rows(3, 100) is None


@needs_memory
def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", is_full)
    before = len(os.listdir("/proc/self/fd"))
    assert open_shared_rows(3, 100) is None
    assert len(os.listdir("/proc/self/fd")) == before


@needs_memory
def test_processes_that_do_not_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 2**30)  # no process has this number
    assert open_shared_rows(3, 100) is None
