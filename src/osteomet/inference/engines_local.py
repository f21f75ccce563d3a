"""Processes on this machine, each with its own copy of the model.

The pool of the standard library gives all its workers up when one of them dies, and does not say
which task killed it; here each worker has a pipe of its own, and a dead one is replaced.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from osteomet.errors import OsteometError
from osteomet.inference.engines import Answer, Lost, Task

# A fresh interpreter per worker: forking after numba or torch started threads hangs.
_CONTEXT = multiprocessing.get_context("spawn")


def in_processes(
    make_worker: Callable[[], Callable[[Task], Answer]],
    next_task: Callable[[], Task | None],
    *,
    workers: int,
) -> Iterator[tuple[Task, Answer | Lost]]:
    """Work on ``workers`` tasks at once, each in a process of its own.

    A process starts when there is a task for it. Processes end with the iterator, and with this
    process whatever ends it.

    Raises:
        OsteometError: ``make_worker`` failed.
    """
    idle: list[_Worker] = []
    busy: dict[Connection, tuple[_Worker, Task]] = {}
    try:
        while True:
            while len(busy) < workers and (task := next_task()) is not None:
                worker = idle.pop() if idle else _Worker(make_worker)
                busy[worker.connection] = (worker, task)
                worker.hand_over(task)
            if not busy:
                return
            heard = wait(list(busy))
            for connection in [one for one in busy if one in heard]:
                worker, task = busy.pop(connection)
                answer = worker.answer()
                if isinstance(answer, Lost):
                    worker.end()
                else:
                    idle.append(worker)
                if isinstance(answer, OsteometError):
                    raise answer
                yield task, answer
    finally:
        for worker in (*idle, *(worker for worker, _ in busy.values())):
            worker.end()


class _Worker:
    """A process and this side of its pipe."""

    def __init__(self, make_worker: Callable[[], Callable[[Any], Any]]) -> None:
        self.connection, theirs = _CONTEXT.Pipe()
        self.process: BaseProcess = _CONTEXT.Process(
            target=_serve, args=(theirs, make_worker), daemon=True
        )
        self.process.start()
        theirs.close()  # else the end of the process would not end the pipe

    def hand_over(self, task: object) -> None:
        """Send a task; that a dead worker cannot get it shows in ``answer``."""
        try:
            self.connection.send(task)
        except OSError:
            return

    def answer(self) -> Any:
        """Return what the worker sent, or ``Lost`` where it ended."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return Lost(_how(self.process.exitcode))

    def end(self) -> None:
        """End the process, in the middle of a task too: results appear whole or not at all."""
        self.process.kill()
        self.process.join()
        self.connection.close()
        self.process.close()


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _serve(connection: Connection, make_worker: Callable[[], Callable[[Any], Any]]) -> None:
    """Answer tasks until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that ends all others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work = make_worker()
    except OsteometError as error:
        connection.send(error)
        return
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        connection.send(work(task))


def _end_with_parent() -> None:
    """Do not outlive a killed parent: a scan would go on that is started again elsewhere."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
