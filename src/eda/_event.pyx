"""Event: what users publish and receive.

A received event owns one bytes object, and its spans point into it. A field becomes a Python value when it is first
read. The codec fills the spans, after it has checked that they lie within the bytes and that texts are UTF-8.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.object cimport PyObject, PyObject_GenericGetAttr, PyTypeObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memset

from eda._bytes cimport is_ascii
from eda._data cimport (
    NIL, Data, FreeList, Span, check_data, data_of, encoding_name, has_room, install_free_list, leave_to_refcount,
    put_free, received_data, take_free,
)
from eda._fields cimport check_meta, check_text, check_time, flatten, read_meta, to_datetime, to_dict, to_rfc3339
from eda._payloads cimport data_of_payload, decode_parts, fields_with_class
from eda._texts cimport ascii_text, shared_text

from eda.errors import ConfigError
from eda.headers import NO_HEADERS, foreign_headers

__all__ = ["Event"]

cdef tuple NAMES = ("id", "type", "schema", "cause", "client", "aggregate", "stream", "data", "time", "meta")


@cython.final
@cython.freelist(256)
cdef class Event:
    """Event(*, type="", data=None, id="", time=None, schema="", cause="", client="", aggregate="", meta=None, \
    stream="")\n--\n
    A domain event. It never changes; `replace()` returns a changed copy.

    `data` is Data, or an instance of a class that `eda.payload` declares; then type, schema and encoding are those of
    the class, and a `type` or `schema` that differs is refused, here and in `replace()`.
    `time` is an aware datetime, or an int of nanoseconds since 1970. It can't be 0, which is 1970-01-01 00:00:00 UTC:
    in an envelope, 0 means that no time is set. `cause` is the id of another event, or the Receipt of that event. If
    `id`, `time` or `client` is empty, the publish fills it into the envelope; this object stays as it is.
    """

    def __init__(
        self, *, object type="", object data=None, object id="", object time=None, object schema="",
        object cause="", object client="", object aggregate="", object meta=None, object stream="",
    ):
        """Make an event of its fields. Raises ConfigError, naming the field, for a wrong value."""
        cdef PyObject* given[N_GIVEN]
        cdef int i
        cdef tuple values = (id, type, schema, cause, client, aggregate, stream, data, time, meta)      # as in NAMES
        for i in range(N_GIVEN):
            given[i] = <PyObject*>values[i]
        self.fill(given)

    cdef int fill(self, PyObject** given) except -1:
        """Set the fields from the arguments, which the caller keeps alive. NULL: the argument is not given."""
        # The checks may run code of the user, which must not see a half-filled event. So all checks come before the
        # first change.
        cdef int i
        cdef str text
        for i in range(N_GIVEN_TEXT):
            if given[i] is not NULL and not isinstance(<object>given[i], str):
                check_text(NAMES[i], <object>given[i])
        cdef Data data = NIL if given[G_DATA] is NULL else check_data(<object>given[G_DATA])
        if data is None:
            data = data_of_payload(<object>given[G_DATA], &given[F_TYPE], &given[F_SCHEMA])
        cdef int64_t time_ns = 0 if given[G_TIME] is NULL else check_time(<object>given[G_TIME])
        cdef tuple meta = None if given[G_META] is NULL else check_meta(<object>given[G_META])
        if self.texts[F_ID] is not NULL or self.raw is not None:
            raise TypeError("an Event can't be changed: replace() makes a changed copy")
        for i in range(N_GIVEN_TEXT):
            if given[i] is NULL:
                continue
            text = <str>given[i] if type(<object>given[i]) is str else check_text(NAMES[i], <object>given[i])
            if i == G_STREAM:
                self._stream = text
            elif text:
                self.set_text(i, text)
        if self.texts[F_ID] is NULL:
            self.set_text(F_ID, "")         # an id that is not NULL shows that the event was filled
        self._meta = meta
        self.time_ns_ = time_ns
        leave_to_refcount(self)
        use_data(self, data)
        return 0

    def __getattribute__(self, name):
        # These fields are found without a look-up in the type: 4 ns instead of 13. Names in code are interned.
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

    cdef tuple all_texts(self):
        cdef int i
        return tuple([self.get_text(i) for i in range(N_TEXT)])

    cdef str read_text(self, int field):
        """Return a text field from its span in `raw`, and keep the str."""
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

    cdef int keep(self, bytes raw, Py_ssize_t start, Py_ssize_t n_headers, Py_ssize_t n_subject) except -1:
        """Set `raw`, and the spans of headers and subject, which follow each other in it."""
        self.raw = raw
        self.headers_span.start = <uint32_t>start
        self.headers_span.n = <uint32_t>n_headers
        self.subject_span.start = <uint32_t>(start + n_headers)
        self.subject_span.n = <uint32_t>n_subject
        return 0

    cdef bytes kept(self, Span* span):
        return self.raw[span.start:span.start + span.n] if span.n else b""

    cdef int take_id(self, str id) except -1:
        """Set the id from the message's headers, because the envelope has none."""
        cdef Data data = self.get_data()
        self.set_text(F_ID, id)
        if data is not NIL:
            data._event_id_text = id
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

    cdef tuple get_meta(self):
        if self._meta is None and self.meta_span.n:
            self._meta = flatten(
                read_meta(<const unsigned char*>PyBytes_AS_STRING(self.raw) + self.meta_span.start, self.meta_span.n)
            )
        return self._meta

    @property
    def id(self):
        """The event's id; empty if none was given and the event was not received."""
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
        """The event's Data; of type `nil` if it has none."""
        return self.get_data()

    @property
    def meta(self):
        """A copy of the event's metadata."""
        return to_dict(self.get_meta())

    @property
    def stream(self):
        """The stream from which the event was received, or with which it was made; else empty."""
        return "" if self._stream is None else self._stream

    @property
    def time(self):
        """When the event was published, as a UTC datetime in whole microseconds; None if not set."""
        return to_datetime(self.time_ns_)

    @property
    def time_ns(self):
        """When the event was published, in nanoseconds since 1970; 0 if not set."""
        return self.time_ns_

    @property
    def ack_time(self):
        """When the stream stored the event, as a UTC datetime in whole microseconds; None if not set."""
        return to_datetime(self.ack_time_ns_)

    @property
    def ack_time_ns(self):
        """When the stream stored the event, in nanoseconds since 1970; 0 if not set."""
        return self.ack_time_ns_

    @property
    def sequence(self):
        """The event's sequence in its stream; 0 if the event was not received."""
        return self.sequence_

    @property
    def index(self):
        """The event's place in its pack, from 0; 0 if the event was not in a pack."""
        return self.index_

    @property
    def attempt(self):
        """The number of this attempt: 1 for the first delivery; 0 if the event was not received."""
        return self.attempt_

    @property
    def version(self):
        """The event's version in its aggregate, which only an event store sets; 0 if not set."""
        return self.version_

    @property
    def headers(self):
        """The headers of another program's message, by name, read-only; empty for an event that eda published.

        The headers of NATS (`Nats-…`) and of eda (`Eda-…`) are left out. If a name is repeated, the first value
        counts. `replace()` does not copy the headers.
        """
        if self.headers_span.n == 0:
            return NO_HEADERS
        return foreign_headers(self.kept(&self.headers_span))

    @property
    def subject(self):
        """The subject under which a received event is stored; else empty. `replace()` does not copy it."""
        if self.subject_span.n:
            return self.kept(&self.subject_span).decode(errors="replace")
        if self.raw is None or not self._stream:
            return ""
        # Type and aggregate need no escapes here: otherwise the subject would have been kept in subject_span.
        return f"{self._stream}.{self.get_text(F_TYPE) or '_'}.{self.get_text(F_AGGREGATE) or '_'}"

    def is_type(self, *types):
        """Return whether the event's type is one of `types`."""
        return self.get_text(F_TYPE) in types

    def replace(self, **fields):
        """Return a copy with other values of these parameters of Event. Raises ConfigError for wrong ones."""
        cdef Event copy = self.copied()
        cdef int i
        for name, value in fields_with_class(fields, copy._data).items():
            if name not in NAMES:
                raise ConfigError(f"an event has no field {name!r} to replace", argument=name)
            i = NAMES.index(name)
            if i < N_TEXT:
                copy.set_text(i, check_text(name, value))
            elif i == G_STREAM:
                copy._stream = check_text(name, value)
            elif i == G_DATA:
                use_data(copy, data_of(check_data(value), fields.get("id", copy.get_text(F_ID))))
            elif i == G_TIME:
                copy.time_ns_ = check_time(value)
            else:
                copy._meta = check_meta(value)
        return copy

    cdef Event copied(self):
        """Return another event with the same fields, but without what only a received event has."""
        cdef Event copy = new_event()
        cdef int i
        for i in range(N_TEXT):
            copy.set_text(i, self.get_text(i))
        copy._meta = self.get_meta()
        use_data(copy, self.get_data())
        copy._stream = self._stream
        copy.time_ns_, copy.ack_time_ns_ = self.time_ns_, self.ack_time_ns_
        copy.sequence_ = self.sequence_
        copy.attempt_, copy.version_ = self.attempt_, self.version_
        copy.index_, copy.is_packed = self.index_, self.is_packed
        return copy

    cpdef payload(self):
        """Return the payload as a new instance of the class that is declared for the event's type with `eda.payload`.

        Data of an older schema is brought to the schema of the class by upcasters first. Each call decodes anew. Raises
        UnknownType if no class declares the type, UnknownEncoding, and DecodeError (with `event_id`, chained from its
        cause) if the data does not fit the class.
        """
        if self._data is not None or self.raw is None or self.spans[S_ENCODING].n == 0:
            return decode_parts(
                self.get_text(F_TYPE), self.get_text(F_SCHEMA), self.get_data().type, self._data.encoded(), self
            )
        cdef const unsigned char* base = <const unsigned char*>PyBytes_AS_STRING(self.raw)
        return decode_parts(
            self.get_text(F_TYPE), self.get_text(F_SCHEMA),
            encoding_name(base + self.spans[S_ENCODING].start, self.spans[S_ENCODING].n),
            PyBytes_FromStringAndSize(<const char*>base + self.spans[S_PAYLOAD].start, self.spans[S_PAYLOAD].n), self
        )

    def to_dict(self):
        """Return the fields as a dict ready for JSON.

        `data` is the decoded value for the encodings `json`, `string`, `msgpack` and `nil`, and the encoded bytes for
        all others. Times are texts as in RFC 3339, with nanoseconds; None if not set. `meta` is left out if empty.
        """
        cdef Data data = self.get_data()
        cdef tuple meta = self.get_meta()
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
            result["meta"] = to_dict(meta)
        return result

    def __eq__(self, other):
        if not isinstance(other, Event):
            return NotImplemented
        cdef Event that = other
        cdef int i
        for i in range(N_TEXT):
            if self.get_text(i) != that.get_text(i):
                return False
        return (
            self.time_ns_ == that.time_ns_ and self.ack_time_ns_ == that.ack_time_ns_
            and self.version_ == that.version_ and self.meta == that.meta and self.get_data() == that.get_data()
        )

    def __hash__(self):
        if self.get_text(F_ID):
            return hash(self.get_text(F_ID))
        # Unpublished events have no id. Hashes of the empty id would all be equal, and a set of such events slow.
        return hash((self.all_texts(), self.time_ns_, frozenset(self.meta.items()), self.get_data()))

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        self.get_data().__deepcopy__(memo)
        return self

    def __repr__(self):
        text = f"<Event {clipped(self.get_text(F_TYPE))} id={clipped(self.get_text(F_ID))}"
        if self.get_text(F_AGGREGATE):
            text += f" aggregate={clipped(self.get_text(F_AGGREGATE))}"
        if self.sequence_:
            text += f" {self.stream}:{self.sequence_}" + (f".{self.index_}" if self.is_packed else "")
        return f"{text} {self.get_data()!r}>"

    def __reduce__(self):
        return _restore_event, (
            *self.all_texts(), self.meta, self.get_data(), self._stream, self.time_ns_, self.ack_time_ns_,
            self.sequence_, self.attempt_, self.version_, self.kept(&self.headers_span), self.subject.encode(),
            self.index_, self.is_packed)


