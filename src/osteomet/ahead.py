"""Work that threads do ahead of where its results are used."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int
) -> Iterator[Result]:
    """Yield the function of each item in order, worked out by threads.

    However slowly results are used, no more than two a thread wait. An error is raised when its
    item is due, and ends the rest.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, "osteomet-ahead") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()
