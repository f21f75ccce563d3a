"""Who works on the scans of a cohort: this process, other processes, or a cluster.

An engine is a function. It asks for the next task whenever it has room for one, and yields each
task with what came of it: the worker's answer, or ``Lost`` where the worker ended without one.
What is next, and how often a lost task is tried again, the asking side decides
(``inference/agenda.py``), so that all engines agree on it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

Task = TypeVar("Task")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Lost:
    """A worker ended before it answered.

    Attributes:
        reason: how, in words that go on after "the worker".
    """

    reason: str


@runtime_checkable
class Engine(Protocol):
    """Works on tasks until none is left and none is under way.

    Args:
        make_worker: called once in each worker; what it returns is called with one task after
            another. It and its tasks must be picklable, and it may hold weights.
        next_task: the next one; None where there is none now. After each answer it is asked
            again, since an answer may bring new tasks.

    Raises:
        OsteometError: no worker can start.
    """

    def __call__(
        self,
        make_worker: Callable[[], Callable[[Task], Answer]],
        next_task: Callable[[], Task | None],
    ) -> Iterator[tuple[Task, Answer | Lost]]: ...


def in_this_process(
    make_worker: Callable[[], Callable[[Task], Answer]], next_task: Callable[[], Task | None]
) -> Iterator[tuple[Task, Answer | Lost]]:
    """Work on one task after another, here; whatever ends this process ends the run."""
    work = make_worker()
    while (task := next_task()) is not None:
        yield task, work(task)
