"""A Ray cluster of two machines, both here: the guarantees of the other engines hold."""

import importlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import test_cohort_engines as spread
from test_engines import is_running, source, wait_until
from toy_workers import make_nothing, make_toy
from watched_predictor import WatchedPredictor

from osteomet.data.manifest import read_cohort
from osteomet.errors import CheckpointError, ConfigError
from osteomet.inference import engines_ray
from osteomet.inference.cohort import predict_cohort
from osteomet.inference.engines import Lost
from osteomet.inference.engines_ray import on_ray

WHY = "ray is not installed; pip install 'osteomet[scale]'"
NODE = {
    "num_cpus": 1,
    "memory": 2_000_000_000,
    "object_store_memory": 100_000_000,
    "include_dashboard": False,
}

alone, cohort, one_thread = spread.alone, spread.cohort, spread.one_thread


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Start two machines of one processor each."""
    ray = pytest.importorskip("ray", reason=WHY)
    clusters = importlib.import_module("ray.cluster_utils")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in engines_ray.SETTINGS.items():
            patch.setenv(name, value)
        # Workers are processes of the cluster and find the tests' modules by this alone.
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        cluster = clusters.Cluster(initialize_head=True, head_node_args=NODE)
        cluster.add_node(**NODE)
        yield cluster.address
        ray.shutdown()
        cluster.shutdown()


def test_a_killed_worker_loses_its_task_and_no_other(address: str, tmp_path: Path) -> None:
    words = ["a", "die", "b", "c"]
    tasks = on_ray(make_toy, source(words, tmp_path), address=address, memory_gb=0.5)
    done = {task[0]: answer for task, answer in tasks}
    assert done["die"] == Lost("was lost (WorkerCrashedError)")
    assert len({done[word] for word in "abc"}) <= 3
    with pytest.raises(CheckpointError, match="cannot be read"):
        list(on_ray(make_nothing, source(["a"], tmp_path), address=address, memory_gb=0.5))


def test_workers_that_fit_nowhere_are_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no machine of the Ray cluster has what one worker"):
        list(on_ray(make_toy, source(["a"], tmp_path), address=address, memory_gb=1e6))


def test_a_cohort_on_a_cluster_gives_what_one_process_gives(
    address: str, cohort: Path, alone: Path, tmp_path: Path
) -> None:
    watch, out = tmp_path / "watch", tmp_path / "out"
    watch.mkdir()
    with spread.killed_in_the_middle(watch, "s2"):
        outcomes = predict_cohort(
            read_cohort(cohort).cases,
            out,
            partial(WatchedPredictor, watch),
            engine=partial(on_ray, address=address, memory_gb=0.5),
            threads=1,
        )
    assert [outcome.state.value for outcome in outcomes] == ["finished"] * 3 + ["failed"]
    assert Counter(scan for scan, _ in spread.log(watch)) == {"s1": 1, "s2": 2, "s3": 1, "s4": 1}
    assert spread.contents(out) == spread.contents(alone)


def test_a_killed_driver_is_taken_up_where_it_was(
    address: str, cohort: Path, alone: Path, tmp_path: Path
) -> None:
    watch, out = tmp_path / "watch", tmp_path / "out"
    watch.mkdir()
    (watch / "hold-s3").touch()
    script = Path(__file__).parent / "watched_predictor.py"
    command = [sys.executable, str(script), str(cohort), str(out), str(watch), address]
    with subprocess.Popen(command, env=os.environ.copy()) as driver:
        wait_until(lambda: (out / "s1").exists() and (out / "s2").exists())
        wait_until(lambda: "s3" in dict(spread.log(watch)))
        driver.kill()
    wait_until(lambda: not [pid for _, pid in spread.log(watch) if is_running(pid)])
    (watch / "hold-s3").unlink()
    before = Counter(scan for scan, _ in spread.log(watch))
    outcomes = predict_cohort(
        read_cohort(cohort).cases,
        out,
        partial(WatchedPredictor, watch),
        engine=partial(on_ray, address=address, memory_gb=0.5),
        threads=1,
    )
    assert [outcome.state.value for outcome in outcomes] == ["kept", "kept", "finished", "failed"]
    assert Counter(scan for scan, _ in spread.log(watch)) - before == {"s3": 1, "s4": 1}
    assert spread.contents(out) == spread.contents(alone)


def test_without_ray_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(engines_ray.importlib, "import_module", absent)
    with pytest.raises(ConfigError, match=r"pip install 'osteomet\[scale\]'"):
        list(on_ray(make_toy, source(["a"], tmp_path)))
