"""Units of time, and conversions between times and nanoseconds, for several wings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

__all__ = ["EPOCH", "NS", "from_ns", "rfc3339", "since_epoch_ns", "time_of", "time_text"]

NS = 1_000_000_000  # nanoseconds per second
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_LATEST = datetime(2262, 1, 1, tzinfo=UTC)  # a server counts in 64 bits, so a later time would overflow
_MICROSECOND = timedelta(microseconds=1)


def since_epoch_ns(time: datetime) -> int:
    """Return a time in nanoseconds since 1970, or the nearest time that a server can represent."""
    return (min(max(time, EPOCH), _LATEST) - EPOCH) // _MICROSECOND * 1000


def from_ns(time_ns: int) -> datetime:
    """Return a time, given in nanoseconds since 1970, in whole microseconds."""
    return EPOCH + timedelta(microseconds=time_ns // 1000)


def rfc3339(time_ns: int) -> str:
    """Return a time, given in nanoseconds since 1970, as a text in the form that servers write."""
    seconds, rest_ns = divmod(time_ns, NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest_ns:09d}Z"


def time_text(time_ns: int) -> str:
    """Return a time, given in nanoseconds since 1970, as RFC 3339 in UTC with milliseconds."""
    return from_ns(time_ns).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def time_of(text: object) -> datetime | None:
    """Return the time that a server or member wrote; None if it is not a time, or the zero of Go's times."""
    if not isinstance(text, str):
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo is not None and time.year > 1 else None
