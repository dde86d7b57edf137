"""Stamps and counted durations give back what they took: 100,000 times through each path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import eda
from eda._codec import decode_event, encode_event
from eda._durations import Durations
from eda._stamp import SameMeta, Stamp
from eda.handling._call_times import CallTimes
from leaks import MAX_BLOCKS, MAX_RSS, growth

N = 100_000

ENTRIES = {"trace": "t" * 100, "ä": "ä"}
META = {"a": "b" * 100}
NAMES = frozenset(("trace", "state"))
DATA = eda.JSON({"a": 1})
EVENT = eda.Event(id="i", type="t" * 100, data=DATA)
WITH_META = eda.Event(id="i", meta=META)
TRACED = eda.Event(id="i", meta=ENTRIES)
ENVELOPE = encode_event(EVENT)
WITH_META_ENVELOPE = encode_event(WITH_META)
RECEIVED = decode_event(WITH_META_ENVELOPE)
STAMP = Stamp(ENTRIES, NAMES)
EMPTY = Stamp({}, NAMES)
SAME = SameMeta()
SAME.note(RECEIVED)
DURATIONS = Durations()


def refused(entries: Any, names: Any = ()) -> None:
    try:
        Stamp(entries, names)
    except (eda.ConfigError, TypeError):
        return
    raise AssertionError("it was not refused")


def used_once(events: Any) -> None:
    same = SameMeta()
    for event in events:
        same.note(event)
        same.is_in(event)


def counted() -> None:
    times = CallTimes()
    times.succeeded.note(5_000_000, 3)
    times.failed.note(1)
    times.errors.add(ValueError())
    assert sum(times.succeeded.read()[0]) == 3


PATHS: dict[str, Callable[[], Any]] = {
    "stamp-made": lambda: Stamp(dict(ENTRIES), list(NAMES)),
    "stamp-refused": lambda: (refused({"a": 1}), refused({"a": "b"}, 5), refused({"a": "b"}, [[]]), refused("a")),
    "stamped": lambda: STAMP.on(EVENT),
    "stamped-and-encoded": lambda: encode_event(STAMP.on(EVENT)),
    "stamped-and-read": lambda: STAMP.on(EVENT).meta,
    "stamped-twice": lambda: STAMP.on(STAMP.on(EVENT)),
    "stamped-new": lambda: STAMP.on(eda.Event(type="t", data=DATA)),
    "stamped-received": lambda: STAMP.on(decode_event(ENVELOPE)),
    "stamped-with-metadata": lambda: STAMP.on(WITH_META),
    "stamped-received-with-metadata": lambda: STAMP.on(decode_event(WITH_META_ENVELOPE)).meta,
    "not-stamped": lambda: STAMP.on(TRACED),
    "stamped-with-nothing": lambda: EMPTY.on(EVENT),
    "noted": lambda: SAME.note(RECEIVED),
    "noted-new": lambda: used_once([decode_event(WITH_META_ENVELOPE), EVENT, decode_event(ENVELOPE)]),
    "recognised": lambda: SAME.is_in(decode_event(WITH_META_ENVELOPE)),
    "not-recognised": lambda: [SAME.is_in(each) for each in (EVENT, None, [], decode_event(ENVELOPE))],
    "counted": counted,
    "counted-together": lambda: DURATIONS.note(123_456, 7),
    "read": lambda: DURATIONS.read(),
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_memory_when_a_path_is_taken_100000_times_does_not_grow(path: Callable[[], Any]) -> None:
    n = N // 5 if path is PATHS["stamp-refused"] else N
    SAME.note(RECEIVED)
    shared = (ENTRIES, META, *ENTRIES, *ENTRIES.values(), NAMES, DATA, EVENT, WITH_META, TRACED, RECEIVED, STAMP, EMPTY)
    envelopes = (ENVELOPE, WITH_META_ENVELOPE)
    blocks, tracked, size = growth(path, n, shared=(*shared, *envelopes, SAME, DURATIONS))
    assert blocks < MAX_BLOCKS
    assert tracked < MAX_BLOCKS
    assert size < MAX_RSS
