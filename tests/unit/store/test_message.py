"""The bytes of a single event's message, compared with those that plain Python makes."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import eda
from eda.jetstream.subjects import aggregate_filter, subject_of
from eda.store._earlier import value_of
from eda.store._message import Message

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)
IDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=128)
SEQUENCES = st.one_of(st.just(0), st.integers(1, 10**6), st.integers(2**62, 2**64 - 1))
EARLIER = st.lists(st.integers(1, 2**64 - 1), max_size=15)


@given(NAMES, NAMES, IDS, SEQUENCES, EARLIER)
@example("t" * 3000, "é" * 3000, "!" * 128, 2**64 - 1, [2**64 - 1] * 15)
@example("_", "%*.>", "i", 0, [])
@example("a b\r\n", "\0", "i", 9_999, [])
def test_message_when_made_has_the_bytes_of_a_plain_formula(
    type: str, aggregate: str, event_id: str, sequence: int, earlier: list[int]
) -> None:
    known = " ".join(map(str, earlier))
    message = Message("ORDERS", aggregate, type, event_id, b"envelope", sequence, known)
    filter = aggregate_filter("ORDERS", aggregate)
    named = value_of(known or (str(sequence) if sequence else ""))
    assert message.subject == subject_of("ORDERS", type, aggregate).encode()
    assert message.filter == filter
    assert message.headers.decode() == (
        f"NATS/1.0\r\nNats-Msg-Id: {event_id}\r\n"
        f"Nats-Expected-Last-Subject-Sequence: {sequence}\r\n"
        f"Nats-Expected-Last-Subject-Sequence-Subject: {filter}\r\n"
        f"Eda-Earlier: {named}\r\n\r\n"
    )
    assert (message.stream, message.aggregate, message.type, message.id) == ("ORDERS", aggregate, type, event_id)
    assert (message.envelope, message.sequence) == (b"envelope", sequence)


@pytest.mark.parametrize("event_id", ["a b", "a\r\nb", "é", "\ud800", "i" * 129])
def test_message_when_its_id_can_not_be_published_is_refused(event_id: str) -> None:
    with pytest.raises(eda.ConfigError, match="id "):
        Message("ORDERS", "a", "t", event_id, b"", 1, "")


@pytest.mark.parametrize(
    ("type", "aggregate", "earlier"), [("\ud800", "a", ""), ("t", "\ud800", ""), ("t", "a", "\ud800")]
)
def test_message_when_a_text_is_no_unicode_is_refused(type: str, aggregate: str, earlier: str) -> None:
    with pytest.raises(UnicodeEncodeError):
        Message("ORDERS", aggregate, type, "i", b"", 1, earlier)
