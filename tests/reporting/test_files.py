"""A result is whole or absent."""

import os
import stat
from pathlib import Path

import pytest

from osteomet.errors import ReportError
from osteomet.reporting.files import write_atomically


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]
    umask = os.umask(0o022)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_a_failed_move_leaves_nothing_behind(tmp_path: Path) -> None:
    blocked = tmp_path / "result.json"
    (blocked / "inside").mkdir(parents=True)
    with pytest.raises(ReportError, match=r"result\.json: cannot be written"):
        write_atomically(blocked, b"one")
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
