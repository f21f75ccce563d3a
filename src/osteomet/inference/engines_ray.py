"""A Ray cluster: one task a scan, wherever a processor is free, also on machines that join later.

Ray places the tasks, starts and replaces processes, and notices machines that die. How often a
lost scan is tried again is not left to it: it would retry for ever what dies for want of memory.
"""

import importlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from osteomet.errors import ConfigError, OsteometError
from osteomet.inference.engines import Answer, Lost, Task

RECOUNT_S = 10.0
"""How often the processors of the cluster are counted again."""

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is told to anyone about a hospital's cluster
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what Ray will do by itself, and else warns of
}


def on_ray(
    make_worker: Callable[[], Callable[[Task], Answer]],
    next_task: Callable[[], Task | None],
    *,
    workers: int | None = None,
    address: str | None = None,
    gpu: bool = False,
    memory_gb: float = 4.0,
) -> Iterator[tuple[Task, Answer | Lost]]:
    """Work on as many tasks at once as the cluster has processors, each in a process.

    Args:
        make_worker: see ``Engine``; handed to each machine once. osteomet must be installed there,
            in the same version.
        next_task: see ``Engine``.
        workers: at most so many at once; None takes the cluster as it grows and shrinks.
        address: of a running cluster, ``auto`` for the one on this machine; None asks
            ``RAY_ADDRESS`` and else starts one here that ends with the iterator.
        gpu: whether each worker needs a GPU of its own, instead of a processor.
        memory_gb: that a worker may need; no machine gets more of them than fit.

    Raises:
        ConfigError: Ray is not installed, the cluster cannot be reached, or none of its machines
            has what one worker needs.
        OsteometError: ``make_worker`` failed.
    """
    ray = _imported()
    with _connected(ray, address, workers):
        needs = {"GPU" if gpu else "CPU": 1.0, "memory": memory_gb * 1e9}
        room = _Room(ray, needs, workers)
        remote = ray.remote(
            num_cpus=0 if gpu else 1,
            num_gpus=1 if gpu else 0,
            memory=int(needs["memory"]),
            max_retries=0,
            max_calls=0,  # a process keeps its model, on a GPU too
        )(_work)
        maker, run = ray.put(make_worker), uuid.uuid4().hex
        running: dict[Any, Task] = {}
        while True:
            while len(running) < room.now() and (task := next_task()) is not None:
                running[remote.remote(run, maker, task)] = task
            if not running:
                return
            done, _ = ray.wait(list(running), timeout=RECOUNT_S)
            for reference in done:
                task = running.pop(reference)
                yield task, _answer(ray, reference)


class _Room:
    """How many tasks to have under way; no more, so that a driver's memory stays flat."""

    def __init__(self, ray: Any, needs: dict[str, float], workers: int | None) -> None:
        self.ray, self.needs, self.workers = ray, needs, workers
        self.counted, self.until = self._count(), time.monotonic() + RECOUNT_S
        if not self.counted:
            wanted = ", ".join(f"{value:g} {name}" for name, value in needs.items())
            raise ConfigError(
                f"no machine of the Ray cluster has what one worker needs ({wanted} in bytes); "
                f"there are {self._machines()}: lower --worker-memory or add a machine"
            )

    def now(self) -> int:
        if self.workers is not None:
            return self.workers
        if time.monotonic() > self.until:
            self.counted, self.until = self._count(), time.monotonic() + RECOUNT_S
        return max(1, self.counted)

    def _count(self) -> int:
        return sum(
            int(min(node.get(name, 0.0) // need for name, need in self.needs.items() if need))
            for node in self._resources()
        )

    def _machines(self) -> str:
        names = list(self.needs)
        found = [
            " and ".join(f"{node.get(name, 0.0):g} {name}" for name in names)
            for node in self._resources()
        ]
        return "; ".join(found) or "none"

    def _resources(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]


def _imported() -> Any:
    try:
        # Not at the top of the file: it is optional, and takes a second that other commands save.
        return importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError(
            "--engine ray: Ray is not installed; install it with pip install 'osteomet[scale]'"
        ) from error


@contextmanager
def _connected(ray: Any, address: str | None, workers: int | None) -> Iterator[None]:
    """Be in a cluster, and leave one that was entered here."""
    if ray.is_initialized():
        yield
        return
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    own = address is None and "RAY_ADDRESS" not in os.environ
    try:
        ray.init(
            address="local" if own else address,
            num_cpus=workers if own else None,
            include_dashboard=False if own else None,
            log_to_driver=False,
            logging_level="error",
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--address {address}: the Ray cluster cannot be reached ({_first_line(error)}); "
            "expected host:port of its head, or auto on one of its machines"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _answer(ray: Any, reference: Any) -> Any:
    """Return what a task gave, or ``Lost`` where its process or its machine ended."""
    try:
        answer = ray.get(reference)
    except ray.exceptions.OutOfMemoryError:
        return Lost("was ended by Ray because its machine ran out of memory")
    except ray.exceptions.RayTaskError:
        raise  # ours to mend: a worker says all that can go wrong with a scan in its answer
    except ray.exceptions.RayError as error:
        return Lost(f"was lost ({type(error).__name__})")
    if isinstance(answer, OsteometError):
        raise answer
    return answer


_made: dict[str, Callable[[Any], Any]] = {}
"""In a process of the cluster: the worker of the run it belongs to."""


def _work(run: str, make_worker: Callable[[], Callable[[Any], Any]], task: Any) -> Any:
    """Do a task in a process of the cluster; the first one makes the worker."""
    if run not in _made:
        try:
            worker = make_worker()
        except OsteometError as error:
            return error
        _made.clear()
        _made[run] = worker
    return _made[run](task)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
