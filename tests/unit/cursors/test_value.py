"""eda.cursors.value: which values of a cursor are accepted, whoever wrote them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eda.cursors.position import Position
from eda.cursors.value import (
    CursorValue,
    decode_value,
    encode_value,
    is_delete_marker,
    may_be_free,
    new_value,
    successor,
    template_of,
)

GOOD: dict[str, Any] = {"v": 1, "seq": 5, "epoch": 2, "holder": "a-b", "tries": 0, "filter": ["s.a.*", "s"]}
PACKED: dict[str, Any] = GOOD | {"v": 2, "time": "50", "idx": 3, "part": 9, "part_time": "90"}


def test_value_when_written_is_json_in_the_documented_order() -> None:
    value = new_value(Position(5, 1764357600123456789), 2, "a-b", 1, ["s"], "2026-01-02T03:04:05.6Z", 6)
    written = json.loads(encode_value(value))
    assert list(written) == ["v", "seq", "epoch", "holder", "tries", "filter", "updated", "created", "start", "time"]
    age = datetime.now(UTC) - datetime.fromisoformat(written.pop("updated"))
    assert abs(age.total_seconds()) < 60
    assert written == {
        "v": 1, "seq": 5, "epoch": 2, "holder": "a-b", "tries": 1, "filter": ["s"], "created": "2026-01-02T03:04:05.6Z",
        "start": 6, "time": "1764357600123456789",
    }  # fmt: skip


@pytest.mark.parametrize("position", [Position(5, 50), Position(5, 50, 3, 9, 1764357600123456789)])
def test_value_when_the_stream_has_packs_has_version_2_and_three_more_fields(position: Position) -> None:
    written = json.loads(encode_value(new_value(position, 2, "a-b", 1, ["s"], "c", has_packs=True)))
    assert list(written) == [
        "v", "seq", "epoch", "holder", "tries", "filter", "updated", "created", "start", "time", "idx", "part",
        "part_time",
    ]  # fmt: skip
    assert (written["v"], written["seq"], written["time"]) == (2, 5, "50")
    assert (written["idx"], written["part"], written["part_time"]) == (position.idx, position.part, str(position[4]))


def test_value_when_a_pack_is_partly_done_has_version_2_also_in_a_stream_that_is_not_packed() -> None:
    position = Position(5, 50, 3, 9, 90)
    value = new_value(position, 2, "a-b", 0, [], "c")
    assert (value.v, decode_value(encode_value(value)).position) == (2, position)


texts = st.text(st.characters(exclude_categories=["Cs"]))
sequences = st.integers(0, 2**63 - 1)
times = st.integers(0, 9 * 10**18 - 1)
whole = st.tuples(sequences, times).map(lambda numbers: Position(*numbers))
parts = st.builds(
    lambda seq, stored_ns, idx, part, part_ns: Position(min(seq, part - 1), stored_ns, idx, part, part_ns),
    sequences, times, st.integers(1, 65_535), st.integers(1, 2**63 - 1), times,
)  # fmt: skip


@given(
    whole | parts, st.integers(0, 2**53), texts, st.integers(0, 2**53), st.lists(texts), texts, sequences,
    st.booleans(), whole | parts,
)  # fmt: skip
def test_value_when_written_and_read_is_the_same(
    position: Position,
    epoch: int,
    holder: str,
    tries: int,
    filter: list[str],
    created: str,
    start: int,
    has_packs: bool,
    other: Position,
) -> None:
    value = new_value(position, epoch, holder, tries, filter, created, start, has_packs=has_packs)
    read = decode_value(encode_value(value))
    assert decode_value(template_of(value)(position)) == read
    assert read.position == position
    if value.has_packs or not other.idx:
        assert decode_value(template_of(value)(other)).position == other
    fields = [name for name in CursorValue.__struct_fields__ if name != "updated"]
    assert [getattr(read, name) for name in fields] == [getattr(value, name) for name in fields]
    assert may_be_free(encode_value(value)) or holder


def test_successor_when_the_position_is_in_a_pack_begins_there_and_keeps_the_version() -> None:
    old = decode_value(json.dumps(PACKED).encode())
    value = successor(old, "new", ["s"])
    assert (value.v, value.epoch, value.tries, value.position) == (2, 3, 1, Position(5, 50, 3, 9, 90))
    done = decode_value(json.dumps(PACKED | {"idx": 0, "part": 0, "part_time": "0"}).encode())
    assert (successor(done, "new", ["s"]).v, successor(done, "new", ["s"]).position) == (2, Position(5, 50))


def test_successor_when_the_cursor_is_of_version_1_has_version_2_only_if_the_stream_has_packs() -> None:
    old = decode_value(json.dumps(GOOD | {"time": "50"}).encode())
    assert (successor(old, "new", ["s"]).v, successor(old, "new", ["s"], has_packs=True).v) == (1, 2)
    assert successor(old, "new", ["s"], has_packs=True).position == Position(5, 50)


@pytest.mark.parametrize(
    "change", [{"v": 1}, {"idx": 0}, {"part": 5}, {"part": 4}, {"part": 0}, {"part_time": None}, {"idx": None}]
)
def test_value_when_it_names_no_pack_after_its_sequence_keeps_only_the_sequence(change: dict[str, Any]) -> None:
    """None of the events of a pack may be passed over because of a value that does not say which pack it means."""
    changed = {key: each for key, each in (PACKED | change).items() if each is not None}
    assert decode_value(json.dumps(changed).encode()).position == Position(5, 50)


@pytest.mark.parametrize("extra", [{}, {"updated": None}, {"updated": [1, {"a": "b"}]}, {"next": {"v": 2}}, {"": ""}])
def test_value_when_it_has_more_or_odd_times_is_read(extra: dict[str, Any]) -> None:
    value = decode_value(json.dumps(GOOD | extra, indent=1).encode())
    assert (value.seq, value.epoch, value.holder, value.filter, value.created) == (5, 2, "a-b", ["s.a.*", "s"], "")


@pytest.mark.parametrize("key", GOOD)
def test_value_when_a_field_is_missing_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=f"`{key}`"):
        decode_value(json.dumps({name: value for name, value in GOOD.items() if name != key}).encode())


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        *(("v", wrong) for wrong in (0, 3, "1", True, None, 1.5)),
        *(("seq", wrong) for wrong in (-1, 2**63, 2**64, 1e300, "5", None, True, [5])),
        *(("epoch", wrong) for wrong in (-1, 2**53 + 1, "1", None)),
        *(("tries", wrong) for wrong in (-1, 2**53 + 1, 0.5, None)),
        *(("holder", wrong) for wrong in (None, 5, ["a"], {})),
        *(("filter", wrong) for wrong in (None, "s", [None], [["s"]], {"s": 1})),
        *(("created", wrong) for wrong in (None, 5, [])),
        *(("time", wrong) for wrong in (None, 5, "", "-1", "1.5", "9" * 19, "1" * 20)),
        *(("idx", wrong) for wrong in (-1, 65_536, "1", None, 1.5)),
        *(("part", wrong) for wrong in (-1, 2**63, "5", None)),
        *(("part_time", wrong) for wrong in (None, 5, "", "-1", "9" * 19)),
    ],
)
def test_value_when_a_field_has_a_wrong_value_is_refused(key: str, wrong: object) -> None:
    with pytest.raises(ValueError, match=rf"\$\.{key}|out of range|Integer"):
        decode_value(json.dumps(PACKED | {key: wrong}).encode())


@pytest.mark.parametrize(
    "text",
    [
        b"", b" ", b"{", b"{}", b"[]", b"null", b"1", b'"v"', b"\x00", b"\xff\xfe", b'{"v":1}', b"NaN",
        b'{"v":1,"seq":5,"epoch":2,"holder":"\xff","tries":0,"filter":[]}',
        b'{"v":1,"seq":5,"epoch":2,"holder":"a","tries":0,"filter":[]} x',
        b'{"v":1,"seq":5,"epoch":2,"holder":"a","tries":0,"filter":[],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"[" * 100_000,
    ],
)  # fmt: skip
def test_text_when_it_is_no_cursor_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        decode_value(text)
    assert type(caught.value) is ValueError


@given(st.binary(max_size=200))
def test_bytes_when_random_are_refused_with_a_value_error(data: bytes) -> None:
    is_delete_marker(data)
    may_be_free(data)
    with pytest.raises(ValueError, match=r"."):
        decode_value(data)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (b"", False),
        (b"NATS/1.0\r\n\r\n", False),
        (b"NATS/1.0\r\nKV-Operation: DEL\r\n\r\n", True),
        (b"NATS/1.0\r\nKV-Operation: PURGE\r\nNats-Rollup: sub\r\n\r\n", True),
        (b"NATS/1.0\r\nNats-Rollup: sub\r\nKV-Operation:PURGE\r\n\r\n", True),
        (b"NATS/1.0\r\nNats-Marker-Reason: MaxAge\r\n\r\n", True),
        (b"NATS/1.0\r\nKV-Operation: PUT\r\n\r\n", False),
        (b"NATS/1.0\r\nX: KV-Operation: DEL\r\n\r\n", False),
        (b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: 4\r\n\r\n", False),
    ],
)
def test_marker_when_looked_for_is_told_from_other_headers(headers: bytes, expected: bool) -> None:
    assert is_delete_marker(headers) is expected


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"", True),
        (b'{"v":1,"holder":"","seq":1}', True),
        (b'{\n "holder" : ""\n}', True),
        (b'{"v":1,"holder":"a","filter":[""]}', False),
        (b"nonsense", False),
    ],
)
def test_hint_when_the_holder_is_empty_may_mean_free(payload: bytes, expected: bool) -> None:
    assert may_be_free(payload) is expected
