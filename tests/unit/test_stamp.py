"""eda._stamp: metadata that are added to events, and that are recognised in received ones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import eda
from eda._codec import decode_event, encode_event
from eda._stamp import SameMeta, Stamp

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
META = st.dictionaries(st.sampled_from(["a", "b", "ä", "trace"]) | TEXT, TEXT, max_size=3)


def received(meta: dict[str, str], **fields: Any) -> eda.Event:
    return decode_event(encode_event(eda.Event(**{"id": "i", "type": "t"} | fields, meta=meta)))


@given(entries=META, meta=META, names=st.frozensets(st.sampled_from(["a", "b", "trace"])), is_received=st.booleans())
def test_stamp_when_on_an_event_is_as_a_replace(
    entries: dict[str, str], meta: dict[str, str], names: frozenset[str], is_received: bool
) -> None:
    event = received(meta, data=eda.JSON(1)) if is_received else eda.Event(type="t", data=eda.JSON(1), meta=meta)
    stamped = Stamp(entries, names).on(event)
    if names & meta.keys() or not entries:
        assert stamped == event
    else:
        assert stamped == event.replace(meta=entries | meta)
        assert list(stamped.meta) == list(entries | meta)
    assert event.meta == meta
    assert encode_event(stamped) == encode_event(event.replace(meta=stamped.meta))


def test_stamp_when_the_event_has_such_an_entry_returns_the_very_event() -> None:
    event = eda.Event(meta={"trace": "1"})
    assert Stamp({"trace": "2"}, ["trace"]).on(event) is event
    assert Stamp({}, ["trace"]).on(event) is event


def test_stamp_when_its_entries_are_changed_afterwards_stays_as_it_was() -> None:
    entries = {"a": "b"}
    stamp = Stamp(entries, ())
    entries["a"] = "c"
    assert (
        stamp.on(eda.Event()).meta == stamp.on(eda.Event(meta={"x": "y"})).replace(meta={"a": "b"}).meta == {"a": "b"}
    )


@pytest.mark.parametrize("entries", [{"a": 1}, {1: "a"}, {"a": None}], ids=repr)
def test_stamp_when_its_entries_are_no_texts_is_refused(entries: Any) -> None:
    with pytest.raises(eda.ConfigError, match="meta"):
        Stamp(entries, ())


@given(first=META, second=META)
def test_same_meta_when_events_are_compared_is_in_those_with_the_same_alone(
    first: dict[str, str], second: dict[str, str]
) -> None:
    same = SameMeta()
    same.note(received(first))
    assert same.is_in(received(second, id="another", data=eda.JSON(1))) == (
        bool(first) and list(first.items()) == list(second.items())
    )


def test_same_meta_when_nothing_is_noted_is_in_no_event() -> None:
    same = SameMeta()
    assert not same.is_in(received({"a": "b"}))
    assert not same.is_in(received({}))
    same.note(received({"a": "b"}))
    assert same.is_in(received({"a": "b"}))
    same.note(received({}))
    assert not same.is_in(received({"a": "b"}))
    assert not same.is_in(received({}))


def test_same_meta_when_an_event_was_not_received_is_not_in_it() -> None:
    same = SameMeta()
    same.note(eda.Event(meta={"a": "b"}))
    assert not same.is_in(eda.Event(meta={"a": "b"}))
    same.note(received({"a": "b"}))
    assert not same.is_in(eda.Event(meta={"a": "b"}))
    assert not same.is_in(received({"a": "b"}).replace(meta={"a": "c"}))


@pytest.mark.parametrize("given", [None, [], [received({"a": "b"})], "a", {}], ids=repr)
def test_same_meta_when_what_is_given_is_no_event_is_not_in_it(given: Any) -> None:
    same = SameMeta()
    same.note(received({"a": "b"}))
    assert not same.is_in(given)


def test_same_meta_when_the_noted_event_is_gone_still_knows_its_metadata() -> None:
    same = SameMeta()
    same.note(received({"key": "x" * 1000}))
    others = [received({"key": str(n) * 1000}) for n in range(10)]
    assert not any(same.is_in(other) for other in others)
    assert same.is_in(received({"key": "x" * 1000}))
