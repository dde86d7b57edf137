"""eda.transport._frame: JetStream's reply subjects taken apart, and subject tokens escaped."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eda.jetstream.subjects import escape_token as slow_escape_token
from eda.transport._frame import escape_token, parse_delivery

Delivery = tuple[bytes, bytes, int, int, int, int, int]

NUMBERS = b"3.2000.1000.1700000000123456789.42"
V1 = b"$JS.ACK.orders.worker." + NUMBERS
V2 = b"$JS.ACK.hub.ACCOUNT.orders.worker." + NUMBERS
EXPECTED: Delivery = (b"orders", b"worker", 3, 2000, 1000, 1_700_000_000_123_456_789, 42)

TOKEN = rb"[^.]+"
NUMBER = rb"([0-9]{1,19})"
_REST = rb"\.".join([rb"(%s)" % TOKEN, rb"(%s)" % TOKEN, *[NUMBER] * 5])
_V1 = re.compile(rb"\$JS\.ACK\." + _REST, re.DOTALL)
_V2 = re.compile(rb"\$JS\.ACK\.%s\.%s\." % (TOKEN, TOKEN) + _REST + rb"(?:\.%s)*" % TOKEN, re.DOTALL)


def slow_parse_delivery(reply: bytes) -> Delivery | None:
    if not _V1.fullmatch(reply) and (len(reply) > 1024 or re.search(rb"[^!-~]|[*>]", reply)):
        return None  # tokens that are read by nobody go back to the server as they came
    """Read a reply subject as ADR-15 has it: 9 tokens, or 11 and more with domain and account."""
    found = (_V1 if reply.count(b".") == 8 else _V2).fullmatch(reply)
    if found is None:
        return None
    stream, consumer, *texts = found.groups()
    delivered, stream_seq, consumer_seq, time_ns, pending = (int(text) for text in texts)
    if max(delivered, stream_seq, consumer_seq, time_ns, pending) >= 2**63 or not delivered or not stream_seq:
        return None
    return stream, consumer, delivered, stream_seq, consumer_seq, time_ns, pending


# --- deliveries ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [V1, V2, V2 + b".random", V2 + b".random.later", V2.replace(b"hub", b"_")],
    ids=["9", "11", "12", "13", "no-domain"],
)
def test_delivery_when_the_reply_has_a_known_shape_gives_its_parts(reply: bytes) -> None:
    assert parse_delivery(reply) == slow_parse_delivery(reply) == EXPECTED


def test_delivery_when_later_servers_append_tokens_gives_its_parts() -> None:
    assert parse_delivery(V2 + b".a.b.c") == EXPECTED


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"$",
        b"$JS.ACK",
        b"$JS.ACK.",
        b"$JS.ACK.........",
        b"inbox.1",
        b"$js.ack.orders.worker." + NUMBERS,
        b"$JS.NAK.orders.worker." + NUMBERS,
        b"x" + V1,
        b" " + V1,
        V1 + b".",
        V1 + b".one-more",
        V1.rpartition(b".")[0],
        V2 + b".",
        V2 + b"..x",
        b"$JS.ACK..worker." + NUMBERS,
        b"$JS.ACK.orders.." + NUMBERS,
        b"$JS.ACK..ACCOUNT.orders.worker." + NUMBERS,
        b"$JS.ACK.hub..orders.worker." + NUMBERS,
        V1.replace(b".3.", b".0."),
        V1.replace(b".2000.", b".0."),
        V1.replace(b".2000.", b".-1."),
        V1.replace(b".2000.", b".+1."),
        V1.replace(b".2000.", b". 1."),
        V1.replace(b".2000.", b".9223372036854775808."),
        V1.replace(b".2000.", b".18446744073709551617."),
        V1.replace(b".2000.", b".%s." % (b"1" * 100)),
        V1.replace(b".1000.", b".x."),
        V1.replace(b".17", b".a7"),
        V1[:-2] + b"4x",
    ],
)
def test_delivery_when_the_reply_is_malformed_is_none(reply: bytes) -> None:
    assert parse_delivery(reply) is None
    assert slow_parse_delivery(reply) is None


@pytest.mark.parametrize("token", [b"\xff", "é".encode(), b"a\rb", b"a\x00", b"*", b">", b"a*", b"x" * 1024], ids=repr)
def test_delivery_when_a_token_that_nobody_reads_is_odd_is_none(token: bytes) -> None:
    for reply in (V2 + b"." + token, V2.replace(b".hub.", b".%b." % token), V2.replace(b".ACCOUNT.", b".%b." % token)):
        assert parse_delivery(reply) is None


@pytest.mark.parametrize("reply", [V1, V2, V2 + b".random"], ids=["9", "11", "12"])
def test_delivery_when_cut_anywhere_agrees_with_the_slow_one(reply: bytes) -> None:
    for end in range(len(reply)):
        assert parse_delivery(reply[:end]) == slow_parse_delivery(reply[:end])


@pytest.mark.parametrize("reply", [V1, V2, V2 + b".random"], ids=["9", "11", "12"])
def test_delivery_when_one_byte_is_anything_agrees_with_the_slow_one(reply: bytes) -> None:
    for i in range(len(reply)):
        for byte in range(256):
            changed = reply[:i] + bytes([byte]) + reply[i + 1 :]
            assert parse_delivery(changed) == slow_parse_delivery(changed)


numbers = st.one_of(
    st.integers(0, 2**63 - 1).map(lambda number: b"%d" % number),
    st.sampled_from([b"0", b"1", b"00", b"01", b"-1", b"", b"9223372036854775807", b"9223372036854775808", b"9" * 20]),
)
reply_tokens = st.lists(numbers | st.binary(max_size=5), max_size=11)


@given(reply_tokens)
@settings(deadline=None, max_examples=300)
def test_delivery_when_given_any_tokens_agrees_with_the_slow_one(tokens: list[bytes]) -> None:
    reply = b"$JS.ACK." + b".".join(tokens)
    if reply.count(b".") < 13:
        assert parse_delivery(reply) == slow_parse_delivery(reply)


@given(st.sampled_from([0, 2]), st.lists(numbers, min_size=5, max_size=5), st.integers(0, 2))
@settings(deadline=None, max_examples=300)
def test_delivery_when_given_any_numbers_agrees_with_the_slow_one(
    n_more: int, texts: list[bytes], n_after: int
) -> None:
    reply = b".".join([b"$JS.ACK", *[b"x"] * (n_more + 2), *texts, *[b"x"] * n_after])
    assert parse_delivery(reply) == slow_parse_delivery(reply)


@given(st.binary())
@settings(deadline=None)
def test_delivery_when_given_any_bytes_never_accepts_what_the_slow_one_refuses(tail: bytes) -> None:
    for reply in (tail, b"$JS.ACK." + tail, V1 + tail, V2 + tail):
        if (delivery := parse_delivery(reply)) is not None:
            assert delivery == slow_parse_delivery(reply)


@pytest.mark.parametrize("reply", [None, "text", bytearray(V1)])
def test_delivery_when_given_no_bytes_is_refused(reply: Any) -> None:
    with pytest.raises(TypeError):
        parse_delivery(reply)


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_escape_when_given_each_character_below_256_agrees_with_the_slow_one() -> None:
    for code in range(256):
        for text in (chr(code), f"a{chr(code)}b", chr(code) * 2):
            assert escape_token(text) == slow_escape_token(text)


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.text("._%*>\r\n\t\0 \x7fé5F"))
@settings(deadline=None, max_examples=300)
def test_escape_when_given_any_text_agrees_with_the_slow_one(text: str) -> None:
    assert escape_token(text) == slow_escape_token(text)


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.text("._%*>\r\n\t\0 \x7fé5F"))
@settings(deadline=None, max_examples=300)
def test_escape_when_given_any_text_gives_one_safe_token(text: str) -> None:
    assert re.fullmatch(r"[^\x00-\x20\x7f.*>]+", escape_token(text))


@pytest.mark.parametrize("text", ["", "_", "__", "%5F", "." * 10_000, "é" * 10_000])
def test_escape_when_the_text_is_special_or_long_agrees_with_the_slow_one(text: str) -> None:
    assert escape_token(text) == slow_escape_token(text)


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_escape_when_the_text_has_lone_surrogates_is_refused_by_both(text: str) -> None:
    for escape in (escape_token, slow_escape_token):
        with pytest.raises(ValueError, match=r"surrogate|Unicode"):
            escape(text)


@pytest.mark.parametrize("text", [None, b"text", 5])
def test_escape_when_given_no_text_is_refused(text: Any) -> None:
    with pytest.raises(TypeError):
        escape_token(text)
