"""Streams, types and aggregates as subjects: `S.<type>.<aggregate>`, each token escaped."""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import suppress
from urllib.parse import unquote

from eda.errors import ConfigError
from eda.names import STREAM_NAME, SUBSCRIPTION_NAME
from eda.transport._frame import MAX_CONTROL_LINE

__all__ = [
    "PACK_TOKEN",
    "aggregate_filter",
    "check_name",
    "check_stream_name",
    "covers",
    "escape_token",
    "filter_subjects",
    "fits_protocol_line",
    "is_covered",
    "overlaps",
    "parse_subject",
    "shown_filter",
    "stream_subjects",
    "subject_of",
    "unescape_token",
]

# The token of a pack's subject for a type or aggregate that is not the same in all events. No text is escaped to it.
PACK_TOKEN = "%pack"

N_REPLY = 128  # bytes of a protocol line for all but the subject: reply subject and sizes take fewer

# The characters that must be escaped: those that end a token, a subject or a protocol line, the wildcards, and `%`.
# Each is one byte in UTF-8.
_ESCAPES = {code: f"%{code:02X}" for code in (*range(0x21), 0x7F, *b".*>%")}
_find_escape = re.compile(r"[\x00-\x20\x7f.*>%]").search  # quicker than `translate` where nothing is escaped


def check_stream_name(name: str) -> str:
    """Return the stream's name as a plain str. Raises ConfigError unless it is `[A-Za-z0-9][A-Za-z0-9_-]{0,63}`."""
    if not isinstance(name, str) or not STREAM_NAME.fullmatch(name):
        raise ConfigError(
            f"stream must be 1 to 64 of A-Z a-z 0-9 _ - and begin with a letter or digit, not {name!r}",
            argument="stream",
        )
    return str.__str__(name)


def check_name(name: str) -> str:
    """Return the subscription's name as a plain str. Raises ConfigError unless it is `[A-Za-z0-9_-]{1,64}`."""
    if not isinstance(name, str) or not SUBSCRIPTION_NAME.fullmatch(name):
        raise ConfigError(f"name must be 1 to 64 of A-Z a-z 0-9 _ -, not {name!r}", argument="name")
    return str.__str__(name)


def escape_token(text: str) -> str:
    """Return the text as one token of a subject. Raises ConfigError for lone surrogates, or if it is not a str."""
    return _escape(text, "text")


def unescape_token(token: str) -> str:
    """Return the text of a token. Raises ConfigError if `escape_token` can't have made the token."""
    if isinstance(token, str):
        with suppress(ConfigError, UnicodeDecodeError):
            text = "" if token == "_" else unquote(token, errors="strict")
            if escape_token(text) == token:
                return text
    raise ConfigError(f"token {token!r} is not an escaped text", argument="token")


def subject_of(stream: str, type: str, aggregate: str) -> str:
    """Return the subject of an event, which always has three tokens.

    The length is not checked here, since only the connection knows the limit of a protocol line. Raises ConfigError for
    a wrong stream name, and for a type or aggregate that is not valid Unicode.
    """
    stream = check_stream_name(stream)
    return f"{stream}.{_escape(type, 'type')}.{_escape(aggregate, 'aggregate')}"


def aggregate_filter(stream: str, aggregate: str) -> str:
    """Return the filter of an aggregate's events, `S.*.<aggregate>`.

    It is also the filter of all expectations on the aggregate: a replicated stream finds the messages that are still on
    their way by the literal text of the filter, so all writers must send the same text.
    """
    return f"{stream}.*.{escape_token(aggregate)}"


def fits_protocol_line(subject: str) -> bool:
    """Return whether the server takes a message to this subject: its default `max_control_line` is 4,096 bytes."""
    return len(subject.encode()) + N_REPLY <= MAX_CONTROL_LINE


def stream_subjects(stream: str) -> list[str]:
    """Return the subjects to which the stream listens. Raises ConfigError for a wrong stream name."""
    stream = check_stream_name(stream)
    return [stream, f"{stream}.>"]


def is_covered(subject: str, patterns: Collection[str]) -> bool:
    """Return whether one of the patterns, which may have wildcards, matches the subject."""
    tokens = subject.split(".")
    for pattern in patterns:
        wanted = pattern.split(".")
        if wanted[-1] == ">" and len(tokens) >= len(wanted):
            wanted, own = wanted[:-1], tokens[: len(wanted) - 1]
        else:
            own = tokens
        if len(wanted) == len(own) and all(each in ("*", token) for each, token in zip(wanted, own, strict=True)):
            return True
    return False


def overlaps(pattern: str, subject: str) -> bool:
    """Return whether some subject matches both. Both may have wildcards."""
    parts, tokens = pattern.split("."), subject.split(".")
    for part, token in zip(parts, tokens, strict=False):
        if ">" in (part, token):
            return True
        if "*" not in (part, token) and part != token:
            return False
    return len(parts) == len(tokens)


def filter_subjects(stream: str, types: Collection[str] | None, aggregate: str | None) -> list[str]:
    """Return the subjects for the server's filter: [] without a filter, else the bare stream and the matching subjects.

    The bare stream is included because other programs may publish to it, and only the envelope of such an event says
    whether it matches. An empty text is a filter like any other: it selects events without a type or aggregate. Raises
    ConfigError for a wrong stream name, type or aggregate.
    """
    stream = check_stream_name(stream)
    if types is None and aggregate is None:
        return []
    if isinstance(types, str):
        raise ConfigError(f"types must be a list of types, not the str {types!r}", argument="types")
    type_tokens = ["*"] if types is None else [_escape(type, "types") for type in types]
    aggregate_token = "*" if aggregate is None else _escape(aggregate, "aggregate")
    return list(dict.fromkeys([stream, *(f"{stream}.{token}.{aggregate_token}" for token in type_tokens)]))


def shown_filter(subjects: list[str]) -> str:
    """Return a filter as text for messages."""
    return str(sorted(subjects)) if subjects else "nothing (all events)"


def covers(wide: list[str], narrow: list[str]) -> bool:
    """Return whether `wide` matches every subject that `narrow` matches. An empty filter matches all subjects."""
    if not wide or not narrow:
        return not wide
    return all(is_covered(subject, wide) for subject in narrow)


def parse_subject(subject: str) -> tuple[str, str, str]:
    """Return the stream, type and aggregate of a subject; the last two are empty for the bare stream.

    Raises ConfigError unless the subject is a bare stream or has the form that `subject_of` returns.
    """
    try:
        stream, *tokens = subject.split(".")
        check_stream_name(stream)
        if not tokens:
            return stream, "", ""
        type_token, aggregate_token = tokens
        return stream, unescape_token(type_token), unescape_token(aggregate_token)
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"subject {subject!r} is not the subject of an event", argument="subject") from error


def _escape(text: str, argument: str) -> str:
    if not isinstance(text, str):
        raise ConfigError(f"{argument} must be a str, not {text!r}", argument=argument)
    text = str.__str__(text)  # a plain str: a subclass may have other methods
    if text in ("", "_"):
        return "%5F" if text else "_"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"{argument} {text!r} is not valid Unicode", argument=argument) from error
    return text.translate(_ESCAPES) if _find_escape(text) is not None else text
