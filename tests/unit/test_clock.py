"""eda._clock: the clock of the compiled modules, as Python reads it."""

from __future__ import annotations

import time

from eda._clock import read_monotonic_ns


def test_clock_when_read_runs_forward_as_fast_as_time_does() -> None:
    begin, at_ns = time.perf_counter(), read_monotonic_ns()
    while time.perf_counter() - begin < 0.02:
        assert read_monotonic_ns() >= at_ns
    assert 0.015e9 < read_monotonic_ns() - at_ns < 1e9
