"""Which lane a key belongs to: the same in every process and every Python version."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from uuid import UUID

import pytest

import eda
from eda.projections.lane_keys import lane_of_key, lane_picker

# These must never change: tables of users have positions by lane.
KNOWN = {
    "": 0,
    "4711": 7,
    "k\u00e4se": 7,
    b"4711": 7,
    4711: 7,
    -1: 2,
    None: 0,
    UUID(int=7): 6,
    ("a", 1): 6,
    ("a1",): 4,
}


def test_lane_when_a_key_is_known_is_the_same_as_ever() -> None:
    assert {key: lane_of_key(key, 8) for key in KNOWN} == KNOWN


def test_lane_when_another_process_asks_is_the_same() -> None:
    code = "from eda.projections.lane_keys import lane_of_key as f; print(*(f(f'k{n}', 16) for n in range(100)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert [*map(int, printed.stdout.split())] == [lane_of_key(f"k{n}", 16) for n in range(100)]


def test_lanes_when_there_are_many_keys_get_about_as_many_each() -> None:
    counts = Counter(lane_of_key(f"order-{n}", 8) for n in range(8_000))
    assert set(counts) == set(range(8))
    assert min(counts.values()) > 800


def test_tuple_when_its_parts_join_to_the_same_text_may_have_another_lane() -> None:
    assert lane_of_key(("ab", "c"), 2**31) != lane_of_key(("a", "bc"), 2**31)


@pytest.mark.parametrize("key", [1.5, object(), ["a"], {"a": 1}], ids=["float", "object", "list", "dict"])
def test_key_when_its_text_is_not_stable_is_refused(key: object) -> None:
    with pytest.raises(eda.ConfigError, match="key must be a function that returns"):
        lane_of_key(key, 8)


def test_picker_when_the_key_is_the_aggregate_agrees_with_a_function_of_it() -> None:
    by_name, by_function = lane_picker("aggregate", 8), lane_picker(lambda event: event.aggregate, 8)
    for n in range(100):
        event = eda.Event(type="a", aggregate=f"k{n}")
        assert by_name(event) == by_function(event)
