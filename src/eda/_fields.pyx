"""The fields of an event: what users give is checked, and times are turned into what users read."""

from libc.stdint cimport int64_t

from datetime import datetime, timedelta, timezone

from eda.errors import ConfigError

__all__: list = []

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_INT64_MIN = -(2**63)
_INT64_MAX = 2**63 - 1


cdef str check_text(str name, object value):
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be a str, not {type(value).__name__}", argument=name)
    return value if type(value) is str else str.__str__(value)     # of a subclass, such as StrEnum


cdef dict check_meta(object value):
    if value is None:
        return None
    cdef dict meta
    try:
        meta = (<dict>value).copy() if type(value) is dict else dict(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"meta must map str to str, not be {type(value).__name__}", argument="meta") from error
    cdef bint has_odd = False
    for key, text in meta.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise ConfigError(f"meta must map str to str; the entry {key!r} does not", argument="meta")
        has_odd = has_odd or type(key) is not str or type(text) is not str
    if has_odd:                             # of a subclass: anything may hang on it, and an event is left to refcount
        return {check_text("meta", key): check_text("meta", text) for key, text in meta.items()}
    return meta


cdef int64_t check_time(object value) except? -1:
    if value is None:
        return 0
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ConfigError(f"time must be an aware datetime: {value!r} has no time zone", argument="time")
        delta = value - _EPOCH
        value = (delta.days * 86400 + delta.seconds) * 1_000_000_000 + delta.microseconds * 1000
    elif not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(
            f"time must be an aware datetime or int nanoseconds since 1970, not {type(value).__name__}", argument="time"
        )
    if not _INT64_MIN <= value <= _INT64_MAX:
        raise ConfigError(f"time does not fit into 64-bit nanoseconds since 1970: {value}", argument="time")
    return value


cdef object to_datetime(int64_t ns):
    if ns == 0:
        return None
    return _EPOCH + timedelta(microseconds=ns // 1000)


cdef str to_rfc3339(int64_t ns):
    if ns == 0:
        return None
    whole = _EPOCH + timedelta(seconds=ns // 1_000_000_000)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{ns % 1_000_000_000:09d}Z"
