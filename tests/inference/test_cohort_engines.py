"""A cohort spread over workers: the same files, and nothing twice, whatever is killed."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from blobs import CENTRE, patient
from test_engines import is_running, wait_until
from watched_predictor import WatchedPredictor

from osteomet.data.manifest import read_cohort
from osteomet.inference.cohort import predict_cohort
from osteomet.inference.cohort_scan import State
from osteomet.inference.engines_local import in_processes
from osteomet.io.volumes import write_volume

HEADER = "patient_id,image,mask,centre,primary,scan_id,split,mask_kind\n"
SCANS = {"s1": "p1", "s2": "p1", "s3": "p2", "s4": "p3"}

TIMES = ("started_utc", "seconds", "peak_memory_mb")
"""Of the provenance: all that may differ. The page has them in one row of its table."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums may come out otherwise with other numbers of threads; workers get one each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans of one patient, whose lesions differ, and two of others; the last cannot be read."""
    folder = tmp_path_factory.mktemp("cohort")
    volume = patient((3.0, 2.0, 2.0))
    write_volume(folder / "a.nii", volume)
    z = round(CENTRE[2] / 3.0)
    volume.voxels[:z][volume.voxels[:z] > 700] = 400
    write_volume(folder / "b.nii", volume)
    (folder / "broken.nii").write_bytes(b"no image")
    images = {"s1": "a.nii", "s2": "b.nii", "s3": "a.nii", "s4": "broken.nii"}
    rows = [f"{SCANS[scan]},{image},,A,other,{scan},test,none\n" for scan, image in images.items()]
    (folder / "cohort.csv").write_text(HEADER + "".join(rows))
    return folder / "cohort.csv"


@pytest.fixture(scope="module")
def alone(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what one process makes of it."""
    watch = tmp_path_factory.mktemp("watch")
    out = tmp_path_factory.mktemp("alone")
    outcomes = predict_cohort(read_cohort(cohort).cases, out, partial(WatchedPredictor, watch))
    assert [outcome.state for outcome in outcomes] == [State.FINISHED] * 3 + [State.FAILED]
    return out


def log(watch: Path) -> list[tuple[str, int]]:
    """Return which scan was begun by which process."""
    path = watch / "log"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(line.split()[0], int(line.split()[1])) for line in lines]


def contents(out: Path) -> dict[str, bytes]:
    """Return the bytes of all results, times taken out."""
    found = {}
    for path in sorted(path for scan in ("s1", "s2", "s3") for path in (out / scan).iterdir()):
        content = path.read_bytes()
        if path.name == "findings.json":
            findings = json.loads(content)
            for name in TIMES:
                del findings["provenance"][name]
            content = json.dumps(findings).encode()
        if path.name == "report.html":
            content, rows = re.subn(rb'<th scope="row">Run</th><td>[^<]*</td>', b"", content)
            assert rows == 1
        found[str(path.relative_to(out))] = content
    return found


@contextmanager
def killed_in_the_middle(watch: Path, scan: str) -> Iterator[None]:
    """Kill the first process that works on a scan, then let the scan go on."""
    hold = watch / f"hold-{scan}"
    hold.touch()

    def kill() -> None:
        wait_until(lambda: scan in dict(log(watch)))
        os.kill(dict(log(watch))[scan], signal.SIGKILL)
        hold.unlink()

    killer = threading.Thread(target=kill)
    killer.start()
    yield
    killer.join()


def test_a_killed_worker_changes_nothing(cohort: Path, alone: Path, tmp_path: Path) -> None:
    watch, out = tmp_path / "watch", tmp_path / "out"
    watch.mkdir()
    with killed_in_the_middle(watch, "s2"):
        outcomes = predict_cohort(
            read_cohort(cohort).cases,
            out,
            partial(WatchedPredictor, watch),
            engine=partial(in_processes, workers=2),
            threads=1,
        )
    assert [outcome.state for outcome in outcomes] == [State.FINISHED] * 3 + [State.FAILED]
    # s4 fails as a file does, and is not tried again as a lost worker is.
    assert Counter(scan for scan, _ in log(watch)) == {"s1": 1, "s2": 2, "s3": 1, "s4": 1}
    assert contents(out) == contents(alone)
    assert len(contents(out)) == 12
    assert {path.name for path in out.iterdir()} == {
        "s1", "s2", "s3", ".lesions", "predictions.csv",
    }  # fmt: skip
    workers = {pid for _, pid in log(watch)}
    assert len([path for path in watch.iterdir() if path.name.startswith("made.")]) == 3
    assert len(workers) <= 3


def test_a_killed_driver_is_taken_up_where_it_was(
    cohort: Path, alone: Path, tmp_path: Path
) -> None:
    watch, out = tmp_path / "watch", tmp_path / "out"
    watch.mkdir()
    (watch / "hold-s3").touch()
    script = Path(__file__).parent / "watched_predictor.py"
    command = [sys.executable, str(script), str(cohort), str(out), str(watch)]
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) as driver:
        wait_until(lambda: (out / "s1").exists() and (out / "s2").exists())
        wait_until(lambda: "s3" in dict(log(watch)))
        driver.kill()
    wait_until(lambda: not [pid for _, pid in log(watch) if is_running(pid)])
    (watch / "hold-s3").unlink()
    before = Counter(scan for scan, _ in log(watch))
    assert (before["s1"], before["s2"], before["s3"]) == (1, 1, 1)
    times = {path: path.stat().st_mtime_ns for path in (out / "s1").iterdir()}
    outcomes = predict_cohort(read_cohort(cohort).cases, out, partial(WatchedPredictor, watch))
    assert [outcome.state.value for outcome in outcomes] == ["kept", "kept", "finished", "failed"]
    after = Counter(scan for scan, _ in log(watch)) - before
    assert after == {"s3": 1, "s4": 1}
    assert times == {path: path.stat().st_mtime_ns for path in (out / "s1").iterdir()}
    assert contents(out) == contents(alone)
