"""Results come in order, ahead of their use but never far."""

import threading

import pytest

from osteomet.ahead import map_ahead

THREADS = 3


def test_what_is_made_ahead_comes_in_order_and_never_piles_up() -> None:
    made, used = [], 0

    def make(job: int) -> int:
        made.append(job)
        return job * 2

    for place, value in enumerate(map_ahead(make, range(40), THREADS)):
        assert value == place * 2
        used += 1
        assert len(made) <= used + 2 * THREADS
    assert (sorted(made), used) == (list(range(40)), 40)


def test_something_is_made_while_the_one_before_is_used() -> None:
    second = threading.Event()

    def make(job: int) -> int:
        if job == 1:
            second.set()
        return job

    for _ in map_ahead(make, range(2), THREADS):
        assert second.wait(20)


def test_an_error_in_what_is_made_ahead_is_raised_when_it_is_due() -> None:
    def make(job: int) -> int:
        if job == 2:
            raise ValueError("third")
        return job

    found = map_ahead(make, range(1000), THREADS)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="third"):
        next(found)
