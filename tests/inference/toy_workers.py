"""Workers that do what their task says; light, since each process imports them anew."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from osteomet.errors import CheckpointError


def make_toy() -> Callable[[tuple[str, Path]], int]:
    """Return a worker that answers with its process id, or dies of a task."""
    seen: list[str] = []

    def work(task: tuple[str, Path]) -> int:
        word, folder = task
        seen.append(word)
        (folder / f"{word}-{len(seen)}-{os.getpid()}").touch()
        if word == "die" or (word == "die once" and not (folder / "died").exists()):
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "exit":
            os._exit(3)
        if word == "wait":
            time.sleep(60)
        return os.getpid()

    return work


def make_nothing() -> Callable[[tuple[str, Path]], int]:
    raise CheckpointError("weights: cannot be read; expected a file that osteomet train wrote")
