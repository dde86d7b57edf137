"""eda._event_lines: the quick reader of lines reads what the slow one reads, or leaves the line to it."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import eda
from eda._codec import encode_event, stored_event
from eda._event_lines import events_of_lines, n_lines_of
from eda._json_lines import json_lines
from eda.cli.line_events import BadLine, LineEvents

SLOW = LineEvents(drops_versions=False)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PLAIN = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"\\'), max_size=20)


class Left(Exception):
    """The line was left to the slow reader."""


def leave(line: bytes) -> eda.Event:
    raise Left(line)


def stored(**fields: Any) -> eda.Event:
    event = eda.Event(**{"id": "i1", "type": "t", "time": 10**9} | fields)
    return stored_event(encode_event(event, client="shop"), "orders", 17, 2 * 10**9)


def same(quick: eda.Event, slow: eda.Event) -> bool:
    """Return whether two events would be published as the same; an id that was made does not count."""
    slow = slow if quick.id == slow.id else slow.replace(id=quick.id)
    return encode_event(quick) == encode_event(slow) and quick.data == slow.data


@given(
    type=PLAIN,
    aggregate=PLAIN,
    cause=PLAIN,
    schema=PLAIN,
    data=st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**60), 2**60)
        | st.floats(allow_nan=False, allow_infinity=False)
        | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    ),
)
def test_line_when_it_is_as_printed_is_read_quickly_and_alike(
    type: str, aggregate: str, cause: str, schema: str, data: Any
) -> None:
    event = stored(type=type, aggregate=aggregate, cause=cause, schema=schema, data=eda.JSON(data))
    line = json_lines([event])
    if "\x7f" in type + aggregate + cause + schema:
        return  # it is escaped
    (quick,) = events_of_lines(line, leave)
    assert same(quick, SLOW.of(line.rstrip(b"\n")))
    assert quick.data.encode() == event.data.encode()
    assert (quick.id, quick.type, quick.time_ns, quick.sequence, quick.stream) == ("i1", type, 10**9, 0, "")


LINES = [
    json_lines([stored(data=eda.JSON({"a": [1, "ä", None]}), aggregate="7")]).rstrip(b"\n"),
    b'{"type":"a","encoding":"json","data":"x"}',
    b'{"id":"","time":null,"encoding":"json","data":{}}',
    b'{"version":0,"sequence":12,"index":3,"meta":{},"encoding":"json","data":1}',
]
CHANGES = [
    b'"',
    b"\\",
    b"{",
    b"}",
    b",",
    b":",
    b" ",
    b"0",
    b"1",
    b"-",
    b"\xff",
    b"\0",
    b"null",
    b'"type":"z",',
    b'{"a":1}',
]


def test_line_when_it_is_changed_anyhow_is_read_alike_or_left() -> None:
    choose = random.Random(3)
    n_quick = 0
    for _ in range(20_000):
        line = choose.choice(LINES)
        for _ in range(choose.randrange(3)):
            at = choose.randrange(len(line) + 1)
            line = line[:at] + choose.choice([b"", *CHANGES]) + line[at + choose.randrange(3) :]
        if b"\n" in line:
            continue
        try:
            (quick,) = events_of_lines(line, leave)
        except Left:
            continue
        n_quick += 1
        assert same(quick, SLOW.of(line)), line
    assert n_quick > 3_000


@pytest.mark.parametrize(
    "line",
    [
        *(b"\n", b"{", b"}", b"{}", b"[]", b"null", b'{"type":"a"}', b' {"encoding":"json","data":1}'),
        *(b'{"data":1,"encoding":"json"}', b'{"encoding":"string","data":"x"}', b'{"encoding":"json"}'),
        *(b'{"type":"a\\n","encoding":"json","data":1}', b'{"type":"a\xff","encoding":"json","data":1}'),
        *(b'{"type":"a","type":"b","encoding":"json","data":1}', b'{"tpye":"a","encoding":"json","data":1}'),
        *(b'{"version":1,"encoding":"json","data":1}', b'{"version":00,"encoding":"json","data":1}'),
        *(b'{"sequence":01,"encoding":"json","data":1}', b'{"sequence":,"encoding":"json","data":1}'),
        *(b'{"index":-1,"encoding":"json","data":1}', b'{"sequence":1e3,"encoding":"json","data":1}'),
        *(b'{"meta":{"a":"b"},"encoding":"json","data":1}', b'{"meta":null,"encoding":"json","data":1}'),
        *(b'{"time":"2026-11-30T10:00:00Z","encoding":"json","data":1}', b'{"time":1,"encoding":"json","data":1}'),
        *(b'{"time":"1970-01-01T00:00:00.000000000Z","encoding":"json","data":1}', b'{"encoding":"json","data":}'),
        *(
            b'{"encoding":"json","data":1,"type":"a"}',
            b'{"encoding":"json","data":{"a":1}',
            b'{"encoding":"json","data":1}}',
        ),
        *(b'{"encoding":"json","data":"\xff"}', b'{"encoding":"json","data":1', b'{"encoding":"json","data":1}x'),
    ],
)
def test_line_when_it_has_another_form_is_left_to_the_slow_reader(line: bytes) -> None:
    with pytest.raises(Left) as caught:
        events_of_lines(line, leave)
    assert caught.value.args == (line.rstrip(b"\n"),)


def test_lines_when_cut_anywhere_are_never_read_past_their_end() -> None:
    for line in LINES:
        for at in range(len(line)):
            with pytest.raises(Left):
                events_of_lines(line[:at] or b"\n", leave)


def test_lines_when_some_are_left_are_in_order() -> None:
    lines = b'{"type":"a","encoding":"json","data":1}\n{"type": "b"}\n{"type":"c","encoding":"json","data":2}'
    assert [event.type for event in events_of_lines(lines, SLOW.of)] == ["a", "b", "c"]
    assert len({event.id for event in events_of_lines(lines, SLOW.of)}) == 3
    with pytest.raises(BadLine):
        events_of_lines(lines + b"\nx", SLOW.of)
    assert events_of_lines(b"", SLOW.of) == []


def test_event_when_its_memory_was_used_before_has_nothing_of_the_other() -> None:
    old = [stored(meta={"a": "b"}, aggregate="x", cause="y", schema="z") for _ in range(100)]
    assert all(event.sequence and event.client for event in old)
    del old
    for event in events_of_lines(b'{"encoding":"json","data":1}\n' * 200, leave):
        assert (event.type, event.aggregate, event.cause, event.schema, event.client, event.stream) == ("",) * 6
        assert (event.sequence, event.index, event.attempt, event.version, event.time_ns, event.ack_time_ns) == (0,) * 6
        assert (event.meta, event.headers, event.subject, event.data.encode()) == ({}, {}, "", b"1")


@pytest.mark.parametrize(
    "stop", [b'"', b"\\", b"\n", b"\x1f", b"\x00", b"\x7f", b" ", b"\x21", b"\x23", "ä".encode(), b"\xff"]
)
def test_text_when_a_byte_is_at_any_place_in_it_is_read_alike_or_left(stop: bytes) -> None:
    for n in range(40):
        for at in range(n + 1):
            text = b"x" * at + stop + b"y" * (n - at)
            line = b'{"aggregate":"%b","type":"t","encoding":"json","data":1}' % text
            if stop in (b"\x7f", b" ", b"\x21", b"\x23", "ä".encode()):
                (event,) = events_of_lines(line, leave)
                assert event.aggregate == text.decode()
                assert same(event, SLOW.of(line))
            else:
                with pytest.raises(Left):
                    events_of_lines(line, leave)


def test_lines_when_their_fields_are_in_other_orders_are_read_as_each_alone() -> None:
    choose = random.Random(5)
    fields = [
        *(b'"stream":"s"', b'"type":"t"', b'"types":"t"', b'"aggregate":"a"', b'"id":"i"', b'"time":null', b'"tim":1'),
        *(
            b'"cause":"c"',
            b'"client":"x"',
            b'"schema":"1"',
            b'"meta":{}',
            b'"version":0',
            b'"sequence":7',
            b'"index":0',
        ),
    ]
    lines, expected = [], []
    before: list[bytes] = []
    for _ in range(3_000):
        chosen = [b'"id":"%d"' % len(lines), *choose.sample(fields, choose.randrange(5))]
        choose.shuffle(chosen)
        if choose.random() < 0.5 and before:
            chosen = [*before]
            chosen[choose.randrange(len(chosen))] = choose.choice(fields)
        before = chosen
        line = b"{%b}" % b",".join([*chosen, b'"encoding":"json"', b'"data":%d' % len(lines)])
        try:
            (event,) = events_of_lines(line, leave)
        except Left:
            event = eda.Event(id="left")
        lines.append(line)
        expected.append(event)
    together = events_of_lines(b"\n".join(lines), lambda line: eda.Event(id="left"))
    n_left = sum(event.id == "left" for event in expected)
    assert 300 < n_left < 2_700
    for one, other in zip(expected, together, strict=True):
        assert (one.id == "left") == (other.id == "left")
        assert one.id == "left" or same(other, one)


@given(st.lists(st.sampled_from([b"", b"a", b"\n", b"\n\n", b"x" * 100, b"\r\n"]), max_size=20))
def test_line_ends_when_counted_are_as_many_as_bytes_counts(parts: list[bytes]) -> None:
    lines = b"".join(parts)
    assert n_lines_of(lines) == lines.count(b"\n")
