"""The two benchmarks measure peaks of phases, seconds of phases, and medians without the first call."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest

from benchmarks.memory import Peaks, terms
from benchmarks.speed import Clock, summed

MEGABYTE = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's peak is read from /proc")
def test_a_phases_peak_is_its_own() -> None:
    peaks = Peaks()
    with peaks.phase("large"):
        block = np.ones(64 * MEGABYTE, np.uint8)
        del block
    with peaks.phase("small"):
        np.ones(4 * MEGABYTE, np.uint8)
    found = dict(peaks.found)
    assert 60 * MEGABYTE < found["large"] < 90 * MEGABYTE and found["small"] < 30 * MEGABYTE
    assert [name for name, _ in peaks.found] == ["between phases", "large", "between phases", "small"]


def test_the_terms_of_the_bound_on_the_network_of_the_paper() -> None:
    found = terms(1, 2)
    weights = 432 + 7 * 2304 - 2304 + 4608 + 5 * 9216 + 18432 + 5 * 36864 + 640
    biases = 7 * 16 + 6 * 32 + 6 * 64 + 10
    assert found["model"] == 4 * (weights + biases)
    assert found["largest_moment"] == 8 * 576**2 and found["passes"] == 1
    outputs = 7 * 16 * 1024 + 6 * 32 * 256 + 6 * 64 * 64 + 10
    assert found["batch_activations"] == pytest.approx(4 * 2 * outputs, rel=0.05)


def test_phases_add_up_and_the_first_call_stands_apart() -> None:
    clock = Clock()
    for _ in range(2):
        with clock.phase("sleep"):
            time.sleep(0.02)
    assert clock.phases["sleep"][0] >= 0.04 > clock.phases["sleep"][1]
    runs = [{"wall": w, "processor": w / 2, "bytes": 7, "phases": {"a": [w, w / 2]}} for w in (100.0, 3.0, 1.0, 5.0)]
    found = summed(runs)
    assert found["first"]["wall"] == 100 and found["minimum"]["wall"] == 1 and found["median"]["processor"] == 1.5
    assert found["phases"]["a"] == {"wall": 3.0, "processor": 1.5} and found["bytes"] == 7