cdef str clipped(str text):
    return repr(text) if len(text) <= 40 else repr(text[:40]) + "…"


cdef PyObject* make_event(PyObject* cls, PyObject** args, size_t n_args, PyObject* names) except NULL:
    """Make the event for a call `Event(...)`. Making a dict of the arguments would double the time of the call."""
    cdef PyObject* given[N_GIVEN]
    cdef Event event = new_event()
    cdef Py_ssize_t i
    cdef Py_ssize_t n_positional = PyVectorcall_NARGS(n_args)
    cdef PyObject* name
    cdef int index
    memset(given, 0, sizeof(given))
    for i in range(len(<tuple>names) if names is not NULL else 0):
        name = <PyObject*>(<tuple>names)[i]
        for index in range(N_GIVEN):
            if name == <PyObject*>NAMES[index]:     # names in code are interned
                given[index] = args[i]
                break
        else:
            n_positional = -1
            break
    if n_positional == 0:
        event.fill(given)
    else:                                   # the arguments are wrong: __init__ raises the error
        n_positional = PyVectorcall_NARGS(n_args)
        keywords = <tuple>names if names is not NULL else ()
        event.__init__(
            *[<object>args[i] for i in range(n_positional)],
            **{keywords[i]: <object>args[n_positional + i] for i in range(len(keywords))},
        )
    Py_INCREF(event)
    return <PyObject*>event


