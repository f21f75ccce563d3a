"""Engines: every task is answered or lost, a dead worker takes no other's task with it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from toy_workers import make_nothing, make_toy

from osteomet.errors import CheckpointError, ConfigError
from osteomet.inference.engine_choice import choose_engine
from osteomet.inference.engines import Lost, in_this_process
from osteomet.inference.engines_local import in_processes

Task = tuple[str, Path]


def source(words: Sequence[str], folder: Path) -> Callable[[], Task | None]:
    left = [(word, folder) for word in words]
    return lambda: left.pop(0) if left else None


def test_here_one_task_follows_the_other(tmp_path: Path) -> None:
    done = list(in_this_process(make_toy, source(["a", "b"], tmp_path)))
    assert [task[0] for task, _ in done] == ["a", "b"]
    assert {answer for _, answer in done} == {os.getpid()}


def test_nothing_to_do_starts_nothing() -> None:
    assert list(in_processes(make_nothing, lambda: None, workers=2)) == []


def test_a_killed_worker_loses_its_task_and_no_other(tmp_path: Path) -> None:
    words = ["a", "die", "b", "exit", "c", "d"]
    done = {
        task[0]: answer
        for task, answer in in_processes(make_toy, source(words, tmp_path), workers=2)
    }
    assert done["die"] == Lost("was killed by SIGKILL")
    assert done["exit"] == Lost("ended with exit code 3")
    alive = {done[word] for word in "abcd"}
    assert os.getpid() not in alive
    # Two processes, and one in the place of each that died, at most.
    assert 1 <= len(alive) <= 4
    assert not [pid for pid in alive if is_running(int(str(pid)))]


def test_a_worker_is_made_once_for_many_tasks(tmp_path: Path) -> None:
    list(in_processes(make_toy, source(["a", "b", "c"], tmp_path), workers=1))
    (pid,) = {path.name.split("-")[2] for path in tmp_path.iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == {f"a-1-{pid}", f"b-2-{pid}", f"c-3-{pid}"}


def test_new_tasks_may_follow_from_answers(tmp_path: Path) -> None:
    left = [("a", tmp_path)]
    seen = []
    for task, _ in in_processes(make_toy, lambda: left.pop() if left else None, workers=2):
        seen.append(task[0])
        if len(seen) < 3:
            left.append((task[0] + "a", tmp_path))
    assert seen == ["a", "aa", "aaa"]


def test_a_worker_that_cannot_start_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        list(in_processes(make_nothing, source(["a", "b"], tmp_path), workers=2))


def test_who_stops_asking_leaves_no_process(tmp_path: Path) -> None:
    answers = in_processes(make_toy, source(["a", "wait"], tmp_path), workers=2)
    next(answers)
    answers.close()
    assert not [pid for pid in pids(tmp_path) if is_running(pid)]


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path\n"
        "from toy_workers import make_toy\n"
        "from osteomet.inference.engines_local import in_processes\n"
        "if __name__ == '__main__':\n"
        f"    left = [('wait', Path({str(tmp_path)!r}))] * 2\n"
        "    list(in_processes(make_toy, lambda: left.pop() if left else None, workers=2))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen([sys.executable, "-c", script], env=environment) as driver:
        wait_until(lambda: len(pids(tmp_path)) == 2)
        driver.send_signal(signal.SIGKILL)
    wait_until(lambda: not [pid for pid in pids(tmp_path) if is_running(pid)])


def test_a_user_names_an_engine() -> None:
    assert choose_engine("local") == (in_this_process, None)
    with pytest.raises(ConfigError, match="expected one of local, ray"):
        choose_engine("dask")
    with pytest.raises(ConfigError, match="is for --engine ray"):
        choose_engine("local", address="auto")
    _, threads = choose_engine("local", workers=10_000)
    assert threads == 1


def pids(folder: Path) -> list[int]:
    return [int(path.name.split("-")[2]) for path in folder.iterdir() if "-" in path.name]


def is_running(pid: int) -> bool:
    """Tell whether a process works; one that ended and waits to be noticed does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(true: Callable[[], bool], seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
