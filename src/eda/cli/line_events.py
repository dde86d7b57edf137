"""Reads events from lines of JSON with the fields that `eda tail` prints."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache

import msgspec

import eda
from eda._event_lines import events_of_lines
from eda._json_lines import printed_time_ns
from eda._nuid import next_nuid

__all__ = ["BadLine", "LineEvents"]

NS = 1_000_000_000

_TIME = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_NULL = b"null"


class BadLine(Exception):
    """A line that is no event. The text says why."""


class _Line(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The fields of a line. Those of where the event was stored are read and not used."""

    stream: str = ""
    aggregate: str = ""
    version: int = 0
    sequence: int = 0
    index: int = 0
    type: str = ""
    id: str = ""
    time: str | None = None
    ack_time: str | None = None
    cause: str = ""
    client: str = ""
    schema: str = ""
    meta: dict[str, str] | None = None
    encoding: str = ""
    data: msgspec.Raw = msgspec.Raw()
    data_base64: str | None = None


_decoder = msgspec.json.Decoder(_Line)
_decode_text: Callable[[bytes | msgspec.Raw], str] = msgspec.json.Decoder(str).decode


class LineEvents:
    """Makes events of lines. With `drops_versions`, events of an event store become ordinary events."""

    def __init__(self, *, drops_versions: bool) -> None:
        self._drops_versions = drops_versions

    def of_all(self, lines: bytes) -> list[eda.Event] | None:
        """Return the events of whole lines; None if a line is empty or no event: then `of` must read each."""
        try:
            return events_of_lines(lines, self.of)
        except BadLine:
            return None

    def of(self, line: bytes) -> eda.Event:
        """Return the event of a line. Raises BadLine."""
        try:
            line.decode()
            return self._event(_decoder.decode(line))
        except UnicodeDecodeError as error:
            raise BadLine(f"it is not UTF-8, at byte {error.start + 1}") from None
        except msgspec.ValidationError as error:
            raise BadLine(str(error)) from None
        except msgspec.DecodeError as error:
            raise BadLine(f"it is not JSON: {error}") from None
        except RecursionError:
            raise BadLine("its JSON is nested too deep") from None
        except (eda.EdaError, ValueError) as error:
            raise BadLine(str(error)) from None

    def _event(self, line: _Line) -> eda.Event:
        if line.version and not self._drops_versions:
            raise BadLine(
                f"the event has version {line.version} of an aggregate, which only an event store can give: publish it "
                "with --drop-versions as an ordinary event, or append it in a program with conn.store(...)"
            )
        return eda.Event(
            type=line.type,
            data=_data(line),
            id=line.id or next_nuid(),
            time=None if line.time is None else _time_ns(line.time),
            schema=line.schema,
            cause=line.cause,
            client=line.client,
            aggregate=line.aggregate,
            meta=line.meta,
        )


def _data(line: _Line) -> eda.Data | None:
    encoding, raw = line.encoding, bytes(line.data)
    if line.data_base64 is not None:
        try:
            stored = base64.b64decode(line.data_base64, validate=True)
        except binascii.Error as error:
            raise BadLine(f"data_base64 is not base64: {error}") from None
        return eda.Data.from_encoded(encoding or "bytes", stored)
    if encoding == "json" or (not encoding and raw):
        return eda.Data.from_encoded("json", raw or _NULL)
    if encoding == "string":
        return eda.Data.from_encoded("string", _text(raw).encode())
    if encoding == "msgpack":
        return eda.Data.from_encoded("msgpack", eda.MsgPack(msgspec.json.decode(raw or _NULL)).encode())
    if encoding in ("", "nil"):
        if raw not in (b"", _NULL):
            raise BadLine("its encoding is nil, and it has data")
        return None
    raise BadLine(f"data of encoding {encoding!r} must be given in data_base64")


def _text(raw: bytes) -> str:
    try:
        return _decode_text(raw)
    except msgspec.DecodeError:
        raise BadLine("its encoding is string, and its data is not a text") from None


def _time_ns(text: str) -> int:
    """Return a time of RFC 3339 in nanoseconds since 1970. Raises BadLine."""
    printed = printed_time_ns(text)
    if printed is not None:
        return printed
    match = _TIME.fullmatch(text)
    if match is None:
        raise BadLine(f"time {text!r} is not a time such as 2026-11-30T10:00:00Z")
    day, fraction, zone = match.groups()
    return _seconds(day + ("+00:00" if zone in "Zz" else zone)) * NS + int((fraction or "").ljust(9, "0"))


@lru_cache(1024)
def _seconds(text: str) -> int:
    try:
        time = datetime.fromisoformat(text.replace("t", "T"))
    except ValueError as error:
        raise BadLine(f"time {text!r}: {error}") from None
    return int(time.timestamp())
