"""eda.jetstream.subjects: names, tokens, subjects and filters."""

from __future__ import annotations

import itertools
import re
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eda.errors import ConfigError
from eda.jetstream.subjects import (
    check_name,
    check_stream_name,
    escape_token,
    filter_subjects,
    is_covered,
    overlaps,
    parse_subject,
    stream_subjects,
    subject_of,
    unescape_token,
)

texts = st.text(st.characters(exclude_categories=["Cs"]))
nasty_texts = texts | st.text("._%*>\r\n\t\0 \x7fé5F", max_size=6)
streams = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", fullmatch=True)
no_text: list[Any] = [None, 5, b"bytes", ["s"]]


@pytest.mark.parametrize("name", ["s", "0", "S" * 64, "a_b-c", "subjects-dead"])
def test_stream_name_when_valid_is_accepted(name: str) -> None:
    check_stream_name(name)


bad_stream_names = ["", "S" * 65, "_s", "-s", "s\n", "a b", "a.b", "*", ">", "é", "\ud800", *no_text]


@pytest.mark.parametrize("name", bad_stream_names)
def test_stream_name_when_invalid_is_refused_by_name_and_value(name: Any) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"digit, not {name!r}")) as caught:
        check_stream_name(name)
    assert caught.value.argument == "stream"


@pytest.mark.parametrize("name", ["n", "_n", "-", "N" * 64])
def test_name_when_valid_is_accepted(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", "N" * 65, "n\n", "a b", "a.b", "é", *no_text])
def test_name_when_invalid_is_refused_by_name_and_value(name: Any) -> None:
    with pytest.raises(ConfigError, match=re.escape(repr(name))) as caught:
        check_name(name)
    assert caught.value.argument == "name"


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("", "_"),
        ("_", "%5F"),
        ("__", "__"),
        ("a.b", "a%2Eb"),
        ("*", "%2A"),
        (">", "%3E"),
        ("100%", "100%25"),
        ("a b\r\n", "a%20b%0D%0A"),
        ("\0\x7f", "%00%7F"),
        ("über\u2028", "über\u2028"),
        ("a/b:c", "a/b:c"),
    ],
)
def test_token_when_escaped_is_as_on_the_wire(text: str, token: str) -> None:
    assert escape_token(text) == token
    assert unescape_token(token) == text


@given(nasty_texts)
def test_token_when_escaped_by_bytes_is_the_same(text: str) -> None:
    escape = {*range(0x21), 0x7F, *b".*>%"}
    escaped = b"".join(b"%%%02X" % byte if byte in escape else bytes([byte]) for byte in text.encode())
    assert escape_token(text) == {"": "_", "_": "%5F"}.get(text, escaped.decode())


@given(nasty_texts)
def test_token_when_round_tripped_is_equal_and_safe(text: str) -> None:
    token = escape_token(text)
    assert unescape_token(token) == text
    assert re.fullmatch(r"[^\x00-\x20\x7f.*>]+", token)


@given(nasty_texts | st.builds(quote, texts))
def test_unescape_when_it_accepts_a_token_gives_the_text_of_it(token: str) -> None:
    try:
        text = unescape_token(token)
    except ConfigError:
        return
    assert escape_token(text) == token


bad_tokens = ["", "%", "%2", "%zz", "%2e", "%41", "%5F5F", "%FF", "%C3%A9", "a b", "\ud800", *no_text]


@pytest.mark.parametrize("token", bad_tokens)
def test_unescape_when_the_token_is_not_an_escaped_text_is_refused(token: Any) -> None:
    with pytest.raises(ConfigError, match=re.escape(repr(token))) as caught:
        unescape_token(token)
    assert caught.value.argument == "token"


@pytest.mark.parametrize("text", ["\ud800", "a\udfff", *no_text])
def test_escape_when_given_no_text_is_refused(text: Any) -> None:
    with pytest.raises(ConfigError):
        escape_token(text)


@given(streams, nasty_texts, nasty_texts)
def test_subject_when_parsed_gives_its_parts(stream: str, type_: str, aggregate: str) -> None:
    subject = subject_of(stream, type_, aggregate)
    assert subject.count(".") == 2
    assert parse_subject(subject) == (stream, type_, aggregate)


