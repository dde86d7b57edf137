"""The sequences of an aggregate's earlier events, which its messages name."""

from __future__ import annotations

import pytest

from eda.store._earlier import EARLIER, MOST, earlier_in, value_of, with_all


def headers_of(value: str) -> bytes:
    return f"NATS/1.0\r\nNats-Msg-Id: i\r\n{EARLIER}: {value}\r\nNats-Sequence: 9\r\n\r\n".encode()


def test_with_all_when_events_follow_has_the_latest_first() -> None:
    assert with_all("", [3]) == "3"
    assert with_all("", [3, 5, 8]) == "8 5 3"
    assert with_all("5 3", [8]) == "8 5 3"
    assert with_all("5 3", []) == "5 3"


def test_with_all_when_there_are_many_drops_the_oldest() -> None:
    earlier = ""
    for sequence in range(1, 100):
        earlier = with_all(earlier, [sequence])
    assert earlier == with_all("", range(1, 100))
    assert earlier.split() == [str(each) for each in range(99, 99 - MOST, -1)]
    assert earlier_in(headers_of(value_of(earlier)), 100) == list(range(99, 99 - MOST, -1))


def test_earlier_in_when_written_returns_the_same() -> None:
    assert earlier_in(headers_of(value_of("")), 7) == []
    assert earlier_in(headers_of(value_of("5 3")), 7) == [5, 3]
    assert earlier_in(headers_of(value_of("5 3", 2)), 9) == [8, 7, 5, 3]


def test_earlier_in_when_an_append_had_many_events_is_limited() -> None:
    assert earlier_in(headers_of(value_of("5", 999)), 2000)[:MOST] == list(range(1999, 1999 - MOST, -1))


@pytest.mark.parametrize("value", ["", "x", "1 x", "1 0", "1 -5", "1 5,3", "1 " + "5 " * 20, "1 " + "9" * 40])
def test_earlier_in_when_the_value_is_not_one_returns_nothing(value: str) -> None:
    assert earlier_in(headers_of(value), 7) == []


def test_earlier_in_when_there_is_no_header_returns_nothing() -> None:
    assert earlier_in(b"", 7) == []
    assert earlier_in(b"NATS/1.0\r\nNats-Msg-Id: i\r\n\r\n", 7) == []


def test_earlier_in_when_sequences_are_not_earlier_leaves_them_out() -> None:
    assert earlier_in(headers_of("3 9 1"), 2) == [1, 1]
