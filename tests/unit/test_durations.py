"""eda._durations: durations counted in buckets, and samples of them."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eda._durations import BOUNDS_S, Durations
from eda.stats import Histogram

BOUNDS_NS = [round(bound_s * 1e9) for bound_s in BOUNDS_S]
EDGES = sorted({0, 1, 2**63, 2**64 - 1, *(bound + step for bound in BOUNDS_NS for step in (-1, 0, 1))})


def bucket_of(ns: int) -> int:
    durations = Durations()
    durations.note(ns)
    counts, _ = durations.read()
    assert sum(counts) == 1
    return counts.index(1)


def test_bounds_when_read_are_one_two_and_a_half_and_five_of_each_power_of_ten() -> None:
    assert BOUNDS_S[:4] == pytest.approx((1e-5, 2.5e-5, 5e-5, 1e-4))
    assert BOUNDS_S[-3:] == (10.0, 25.0, 50.0)
    assert sorted(BOUNDS_S) == list(BOUNDS_S)


@pytest.mark.parametrize("ns", EDGES)
def test_bucket_when_a_duration_is_at_an_edge_has_those_up_to_its_bound(ns: int) -> None:
    assert bucket_of(ns) == bisect_left(BOUNDS_NS, ns)


@given(st.integers(0, 2**64 - 1))
def test_bucket_of_any_duration_is_that_of_a_search(ns: int) -> None:
    assert bucket_of(ns) == bisect_left(BOUNDS_NS, ns)


def test_read_when_durations_were_noted_together_counts_each() -> None:
    durations = Durations()
    durations.note(2_000_000, 5)
    durations.note(30_000)
    counts, sum_s = durations.read()
    assert sum(counts) == 6
    assert sum_s == pytest.approx(0.010_03)


def test_histograms_when_added_have_the_durations_of_both() -> None:
    first, second = Durations(), Durations()
    first.note(1_000_000, 2)
    second.note(1_000_000)
    second.note(10**12)
    both = Histogram(*first.read()) + Histogram(*second.read())
    assert both.count == 4
    assert both.counts[-1] == 1
    assert both.counts[BOUNDS_NS.index(1_000_000)] == 3
    assert both.sum_s == pytest.approx(1000.003)
    assert len(both.counts) == len(Histogram.bounds_s) + 1
