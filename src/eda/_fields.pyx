"""The fields of an event: checks of the values that users give, and conversions of meta entries and times."""

from cpython.dict cimport PyDict_Next
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint32_t

from eda._bytes cimport READ_OK, Cursor, skip_field, take_bytes, take_tag

from datetime import datetime, timedelta

from eda.errors import ConfigError
from eda.receipt import Receipt
from eda.times import EPOCH

__all__: list = []

_INT64_MIN = -(2**63)
_INT64_MAX = 2**63 - 1


cdef str check_text(str name, object value):
    if not isinstance(value, str):
        if type(value) is not Receipt or name != "cause" or not isinstance(value.id, str):
            raise ConfigError(f"{name} must be a str, not {type(value).__name__}", argument=name)
        value = value.id
    return value if type(value) is str else str.__str__(value)     # a plain str, also for a subclass such as StrEnum


cdef tuple check_meta(object value):
    if value is None:
        return None
    cdef dict meta
    try:
        meta = value if type(value) is dict else dict(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"meta must map str to str, not be {type(value).__name__}", argument="meta") from error
    return flatten(meta) if meta else None


cdef tuple flatten(dict meta):
    cdef tuple texts = PyTuple_New(2 * len(meta))
    cdef PyObject* key
    cdef PyObject* value
    cdef str text
    cdef Py_ssize_t cursor = 0, i = 0
    # The loop calls no code of the user, because that code might change the dict.
    while i < len(texts) and PyDict_Next(meta, &cursor, &key, &value):
        if not isinstance(<object>key, str) or not isinstance(<object>value, str):
            raise ConfigError(f"meta must map str to str; the entry {<object>key!r} does not", argument="meta")
        # Only plain str are kept: an instance of a subclass could be part of a reference cycle, and the garbage
        # collector does not track the event.
        text = <str>key if type(<object>key) is str else check_text("meta", <object>key)
        Py_INCREF(text)
        PyTuple_SET_ITEM(texts, i, text)
        text = <str>value if type(<object>value) is str else check_text("meta", <object>value)
        Py_INCREF(text)
        PyTuple_SET_ITEM(texts, i + 1, text)
        i += 2
    return texts


cdef dict to_dict(tuple meta):
    cdef dict result = {}
    cdef Py_ssize_t i
    if meta is not None:
        for i in range(0, len(meta), 2):
            result[meta[i]] = meta[i + 1]
    return result


cdef dict read_meta(const unsigned char* data, Py_ssize_t n):
    """Return the meta entries in a part of an envelope that the codec has checked."""
    cdef Cursor c
    cdef Cursor entry
    cdef uint32_t field, wire_type
    cdef const unsigned char* text
    cdef Py_ssize_t n_text
    cdef dict meta = {}
    c.pos = data
    c.end = data + n
    while c.pos < c.end and take_tag(&c, &field, &wire_type) == READ_OK:
        if field != 10:
            if skip_field(&c, field, wire_type) != READ_OK:
                break
            continue
        if take_bytes(&c, &text, &n_text) != READ_OK:
            break
        entry.pos = text
        entry.end = text + n_text
        key = value = ""
        while entry.pos < entry.end and take_tag(&entry, &field, &wire_type) == READ_OK:
            if field > 2:
                if skip_field(&entry, field, wire_type) != READ_OK:
                    break
                continue
            if take_bytes(&entry, &text, &n_text) != READ_OK:
                break
            if field == 1:
                key = PyUnicode_DecodeUTF8(<const char*>text, n_text, NULL)
            else:
                value = PyUnicode_DecodeUTF8(<const char*>text, n_text, NULL)
        meta[key] = value
    return meta


cdef int64_t check_time(object value) except? -1:
    if value is None:
        return 0
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ConfigError(f"time must be an aware datetime: {value!r} has no time zone", argument="time")
        delta = value - EPOCH
        value = (delta.days * 86400 + delta.seconds) * 1_000_000_000 + delta.microseconds * 1000
    elif not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError(
            f"time must be an aware datetime or int nanoseconds since 1970, not {type(value).__name__}", argument="time"
        )
    if not _INT64_MIN <= value <= _INT64_MAX:
        raise ConfigError("time does not fit into 64-bit nanoseconds since 1970: 1677 to 2262", argument="time")
    if value == 0:
        # In an envelope 0 means "not set", so the publish would replace it by the present time.
        raise ConfigError(
            "time must not be 1970-01-01 00:00:00 UTC: in an envelope this time means that no time is set. With None, "
            "the event gets the time of its publish",
            argument="time",
        )
    return value


cdef object to_datetime(int64_t ns):
    if ns == 0:
        return None
    return EPOCH + timedelta(microseconds=ns // 1000)


cdef str to_rfc3339(int64_t ns):
    if ns == 0:
        return None
    whole = EPOCH + timedelta(seconds=ns // 1_000_000_000)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{ns % 1_000_000_000:09d}Z"
