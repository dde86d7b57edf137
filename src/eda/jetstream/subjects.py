"""Streams, types and aggregates as subjects: `S.<type>.<aggregate>`, each token escaped."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from urllib.parse import unquote

from eda.errors import ConfigError
from eda.names import STREAM_NAME, SUBSCRIPTION_NAME
from eda.transport._frame import MAX_CONTROL_LINE

__all__ = [
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

N_REPLY = 128  # bytes of a protocol line: more than its reply subject and sizes take

# What would end a token, a subject or a protocol line, the wildcards, and the escape itself: all ASCII, so
# that escaping characters is the same as escaping the bytes of their UTF-8.
_ESCAPES = {code: f"%{code:02X}" for code in (*range(0x21), 0x7F, *b".*>%")}


def check_stream_name(name: str) -> str:
    """Give the name, also that of a subclass, as a str. ConfigError: it is not `[A-Za-z0-9][A-Za-z0-9_-]{0,63}`."""
    if not isinstance(name, str) or not STREAM_NAME.fullmatch(name):
        raise ConfigError(
            f"stream must be 1 to 64 of A-Z a-z 0-9 _ - and begin with a letter or digit, not {name!r}",
            argument="stream",
        )
    return str.__str__(name)


def check_name(name: str) -> str:
    """Give the subscription's name as a str. ConfigError: it is not `[A-Za-z0-9_-]{1,64}`."""
    if not isinstance(name, str) or not SUBSCRIPTION_NAME.fullmatch(name):
        raise ConfigError(f"name must be 1 to 64 of A-Z a-z 0-9 _ -, not {name!r}", argument="name")
    return str.__str__(name)


def escape_token(text: str) -> str:
    """Give the text as one token of a subject. ConfigError: no str, or one with lone surrogates."""
    return _escape(text, "text")


def unescape_token(token: str) -> str:
    """Give the text of a token. ConfigError: not a token that `escape_token` gives."""
    if isinstance(token, str):
        with suppress(ConfigError, UnicodeDecodeError):
            text = "" if token == "_" else unquote(token, errors="strict")
            if escape_token(text) == token:
                return text
    raise ConfigError(f"token {token!r} is not an escaped text", argument="token")


def subject_of(stream: str, type: str, aggregate: str) -> str:
    """Give the subject of an event: always three tokens.

    Its length is not checked here: how much a protocol line may hold is the connection's to know.
    ConfigError: a bad stream name, or a type or aggregate that is not valid Unicode.
    """
    stream = check_stream_name(stream)
    return f"{stream}.{_escape(type, 'type')}.{_escape(aggregate, 'aggregate')}"


def fits_protocol_line(subject: str) -> bool:
    """Return whether the server takes a message to this subject: its default `max_control_line` is 4,096 bytes."""
    return len(subject.encode()) + N_REPLY <= MAX_CONTROL_LINE


def stream_subjects(stream: str) -> list[str]:
    """Give the subjects that the stream listens to. ConfigError: a bad stream name."""
    stream = check_stream_name(stream)
    return [stream, f"{stream}.>"]


def is_covered(subject: str, patterns: Collection[str]) -> bool:
    """Whether one of the patterns (subjects, perhaps with wildcards) takes the subject."""
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
    """Whether some subject matches both, which may have wildcards."""
    parts, tokens = pattern.split("."), subject.split(".")
    for part, token in zip(parts, tokens, strict=False):
        if ">" in (part, token):
            return True
        if "*" not in (part, token) and part != token:
            return False
    return len(parts) == len(tokens)


def filter_subjects(stream: str, types: Collection[str] | None, aggregate: str | None) -> list[str]:
    """Give the subjects to ask the server for: none without a filter, else the stream and what matches.

    The bare stream is asked for because others may publish to it; only the envelope tells whether such an
    event matches. The empty text is a filter like any other: events without a type, or without an aggregate.
    ConfigError: a bad stream name, or a type or aggregate that can't be one.
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
    """Return a filter as messages show it."""
    return str(sorted(subjects)) if subjects else "nothing (all events)"


def covers(wide: list[str], narrow: list[str]) -> bool:
    """Whether every subject that `narrow` matches is matched by `wide`; an empty filter matches all."""
    if not wide or not narrow:
        return not wide
    return all(is_covered(subject, wide) for subject in narrow)


def parse_subject(subject: str) -> tuple[str, str, str]:
    """Give the stream, type and aggregate of a subject; the last two are empty for the bare stream.

    ConfigError: neither the bare stream nor three tokens as `subject_of` gives them.
    """
    try:
        stream, *tokens = subject.split(".")
        check_stream_name(stream)
        if not tokens:
            return stream, "", ""
        type_token, aggregate_token = tokens
        return stream, unescape_token(type_token), unescape_token(aggregate_token)
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"subject {subject!r} is not that of an event", argument="subject") from error


def _escape(text: str, argument: str) -> str:
    if not isinstance(text, str):
        raise ConfigError(f"{argument} must be a str, not {text!r}", argument=argument)
    text = str.__str__(text)  # of a subclass, whose methods may be its own
    if text in ("", "_"):
        return "%5F" if text else "_"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"{argument} {text!r} is not valid Unicode", argument=argument) from error
    return text.translate(_ESCAPES)
