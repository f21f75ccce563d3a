"""A digest follows what files hold, not where they are or when they were touched."""

import os
import shutil
from pathlib import Path

import pytest

from osteomet.data import content
from osteomet.data.content import content_digest
from osteomet.errors import InputError, StoreError


@pytest.fixture
def series(tmp_path: Path) -> Path:
    folder = tmp_path / "series"
    (folder / "deeper").mkdir(parents=True)
    for name in ("1.dcm", "deeper/2.dcm"):
        (folder / name).write_bytes(name.encode())
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_nothing_has_no_digest(store: Path) -> None:
    assert content_digest(None, store) is None
    assert not store.exists()


def test_copies_and_touched_files_are_the_same(series: Path, store: Path) -> None:
    digest = content_digest(series, store)
    copy = shutil.copytree(series, series.with_name("copy"))
    assert content_digest(copy, store) == digest
    os.utime(series / "1.dcm", ns=(0, 5))
    assert content_digest(series, store) == digest


@pytest.mark.parametrize("change", ["byte", "name", "more", "less"])
def test_another_content_is_another_digest(series: Path, store: Path, change: str) -> None:
    digest = content_digest(series, store)
    if change == "byte":
        (series / "1.dcm").write_bytes(b"2.dcm")
    elif change == "name":
        (series / "1.dcm").rename(series / "3.dcm")
    elif change == "more":
        (series / "3.dcm").write_bytes(b"")
    else:
        (series / "1.dcm").unlink()
    assert content_digest(series, store) != digest


def test_a_file_may_have_another_name_but_not_another_format(tmp_path: Path, store: Path) -> None:
    digests = []
    for name in ("a.nii", "b.nii", "a.mha"):
        (tmp_path / name).write_bytes(b"same")
        digests.append(content_digest(tmp_path / name, store))
    assert digests[0] == digests[1] != digests[2]


def test_what_has_not_changed_is_not_read_again(
    series: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = content_digest(series, store)
    monkeypatch.setattr(content, "_digest", None)
    assert content_digest(series, store) == digest


def test_faults(tmp_path: Path, series: Path, store: Path) -> None:
    with pytest.raises(InputError, match="none: cannot be read"):
        content_digest(tmp_path / "none", store)
    store.write_bytes(b"a file where the folder should be")
    with pytest.raises(StoreError, match="cannot be written"):
        content_digest(series, store)
