"""eda.cursors.value: which values of a cursor are accepted, whoever wrote them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eda.cursors.value import (
    CursorValue,
    decode_value,
    encode_value,
    is_delete_marker,
    may_be_free,
    new_value,
    template_of,
)

GOOD: dict[str, Any] = {"v": 1, "seq": 5, "epoch": 2, "holder": "a-b", "tries": 0, "filter": ["s.a.*", "s"]}


def test_value_when_written_is_json_in_the_documented_order() -> None:
    value = new_value(5, 2, "a-b", 1, ["s"], "2026-01-02T03:04:05.6Z", 6, 1764357600123456789)
    written = json.loads(encode_value(value))
    assert list(written) == ["v", "seq", "epoch", "holder", "tries", "filter", "updated", "created", "start", "time"]
    age = datetime.now(UTC) - datetime.fromisoformat(written.pop("updated"))
    assert abs(age.total_seconds()) < 60
    assert written == {
        "v": 1, "seq": 5, "epoch": 2, "holder": "a-b", "tries": 1, "filter": ["s"], "created": "2026-01-02T03:04:05.6Z",
        "start": 6, "time": "1764357600123456789",
    }  # fmt: skip


texts = st.text(st.characters(exclude_categories=["Cs"]))


sequences = st.integers(0, 2**63 - 1)


@given(sequences, st.integers(0, 2**53), texts, st.integers(0, 2**53), st.lists(texts), texts, sequences, sequences)
def test_value_when_written_and_read_is_the_same(
    seq: int, epoch: int, holder: str, tries: int, filter: list[str], created: str, start: int, stored_ns: int
) -> None:
    value = new_value(seq, epoch, holder, tries, filter, created, start, stored_ns % (9 * 10**18))
    read = decode_value(encode_value(value))
    assert decode_value(template_of(value) % (seq, value.stored_ns)) == read
    fields = [name for name in CursorValue.__struct_fields__ if name != "updated"]
    assert [getattr(read, name) for name in fields] == [getattr(value, name) for name in fields]
    assert may_be_free(encode_value(value)) or holder


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
        *(("v", wrong) for wrong in (0, 2, "1", True, None, 1.5)),
        *(("seq", wrong) for wrong in (-1, 2**63, 2**64, 1e300, "5", None, True, [5])),
        *(("epoch", wrong) for wrong in (-1, 2**53 + 1, "1", None)),
        *(("tries", wrong) for wrong in (-1, 2**53 + 1, 0.5, None)),
        *(("holder", wrong) for wrong in (None, 5, ["a"], {})),
        *(("filter", wrong) for wrong in (None, "s", [None], [["s"]], {"s": 1})),
        *(("created", wrong) for wrong in (None, 5, [])),
        *(("time", wrong) for wrong in (None, 5, "", "-1", "1.5", "9" * 19, "1" * 20)),
    ],
)
def test_value_when_a_field_has_a_wrong_value_is_refused(key: str, wrong: object) -> None:
    with pytest.raises(ValueError, match=rf"\$\.{key}|out of range|Integer"):
        decode_value(json.dumps(GOOD | {key: wrong}).encode())


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
