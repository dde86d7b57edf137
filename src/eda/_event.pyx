"""Event: what users publish and receive.

A received event owns one bytes object and points into it; a field becomes a Python value when it is first read.
Whoever fills the spans (the codec) has checked that they lie within the bytes and that texts are UTF-8.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject, PyObject_GenericGetAttr, PyTypeObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint32_t

from datetime import datetime, timedelta, timezone

from eda._bytes cimport READ_OK, Cursor, is_ascii, skip_field, take_bytes, take_tag
from eda._data cimport (
    NIL, Data, Idle, has_room, is_left_to_refcount, leave_to_refcount, put_idle, received_data, take_idle, watch_idle,
)
from eda._texts cimport ascii_text, shared_text

from eda.errors import ConfigError

__all__ = ["Event"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_INT64_MIN = -(2**63)
_INT64_MAX = 2**63 - 1


cdef str check_text(str name, object value):
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be a str, not {type(value).__name__}", argument=name)
    return value if type(value) is str else str.__str__(value)     # of a subclass, such as StrEnum


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


cdef dict check_meta(object value):
    if value is None:
        return None
    cdef dict meta
    try:
        meta = dict(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"meta must map str to str, not be {type(value).__name__}", argument="meta") from error
    for key, text in meta.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise ConfigError(f"meta must map str to str; the entry {key!r} does not", argument="meta")
    return meta


cdef Data check_data(object value):
    if value is None:
        return NIL
    if not isinstance(value, Data):
        raise ConfigError(
            "data must be made by eda.JSON, eda.Bytes, eda.String, eda.Proto or eda.MsgPack, "
            f"not {type(value).__name__}",
            argument="data",
        )
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


@cython.final
@cython.freelist(256)
cdef class Event:
    """A domain event. Immutable; `replace()` gives a changed copy.

    `time` takes an aware datetime or int nanoseconds since 1970. Fields that are left empty (`id`, `time`, `client`)
    are filled in on the wire when the event is published; the event itself never changes. Raises ConfigError naming the
    field that does not fit.
    """

    def __init__(
        self, *, object type="", object data=None, object id="", object time=None, object schema="",
        object cause="", object client="", object aggregate="", object meta=None, object stream="",
    ):
        # Checking may run code of the user. It meets an event that is empty or whole, never one that still changes.
        cdef str type_text = check_text("type", type)
        cdef Data data_checked = check_data(data)
        cdef str id_text = check_text("id", id)
        cdef int64_t time_ns = check_time(time)
        cdef str schema_text = check_text("schema", schema)
        cdef str cause_text = check_text("cause", cause)
        cdef str client_text = check_text("client", client)
        cdef str aggregate_text = check_text("aggregate", aggregate)
        cdef dict meta_checked = check_meta(meta)
        cdef str stream_text = check_text("stream", stream)
        if self.texts[F_ID] is not NULL or self.raw is not None:
            raise TypeError("an Event can't be changed: replace() makes a changed copy")
        self.set_text(F_ID, id_text)        # always: by it a made event is known
        if type_text:
            self.set_text(F_TYPE, type_text)
        if schema_text:
            self.set_text(F_SCHEMA, schema_text)
        if cause_text:
            self.set_text(F_CAUSE, cause_text)
        if client_text:
            self.set_text(F_CLIENT, client_text)
        if aggregate_text:
            self.set_text(F_AGGREGATE, aggregate_text)
        self._data = data_checked
        self._meta = meta_checked
        self._stream = stream_text
        self.time_ns_ = time_ns
        if is_left_to_refcount(self._data):
            leave_to_refcount(self)

    def __getattribute__(self, name):
        # What handlers read, without a search through the type: 4 ns instead of 13. Names in code are interned.
        if name is "id":
            return self.get_text(F_ID)
        if name is "type":
            return self.get_text(F_TYPE)
        if name is "data":
            return self.get_data()
        return PyObject_GenericGetAttr(self, name)

    cdef str get_text(self, int field):
        cdef PyObject* text = self.texts[field]
        if text is not NULL:
            return <str>text
        if self.raw is None:
            return ""
        return self.read_text(field)

    cdef str read_text(self, int field):
        """Make a str of a text in `raw`."""
        cdef const char* data = PyBytes_AS_STRING(self.raw) + self.spans[field].start
        cdef Py_ssize_t n = self.spans[field].n
        cdef str text
        if self.ascii or is_ascii(<const unsigned char*>data, n):
            text = shared_text(data, n) if field != F_ID and field != F_CAUSE else ascii_text(data, n)
        else:
            text = PyUnicode_DecodeUTF8(data, n, NULL)
        self.set_text(field, text)
        return text

    cdef int set_text(self, int field, str text) except -1:
        cdef PyObject* old = self.texts[field]
        Py_INCREF(text)
        self.texts[field] = <PyObject*>text
        Py_XDECREF(old)
        return 0

    cdef Data get_data(self):
        if self._data is None:
            if self.spans[S_ENCODING].n == 0 and self.spans[S_PAYLOAD].n == 0:
                self._data = NIL
            else:
                self._data = received_data(
                    self.raw, &self.spans[S_ENCODING], &self.spans[S_PAYLOAD], &self.spans[F_ID]
                )
        return self._data

    cdef dict get_meta(self):
        if self._meta is None and self.meta_span.n:
            self._meta = read_meta(
                <const unsigned char*>PyBytes_AS_STRING(self.raw) + self.meta_span.start, self.meta_span.n
            )
        return self._meta

    @property
    def id(self):
        """The event's id; on an event not published yet, empty where none was given."""
        return self.get_text(F_ID)

    @property
    def type(self):
        """The event's type."""
        return self.get_text(F_TYPE)

    @property
    def schema(self):
        """An identifier of the data's schema."""
        return self.get_text(F_SCHEMA)

    @property
    def cause(self):
        """The id of the event that caused this one."""
        return self.get_text(F_CAUSE)

    @property
    def client(self):
        """The name of the client that published the event."""
        return self.get_text(F_CLIENT)

    @property
    def aggregate(self):
        """The aggregate that the event belongs to."""
        return self.get_text(F_AGGREGATE)

    @property
    def data(self):
        """The event's Data; of type `nil` where there is none."""
        return self.get_data()

    @property
    def meta(self):
        """A copy of the event's metadata."""
        cdef dict meta = self.get_meta()
        return {} if meta is None else meta.copy()

    @property
    def stream(self):
        """The stream that the event was received from; empty before."""
        return "" if self._stream is None else self._stream

    @property
    def time(self):
        """When the event was published, as a UTC datetime in whole microseconds; None where not set."""
        return to_datetime(self.time_ns_)

    @property
    def time_ns(self):
        """When the event was published, in nanoseconds since 1970; 0 where not set."""
        return self.time_ns_

    @property
    def ack_time(self):
        """When the stream stored the event, as a UTC datetime in whole microseconds; None where not set."""
        return to_datetime(self.ack_time_ns_)

    @property
    def ack_time_ns(self):
        """When the stream stored the event, in nanoseconds since 1970; 0 where not set."""
        return self.ack_time_ns_

    @property
    def sequence(self):
        """The event's sequence in its stream; 0 before it was received."""
        return self.sequence_

    @property
    def attempt(self):
        """Which delivery this is: 1 for the first, 0 before the event was received."""
        return self.attempt_

    def is_type(self, *types):
        """Tell whether the event's type is one of `types`."""
        return self.get_text(F_TYPE) in types

    def replace(self, **fields):
        """Return a copy with these fields changed; raises ConfigError for a field that does not exist or fit."""
        cdef Event copy = Event.__new__(Event)
        cdef int i
        for i in range(N_TEXT):
            copy.set_text(i, self.get_text(i))
        copy._meta = self.get_meta()
        copy._data = self.get_data()
        copy._stream = self._stream
        copy.time_ns_ = self.time_ns_
        copy.ack_time_ns_ = self.ack_time_ns_
        copy.sequence_ = self.sequence_
        copy.attempt_ = self.attempt_
        for name, value in fields.items():
            if name == "id":
                copy.set_text(F_ID, check_text(name, value))
            elif name == "type":
                copy.set_text(F_TYPE, check_text(name, value))
            elif name == "schema":
                copy.set_text(F_SCHEMA, check_text(name, value))
            elif name == "cause":
                copy.set_text(F_CAUSE, check_text(name, value))
            elif name == "client":
                copy.set_text(F_CLIENT, check_text(name, value))
            elif name == "aggregate":
                copy.set_text(F_AGGREGATE, check_text(name, value))
            elif name == "stream":
                copy._stream = check_text(name, value)
            elif name == "meta":
                copy._meta = check_meta(value)
            elif name == "data":
                copy._data = check_data(value)
            elif name == "time":
                copy.time_ns_ = check_time(value)
            else:
                raise ConfigError(f"an event has no field {name!r} to replace", argument=name)
        return copy

    def to_dict(self):
        """Return the fields as a dict ready for JSON.

        `data` is the decoded value; the bytes themselves where the encoding is `bytes`, needs a type (`proto`) or is
        not registered. Times are RFC 3339 with nanoseconds, None where not set. `meta` is left out when it is empty.
        """
        cdef Data data = self.get_data()
        cdef dict meta = self.get_meta()
        cdef dict result = {
            "stream": self.stream,
            "id": self.get_text(F_ID),
            "type": self.get_text(F_TYPE),
            "time": to_rfc3339(self.time_ns_),
            "ack_time": to_rfc3339(self.ack_time_ns_),
            "data": data.decode() if data.type in ("json", "string", "msgpack", "nil") else data.encoded(),
            "schema": self.get_text(F_SCHEMA),
            "client": self.get_text(F_CLIENT),
            "cause": self.get_text(F_CAUSE),
            "aggregate": self.get_text(F_AGGREGATE),
        }
        if meta:
            result["meta"] = meta.copy()
        return result

    def __eq__(self, other):
        if not isinstance(other, Event):
            return NotImplemented
        cdef Event that = other
        return (
            self.time_ns_ == that.time_ns_
            and self.ack_time_ns_ == that.ack_time_ns_
            and self.get_text(F_ID) == that.get_text(F_ID)
            and self.get_text(F_TYPE) == that.get_text(F_TYPE)
            and self.get_text(F_SCHEMA) == that.get_text(F_SCHEMA)
            and self.get_text(F_CAUSE) == that.get_text(F_CAUSE)
            and self.get_text(F_CLIENT) == that.get_text(F_CLIENT)
            and self.get_text(F_AGGREGATE) == that.get_text(F_AGGREGATE)
            and (self.get_meta() or {}) == (that.get_meta() or {})
            and self.get_data() == that.get_data()
        )

    def __hash__(self):
        return hash(self.get_text(F_ID))

    def __repr__(self):
        text = f"<Event {clipped(self.get_text(F_TYPE))} id={clipped(self.get_text(F_ID))}"
        if self.get_text(F_AGGREGATE):
            text += f" aggregate={clipped(self.get_text(F_AGGREGATE))}"
        if self.sequence_:
            text += f" {self.stream}:{self.sequence_}"
        return f"{text} {self.get_data()!r}>"

    def __reduce__(self):
        return _restore_event, (
            self.get_text(F_ID), self.get_text(F_TYPE), self.get_text(F_SCHEMA), self.get_text(F_CAUSE),
            self.get_text(F_CLIENT), self.get_text(F_AGGREGATE), self.get_meta(), self.get_data(), self._stream,
            self.time_ns_, self.ack_time_ns_, self.sequence_, self.attempt_,
        )