def test_subject_when_type_and_aggregate_are_empty_has_three_tokens() -> None:
    assert subject_of("s", "", "") == "s._._"


def test_parse_when_given_the_bare_stream_gives_empty_texts() -> None:
    assert parse_subject("s") == ("s", "", "")


bad_subjects = ["", "s.a", "s.a.b.c", "s..b", "s.a.", ".a.b", "s.*.b", "s.%2e.b", "s\n", *no_text]


@pytest.mark.parametrize("subject", bad_subjects)
def test_parse_when_the_shape_is_wrong_is_refused(subject: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_subject(subject)
    assert caught.value.argument == "subject"


@pytest.mark.parametrize(
    ("stream", "type_", "aggregate", "argument"),
    [
        ("a.b", "t", "a", "stream"),
        ("s", None, "a", "type"),
        ("s", "t", 5, "aggregate"),
        ("s", "\ud800", "a", "type"),
    ],
)
def test_subject_when_a_part_is_bad_names_it(stream: Any, type_: Any, aggregate: Any, argument: str) -> None:
    with pytest.raises(ConfigError) as caught:
        subject_of(stream, type_, aggregate)
    assert caught.value.argument == argument


def test_stream_subjects_when_asked_are_the_stream_and_all_below() -> None:
    assert stream_subjects("s") == ["s", "s.>"]


@pytest.mark.parametrize(
    ("types", "aggregate", "subjects"),
    [
        (None, None, []),
        (["t"], None, ["s", "s.t.*"]),
        (None, "a", ["s", "s.*.a"]),
        (["t", "u"], "a", ["s", "s.t.a", "s.u.a"]),
        (["t", "u", "t"], None, ["s", "s.t.*", "s.u.*"]),
        (None, "", ["s", "s.*._"]),
        (["", "_"], "a.b", ["s", "s._.a%2Eb", "s.%5F.a%2Eb"]),
        (["*"], ">", ["s", "s.%2A.%3E"]),
        ([], None, ["s"]),
    ],
)
def test_filter_when_built_asks_for_the_stream_and_what_matches(
    types: list[str] | None, aggregate: str | None, subjects: list[str]
) -> None:
    assert filter_subjects("s", types, aggregate) == subjects


@pytest.mark.parametrize(
    ("stream", "types", "aggregate", "argument"),
    [
        ("a.b", None, None, "stream"),
        ("s", "enrolled", None, "types"),
        ("s", ["t", None], None, "types"),
        ("s", None, 5, "aggregate"),
    ],
)
def test_filter_when_a_part_is_bad_names_it(stream: Any, types: Any, aggregate: Any, argument: str) -> None:
    with pytest.raises(ConfigError) as caught:
        filter_subjects(stream, types, aggregate)
    assert caught.value.argument == argument


# --- patterns --------------------------------------------------------------------------------------------------------

PATTERNS = [".".join(tokens) for n in (1, 2, 3) for tokens in itertools.product(("a", "b", "*", ">"), repeat=n)]
PATTERNS = [each for each in PATTERNS if ">" not in each[:-1]]
SUBJECTS = [".".join(tokens) for n in (1, 2, 3, 4) for tokens in itertools.product("ab", repeat=n)]


def matching(pattern: str) -> set[str]:
    """The subjects that match a pattern, by a regular expression."""
    expression = re.escape(pattern).replace(r"\*", r"[^.]+").replace(">", ".+")
    return {subject for subject in SUBJECTS if re.fullmatch(expression, subject)}


MATCHING = {pattern: matching(pattern) for pattern in PATTERNS}


def test_patterns_when_compared_cover_and_overlap_as_the_subjects_say() -> None:
    for one, other in itertools.product(PATTERNS, repeat=2):
        assert overlaps(one, other) == bool(MATCHING[one] & MATCHING[other]), (one, other)
        if ">" not in other:
            assert is_covered(other, [one]) == (MATCHING[other] <= MATCHING[one]), (one, other)
    for pattern, subject in itertools.product(PATTERNS, SUBJECTS):
        assert is_covered(subject, [pattern]) == (subject in MATCHING[pattern]), (pattern, subject)
