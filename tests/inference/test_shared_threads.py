"""Calls that share threads: in order, each with its share, and nothing left changed."""

import threading
from collections.abc import Iterator

import pytest
import torch

from osteomet.inference.shared_threads import MOST_AT_ONCE, sharing_threads


@pytest.fixture(autouse=True)
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    yield 6
    torch.set_num_threads(before)


@pytest.mark.parametrize(("jobs", "share"), [(1, 6), (2, 3), (3, 2), (50, 6 // MOST_AT_ONCE)])
def test_each_call_has_its_share_and_results_keep_their_order(jobs: int, share: int) -> None:
    with sharing_threads(jobs) as each:
        found = list(each(lambda job: (job, torch.get_num_threads()), range(jobs)))
    assert found == [(job, share) for job in range(jobs)]
    assert torch.get_num_threads() == 6


def test_calls_run_side_by_side() -> None:
    met = threading.Barrier(2, timeout=20)  # passes only if two calls wait at once
    with sharing_threads(2) as each:
        assert len(list(each(lambda _: met.wait(), range(2)))) == 2


def test_an_error_ends_the_rest() -> None:
    begun = []

    def call(job: int) -> None:
        begun.append(job)
        raise ValueError(str(job))

    with pytest.raises(ValueError, match="0"), sharing_threads(1000) as each:
        list(each(call, range(1000)))
    assert torch.get_num_threads() == 6
