"""The kinds of values that options take: durations, points in time, and sizes."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import click

__all__ = ["DURATION", "INTERVAL", "NOTHING", "SIZE", "WHEN", "may_be_none", "or_none", "time_beside_places"]

MAX_S = 100 * 366 * 86400  # seconds: a hundred years
MAX_BYTES = 2**63 - 1
LEAST_INTERVAL_S = 0.1  # so that a command does not keep the server busy

_UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|min|[smhdw]))+", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|min|[smhdw])", re.ASCII)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.ASCII)


class _Duration(click.ParamType):  # type: ignore[type-arg]  # generic in new versions only
    """A duration such as 90s, 1h30m or 2d, as seconds; at least `least_s`."""

    name = "duration"

    def __init__(self, least_s: float = 0.0) -> None:
        self._least_s = least_s

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, int | float):
            return float(value)
        text = str(value).strip().lower()
        if not _DURATION.fullmatch(text):
            self.fail(f"{value!r} is not a duration: write 500ms, 90s, 5m, 1h30m, 2d or 1w", param, ctx)
        seconds = sum(float(number) * _UNITS_S[unit] for number, unit in _DURATION_PART.findall(text))
        if seconds > MAX_S:
            self.fail(f"{value!r} is longer than a hundred years", param, ctx)
        if seconds < self._least_s:
            self.fail(f"{value!r} is too short: give at least {self._least_s * 1000:.0f}ms", param, ctx)
        return seconds


class _When(click.ParamType):  # type: ignore[type-arg]  # generic in new versions only
    """A point in time: an ISO 8601 time, or a duration before now. The value is an aware datetime in UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        text = str(value).strip()
        if _DURATION.fullmatch(text.lower()):
            return datetime.now(UTC) - timedelta(seconds=DURATION.convert(text, param, ctx))
        try:
            # A time without an offset is in the zone of this machine.
            return datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError, OSError):
            self.fail(
                f"{value!r} is not a time: write 2026-11-30, 2026-11-30T10:00:00Z, or how long ago, such as 1h or 2d",
                param,
                ctx,
            )


class _Size(click.ParamType):  # type: ignore[type-arg]  # generic in new versions only
    """A size such as 500MB or 10GiB, as bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(str(value).strip().lower())
        if match is None or match[2] not in _UNITS:
            self.fail(f"{value!r} is not a size: write a number of bytes, or 500MB, 10GB or 2GiB", param, ctx)
        size = int(Decimal(match[1]) * _UNITS[match[2]])
        if size > MAX_BYTES:
            self.fail(f"{value!r} is more than {MAX_BYTES} bytes, which no stream can hold", param, ctx)
        return size


class _OrNone(click.ParamType):  # type: ignore[type-arg]  # generic in new versions only
    """A value of another kind, or `none`, which becomes NOTHING: None means that the option was not given."""

    def __init__(self, kind: click.ParamType) -> None:  # type: ignore[type-arg]
        self.name = kind.name
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value."""
        return NOTHING if value == NOTHING else self._kind.convert(value, param, ctx)


def time_beside_places(value: Any, param: click.Parameter | None = None, ctx: click.Context | None = None) -> datetime:
    """Return a point in time, where a place in a stream can be given, too. Raises BadParameter, which tells of both."""
    try:
        time: datetime = WHEN.convert(value, param, ctx)
    except click.BadParameter as error:
        message = f"{error.message}; for a place in the stream, write a sequence such as 7, or 7.3 in a pack"
        raise click.BadParameter(message, ctx, param) from None
    return time


def or_none(kind: Any) -> Any:
    """Return a click type: values of `kind`, or `none`, which becomes NOTHING."""
    return _OrNone(kind)


def may_be_none(kind: Any) -> bool:
    """Return whether an option of this kind takes `none`."""
    return isinstance(kind, _OrNone)


NOTHING = "none"
DURATION: Any = _Duration()
INTERVAL: Any = _Duration(LEAST_INTERVAL_S)
WHEN: Any = _When()
SIZE: Any = _Size()