set_vectorcall(<PyTypeObject*>Event, <void*>make_event)


cdef FreeList free_list


# No local variable may hold the object here: its reference count is 0, and must not be raised and lowered again.
cdef void dealloc_event(PyObject* it) noexcept:
    cdef int i
    for i in range(N_TEXT):
        Py_XDECREF((<Event>it).texts[i])
        (<Event>it).texts[i] = NULL
    # A received event, which has `raw`, is never tracked. A check of `raw` is quicker than PyObject_GC_IsTracked(),
    # so it comes first.
    if ((<Event>it).raw is None and PyObject_GC_IsTracked(it)) or not has_room(&free_list):
        free_list.other(it)
        return
    (<Event>it).raw = None
    # Fields that are None are not set again: counting references to None would take longer than the rest.
    if (<Event>it)._data is not None:
        (<Event>it)._data = None
    if (<Event>it)._meta is not None:
        (<Event>it)._meta = None
    if (<Event>it)._stream is not None:
        (<Event>it)._stream = None
    forget_read(<Event>it)
    put_free(&free_list, it)


install_free_list(&free_list, <PyTypeObject*>Event, dealloc_event)


cdef Event new_event():
    return <Event>take_free(&free_list)     # untracked, because a new event refers to bytes and texts only


def _restore_event(
    id, type, schema, cause, client, aggregate, meta, data, stream, time_ns, ack_time_ns, sequence, attempt, version=0,
    bytes headers=b"", bytes subject=b"", index=0, is_packed=False,
):
    cdef Event event = Event.__new__(Event)
    for i, text in enumerate((id, type, schema, cause, client, aggregate)):
        event.set_text(i, text)
    event._meta = check_meta(meta)
    event._data = data
    if event._data._raw is not None:
        event._data._event_id_text = id
    event._stream = stream
    event.time_ns_, event.ack_time_ns_ = time_ns, ack_time_ns
    event.sequence_, event.attempt_ = sequence, attempt
    event.version_, event.index_, event.is_packed = version, index, is_packed
    if headers or subject:
        event.keep(headers + subject, 0, <Py_ssize_t>len(headers), <Py_ssize_t>len(subject))
        leave_to_refcount(event)            # as for every event with `raw`: its data refers to bytes only
    return event
