"""The values that stand for durations in OpenTelemetry's histograms: few, and where the durations are."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eda._durations import Durations
from eda.stats import Histogram
from eda.telemetry.otel_metrics import MOST_VALUES, values_of


def histogram(*durations_s: float) -> Histogram:
    durations = Durations()
    for each in durations_s:
        durations.note(round(each * 1e9))
    return Histogram(*durations.read())


def bucket_of(value: float) -> int:
    return bisect_left(Histogram.bounds_s, value)


def test_values_when_nothing_was_done_are_none() -> None:
    assert values_of(Histogram(), Histogram()) == []
    assert values_of(histogram(1.0), histogram(1.0)) == []


def test_values_when_all_durations_are_alike_are_their_mean() -> None:
    assert values_of(Histogram(), histogram(0.03, 0.04)) == pytest.approx([0.035, 0.035])
    (only,) = values_of(histogram(7.0), histogram(7.0, 0.02))
    assert only == pytest.approx(0.02)


@given(st.lists(st.floats(1e-7, 400.0), min_size=1, max_size=MOST_VALUES))
def test_values_when_there_are_few_durations_are_one_for_each_in_its_bucket(durations_s: list[float]) -> None:
    values = values_of(Histogram(), histogram(*durations_s))
    rounded = [round(each * 1e9) / 1e9 for each in durations_s]
    assert sorted(map(bucket_of, values)) == sorted(map(bucket_of, rounded))


@given(st.lists(st.tuples(st.sampled_from([1e-5, 0.004, 0.3, 20.0]), st.integers(1, 5000)), min_size=1, max_size=4))
def test_values_when_there_are_many_durations_are_in_proportion(parts: list[tuple[float, int]]) -> None:
    durations = Durations()
    n_of: dict[int, int] = {}
    for duration_s, n in parts:
        durations.note(round(duration_s * 1e9), n)
        n_of[bucket_of(duration_s)] = n_of.get(bucket_of(duration_s), 0) + n
    n_all = sum(n_of.values())
    values = values_of(Histogram(), Histogram(*durations.read()))
    assert len(values) == min(n_all, MOST_VALUES)
    for bucket, n in n_of.items():
        wanted = n * len(values) / n_all
        assert abs(sum(bucket_of(each) == bucket for each in values) - wanted) <= 1
