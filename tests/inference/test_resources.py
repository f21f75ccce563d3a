"""What a stage costs, by three measures."""

import sys
import time

import numpy as np
import pytest
import torch

from osteomet.inference.resources import StageClock


def test_waiting_takes_time_but_no_cpu() -> None:
    clock = StageClock(torch.device("cpu"))
    for _ in range(2):
        with clock.stage("wait"):
            time.sleep(0.1)
    assert clock.seconds["wait"] >= 0.2
    assert clock.cpu_seconds["wait"] < 0.1
    assert clock.peak_mb == {}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux resets the peak")
def test_the_peak_of_each_stage_is_its_own() -> None:
    clock = StageClock(torch.device("cpu"), watch_memory=True)
    for name, megabytes in (("small", 1), ("large", 200), ("small again", 1)):
        with clock.stage(name):
            block = np.ones(megabytes * 1_000_000, np.uint8)
            del block
    assert clock.peak_mb["large"] > clock.peak_mb["small"] + 150
    assert clock.peak_mb["small again"] < clock.peak_mb["large"] - 150
