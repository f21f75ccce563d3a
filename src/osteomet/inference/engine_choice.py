"""The engine that a user names."""

import os
from functools import partial

from osteomet.errors import ConfigError
from osteomet.inference.engines import Engine, in_this_process
from osteomet.inference.engines_local import in_processes
from osteomet.inference.engines_ray import on_ray

ENGINES = ("local", "ray")


def choose_engine(
    name: str,
    workers: int | None = None,
    address: str | None = None,
    *,
    gpu: bool = False,
    memory_gb: float = 4.0,
) -> tuple[Engine, int | None]:
    """Return who works on scans, and how many threads each worker gets (None: as they are).

    Args:
        name: one of ``ENGINES``.
        workers: processes; None is this one process, or on Ray as many as there are processors.
        address: of a Ray cluster.
        gpu: whether each worker on Ray needs a GPU.
        memory_gb: that a worker on Ray may need.

    Raises:
        ConfigError: the name is unknown, or an address is given to an engine without one.
    """
    if name not in ENGINES:
        raise ConfigError(f"--engine {name!r}: expected one of {', '.join(ENGINES)}")
    if name == "ray":
        return partial(
            on_ray, workers=workers, address=address, gpu=gpu, memory_gb=memory_gb
        ), 1  # Ray counts a processor for each
    if address is not None:
        raise ConfigError(f"--address {address}: is for --engine ray; leave it out")
    if workers is None:
        return in_this_process, None
    return partial(in_processes, workers=workers), max(1, (os.cpu_count() or 1) // workers)
