"""A store is filled once, never mixes settings, survives a kill, and loses no scan to another."""

import fcntl
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from phantom_scans import LESIONS, SHAPE, lesion_map, scan_volume, write_case

from osteomet.config import Config
from osteomet.data import prepare, prepared_scan
from osteomet.data.content import KNOWN
from osteomet.data.manifest import Case, MaskKind
from osteomet.data.prepare import Preparation, prepare_cohort, prepare_scans
from osteomet.data.store import build_store
from osteomet.errors import AnnotationError, InputError, OsteometError, StoreError
from osteomet.findings import PrimaryTumour
from osteomet.io.scan import read_scan
from osteomet.io.volumes import write_labels, write_volume


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return write_case(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def scan_folders(store: Path) -> list[Path]:
    return sorted(path for path in store.iterdir() if path.name != KNOWN)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images read, as they are read."""
    names = []

    def record(path: Path) -> object:
        names.append(path.name)
        return read_scan(path)

    monkeypatch.setattr(prepared_scan, "read_scan", record)
    return names


def test_a_second_build_reads_nothing(case: Case, folder: Path, reads: list[str]) -> None:
    first = build_store([case], folder, 1.0)
    again = build_store([case], folder, 1.0)
    assert reads == ["a.nii"]
    assert again.scans[0].folder == first.scans[0].folder


@pytest.mark.parametrize("change", ["spacing", "mask", "image", "mask_kind", "format"])
def test_what_was_made_otherwise_is_never_read(
    case: Case, folder: Path, reads: list[str], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_store([case], folder, 1.0)
    spacing_mm = 1.0
    if change == "spacing":
        spacing_mm = 2.0
    elif change == "mask":
        labels = lesion_map(LESIONS[:1])
        write_labels(case.mask or Path(), scan_volume(labels).with_voxels(labels))
    elif change == "image":
        write_volume(case.image, scan_volume(lesion_map(LESIONS[:2])))
    elif change == "mask_kind":
        case = replace(case, mask_kind=MaskKind.INSTANCE)
    else:
        monkeypatch.setattr(prepared_scan, "FORMAT", 999)
    (scan,) = build_store([case], folder, spacing_mm).scans
    assert reads == ["a.nii", "a.nii"]
    assert len(scan.lesions) == (1 if change == "mask" else 3)
    assert scan.shape == ((28, 24, 20) if change == "spacing" else SHAPE)


def test_what_is_known_of_a_patient_may_change_without_another_build(
    case: Case, folder: Path, reads: list[str]
) -> None:
    build_store([case], folder, 1.0)
    other = replace(case, primary=PrimaryTumour.OTHER, split="val")
    assert build_store([other], folder, 1.0).scans[0].case.primary is PrimaryTumour.OTHER
    assert reads == ["a.nii"]


def test_a_build_that_is_stopped_goes_on_where_it_was(
    tmp_path: Path, folder: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [write_case(tmp_path, name) for name in "abc"]
    with monkeypatch.context() as patch:
        write = prepared_scan._write_folder

        def stop_at_second(*arguments: object) -> None:
            if len(reads) == 2:
                raise KeyboardInterrupt
            write(*arguments)  # type: ignore[arg-type]

        patch.setattr(prepared_scan, "_write_folder", stop_at_second)
        with pytest.raises(KeyboardInterrupt):
            build_store(cases, folder, 1.0)
    assert [path.name[0] for path in scan_folders(folder)] == ["a"]
    reads.clear()
    store = build_store(cases, folder, 1.0)
    assert reads == ["b.nii", "c.nii"]
    assert [scan.case.scan_id for scan in store.scans] == ["a", "b", "c"]


def test_what_a_killed_run_left_is_removed_and_what_is_at_work_is_not(
    case: Case, folder: Path
) -> None:
    ages_s = {"dead": 60.0, "young": 0.0, "at_work": 60.0, "unlocked": 60.0, "old": 2 * 24 * 3600.0}
    for name, age_s in ages_s.items():
        (folder / f".partial-{name}").mkdir(parents=True)
        if name not in {"unlocked", "old"}:
            (folder / f".partial-{name}" / prepared_scan.LOCK).touch()
        os.utime(folder / f".partial-{name}", (time.time() - age_s,) * 2)
    with (folder / ".partial-at_work" / prepared_scan.LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        build_store([case], folder, 1.0)
    left = {path.name.removeprefix(".partial-") for path in folder.glob(".partial-*")}
    assert left == {"young", "at_work", "unlocked"}


def test_two_builds_at_once_agree(case: Case, folder: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: build_store([case], folder, 1.0), range(4)))
    assert len({store.scans[0].folder for store in stores}) == 1
    assert len(scan_folders(folder)) == 1


def test_a_fault_names_its_scan(tmp_path: Path, folder: Path) -> None:
    good, bad = write_case(tmp_path, "good"), write_case(tmp_path, "bad")
    assert bad.mask is not None
    bad.image.write_bytes(b"not an image")
    with pytest.raises(InputError, match="scan 'bad': "):
        build_store([good, bad], folder, 1.0)
    bad.image.unlink()
    with pytest.raises(InputError, match=r"scan 'bad': .*cannot be read"):
        build_store([bad], folder, 1.0)
    labels = lesion_map(shape=(5, 48, 40))
    write_labels(bad.mask, scan_volume(labels).with_voxels(labels))
    bad = replace(bad, image=good.image)
    with pytest.raises(AnnotationError, match=r"scan 'bad': .*scan's own grid"):
        build_store([bad], folder, 1.0)


def test_names_that_no_folder_can_have(case: Case, folder: Path) -> None:
    awkward = replace(case, scan_id="../a/b: c")
    (scan,) = build_store([awkward], folder, 1.0).scans
    assert scan.folder.parent == folder


def write_cohort(folder: Path, names: str) -> Path:
    rows = ["patient_id,image,mask,centre,primary"]
    for name in names:
        case = write_case(folder, name)
        rows.append(f"{name},{case.image.name},{name}_mask.nii,A,lung")
    path = folder / "cohort.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def prepared(path: Path, workers: int = 1) -> tuple[Preparation, list[str]]:
    errors: list[OsteometError] = []
    found = prepare_cohort(path, Config(), workers=workers, report=errors.append)
    return found, [str(error) for error in errors]


def test_a_cohort_is_prepared_once_whatever_is_wrong_with_some(tmp_path: Path) -> None:
    path = write_cohort(tmp_path, "abc")
    (tmp_path / "b.nii").write_bytes(b"not an image")
    with path.open("a", encoding="utf-8") as file:
        file.write("d,none.nii,a_mask.nii,A,lung\n")
    first, errors = prepared(path)
    assert (first.done, first.kept, first.failed) == (2, 0, 2)
    assert "none.nii" in errors[0]
    assert errors[1].startswith("scan 'b': ")
    assert len(errors) == 2
    folders = scan_folders(tmp_path / prepare.STORE_FOLDER)
    assert [one.name[0] for one in folders] == ["a", "c"]
    size = sum(file.stat().st_size for one in folders for file in one.iterdir())
    assert first.size_mb == pytest.approx(size / 1e6)
    again, _ = prepared(path)
    assert (again.done, again.kept, again.failed) == (0, 2, 2)


def test_processes_give_the_same_bytes_in_the_same_order(tmp_path: Path) -> None:
    cases = [write_case(tmp_path, name) for name in "cba"]
    seen: list[tuple[int, int]] = []
    alone = build_store(cases, tmp_path / "one", 1.0)
    together = build_store(
        cases, tmp_path / "two", 1.0, workers=2, progress=lambda *at: seen.append(at)
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert [scan.case.scan_id for scan in together.scans] == list("cba")
    for one, other in zip(alone.scans, together.scans, strict=True):
        assert one.folder.name == other.folder.name
        for file in one.folder.iterdir():
            assert file.read_bytes() == (other.folder / file.name).read_bytes()


def test_a_surprise_is_one_scans_error(
    case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def surprise(path: Path) -> None:
        raise MemoryError("too large")

    monkeypatch.setattr(prepared_scan, "read_scan", surprise)
    (one,) = prepare_scans([case], folder, 1.0)
    assert str(one.error) == f"scan 'a': {case.image}: MemoryError: too large"


@contextmanager
def small_files() -> Iterator[None]:
    """Let the system refuse what is larger than a few kB, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_stops_the_run_and_leaves_no_half_scan(case: Case, folder: Path) -> None:
    cases = [case, replace(case, scan_id="b")]
    with small_files(), pytest.raises(StoreError, match=r"cannot be written .*room for"):
        list(prepare_scans(cases, folder, 1.0))
    assert scan_folders(folder) == []


def test_a_place_that_cannot_be_written(case: Case, folder: Path) -> None:
    folder.write_bytes(b"")
    with pytest.raises(StoreError, match="cannot be made"):
        list(prepare_scans([case], folder, 1.0))


HALF_WAY = """
import os, sys, time
from pathlib import Path
from osteomet.config import Config
from osteomet.data import prepared_scan
from osteomet.data.prepare import prepare_cohort

def stay(handle):
    Path(sys.argv[2], str(os.getpid())).touch()
    time.sleep(120)

prepared_scan.os.fsync = stay  # in the workers too, which run this file again
if __name__ == "__main__":
    prepare_cohort(Path(sys.argv[1]), Config(), workers=2)
"""


def wait_for(condition: Callable[[], bool], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2]
    except FileNotFoundError:
        return False
    return state.split()[0] != "Z"


def test_a_killed_run_leaves_no_half_scan_and_no_process(tmp_path: Path) -> None:
    path, script, marks = write_cohort(tmp_path, "ab"), tmp_path / "half_way.py", tmp_path / "marks"
    script.write_text(HALF_WAY, encoding="utf-8")
    marks.mkdir()
    run = subprocess.Popen([sys.executable, str(script), str(path), str(marks)])
    try:
        wait_for(lambda: len(list(marks.iterdir())) == 2)
        workers = [int(mark.name) for mark in marks.iterdir()]
        assert run.pid not in workers
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    wait_for(lambda: not any(runs(worker) for worker in workers))
    store = tmp_path / prepare.STORE_FOLDER
    assert len(list(store.glob(".partial-*"))) == 2
    assert scan_folders(store) == sorted(store.glob(".partial-*"))
    for left in store.glob(".partial-*"):
        # A process counts as dead a moment before the last of its threads lets go of its files.
        wait_for(lambda left=left: not prepared_scan._is_locked(left))
        os.utime(left, (time.time() - 60,) * 2)
    found, errors = prepared(path)
    assert (found.done, found.kept, errors) == (2, 0, [])
    assert [one.name[0] for one in scan_folders(store)] == ["a", "b"]


def die(*_: object, **__: object) -> None:
    os._exit(9)


def test_a_killed_worker_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "_prepare_numbered", die)
    with pytest.raises(InputError, match="fewer workers: what was prepared is kept"):
        prepared(write_cohort(tmp_path, "ab"), workers=2)