cdef str clipped(str text):
    return repr(text) if len(text) <= 40 else repr(text[:40]) + "…"


cdef Idle idle


# No local variable of the type may be made here: it would count a reference to what has none left.
cdef void dealloc_event(PyObject* it) noexcept:
    cdef int i
    for i in range(N_TEXT):
        Py_XDECREF((<Event>it).texts[i])
        (<Event>it).texts[i] = NULL
    if (<Event>it).raw is None or not has_room(&idle):
        idle.other(it)
        return
    (<Event>it).raw = None
    # Not set to None where they are: counting references to None would take longer than the rest.
    if (<Event>it)._data is not None:
        (<Event>it)._data = None
    if (<Event>it)._meta is not None:
        (<Event>it)._meta = None
    if (<Event>it)._stream is not None:
        (<Event>it)._stream = None
    forget_read(<Event>it)
    put_idle(&idle, it)


watch_idle(&idle, <PyTypeObject*>Event, dealloc_event)


cdef Event new_event():
    cdef Event event
    if idle.n:
        return <Event>take_idle(&idle)
    event = Event.__new__(Event)
    leave_to_refcount(event)            # what it is filled from is bytes
    return event


cdef dict read_meta(const unsigned char* data, Py_ssize_t n):
    """Collect the meta entries of a stretch of envelope that the codec has checked."""
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


def _restore_event(
    id, type, schema, cause, client, aggregate, meta, data, stream, time_ns, ack_time_ns, sequence, attempt
):
    cdef Event event = Event.__new__(Event)
    event.set_text(F_ID, id)
    event.set_text(F_TYPE, type)
    event.set_text(F_SCHEMA, schema)
    event.set_text(F_CAUSE, cause)
    event.set_text(F_CLIENT, client)
    event.set_text(F_AGGREGATE, aggregate)
    event._meta = meta
    event._data = data
    if event._data._raw is not None:
        event._data._event_id_text = id
    event._stream = stream
    event.time_ns_ = time_ns
    event.ack_time_ns_ = ack_time_ns
    event.sequence_ = sequence
    event.attempt_ = attempt
    return event
