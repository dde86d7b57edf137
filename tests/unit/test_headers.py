"""eda.headers: texts from anywhere stay within their header, and header blocks of any kind can be read."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eda.headers import MAX_TEXT, escape_text, read_headers, size_of_headers


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("", ""),
        ("plain text: it's ~fine~", "plain text: it's ~fine~"),
        ("100 %", "100 %25"),
        ("a\r\nEda-Replay-For: b", "a%0D%0AEda-Replay-For: b"),
        ("\x00\t\x1f\x7f", "%00%09%1F%7F"),
        ("Zoë", "Zo%C3%AB"),
        ("\x85\u2028", "%C2%85%E2%80%A8"),
        ("\U0001f600", "%F0%9F%98%80"),
        ("\udc80", "%5C%75%64%63%38%30"),
    ],
)
def test_escape_text_when_given_a_text_escapes_what_could_leave_the_header(text: str, escaped: str) -> None:
    assert escape_text(text) == escaped


@given(st.text(max_size=2000), st.integers(0, MAX_TEXT))
def test_escape_text_when_given_any_text_is_printable_short_and_whole(text: str, most: int) -> None:
    escaped = escape_text(text, most)
    assert len(escaped) <= most
    assert all(" " <= char <= "~" for char in escaped)
    assert text.encode(errors="backslashreplace").decode().startswith(unquote(escaped, errors="strict"))
    if len(escape_text(text, 10**6)) <= most:
        assert unquote(escaped) == text.encode(errors="backslashreplace").decode()


@pytest.mark.parametrize("most", range(12))
def test_escape_text_when_cut_anywhere_splits_no_character(most: int) -> None:
    assert escape_text("a%é€", most) == next(
        cut for cut in ("a%25%C3%A9%E2%82%AC", "a%25%C3%A9", "a%25", "a", "") if len(cut) <= most
    )


def test_size_of_headers_when_compared_with_the_block_is_its_length() -> None:
    headers = {"Nats-Msg-Id": "dead:me:7", "Eda-Dead-Error": "no"}
    block = b"NATS/1.0\r\nNats-Msg-Id: dead:me:7\r\nEda-Dead-Error: no\r\n\r\n"
    assert size_of_headers(headers) == len(block)
    assert read_headers(block) == headers


@pytest.mark.parametrize(
    ("block", "headers"),
    [
        (b"", {}),
        (b"NATS/1.0\r\n\r\n", {}),
        (b"NATS/1.0 503\r\n\r\n", {}),
        (b"NATS/1.0\r\nA:1\r\nB:  2 \r\nC:\r\n\r\n", {"A": "1", "B": "2", "C": ""}),
        (b"NATS/1.0\r\nA: first\r\nA: second\r\n\r\n", {"A": "first"}),
        (b"NATS/1.0\r\nno header\r\nA: b:c\r\n\r\n", {"A": "b:c"}),
        (b"NATS/1.0\r\nA: \xff\r\n", {"A": "\ufffd"}),
        (b"A: 1", {}),
    ],
)
def test_read_headers_when_given_any_block_gives_what_is_there(block: bytes, headers: dict[str, str]) -> None:
    assert read_headers(block) == headers
