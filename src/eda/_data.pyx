"""Data: a value and its encoding. It is encoded once, at publish, and decoded on request."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject, PyTypeObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint32_t
from libc.string cimport memchr, memcmp

from eda.encodings import decode_value, encode_value, json_encoder
from eda.errors import ConfigError

__all__ = ["JSON", "Bytes", "Data", "MsgPack", "Proto", "String"]


cdef extern from "Python.h":
    void PyObject_GC_UnTrack(PyObject* it)
    void PyObject_GC_Track(PyObject* it)
    int PyObject_GC_IsTracked(PyObject* it)


cdef void leave_to_refcount(object it) noexcept:
    PyObject_GC_UnTrack(<PyObject*>it)


cdef bint is_left_to_refcount(object it) noexcept:
    return not PyObject_GC_IsTracked(<PyObject*>it)


cdef void give_to_collector(object it) noexcept:
    if not PyObject_GC_IsTracked(<PyObject*>it):
        PyObject_GC_Track(<PyObject*>it)


cdef str encoding_name(const unsigned char* text, Py_ssize_t n):
    if n == 4 and memcmp(text, b"json", 4) == 0:
        return "json"
    if n == 5 and memcmp(text, b"bytes", 5) == 0:
        return "bytes"
    if n == 6 and memcmp(text, b"string", 6) == 0:
        return "string"
    if n == 7 and memcmp(text, b"msgpack", 7) == 0:
        return "msgpack"
    if n == 5 and memcmp(text, b"proto", 5) == 0:
        return "proto"
    if n == 3 and memcmp(text, b"nil", 3) == 0:
        return "nil"
    return PyUnicode_DecodeUTF8(<const char*>text, n, NULL)


cdef object json_encode = json_encoder.encode


cdef bytes encode_json(object value):
    """Return the value as JSON; None if it must be encoded by `encode_value`, which knows the unusual cases."""
    cdef object encoded
    try:
        encoded = json_encode(value)
    except Exception:
        return None
    return None if has_null(PyBytes_AS_STRING(encoded), PyBytes_GET_SIZE(encoded)) else <bytes>encoded


cdef bint has_null(const char* text, Py_ssize_t n) noexcept:
    # `in` would raise and drop an exception first, which takes 0.3 µs.
    cdef const char* at = text
    cdef const char* end = text + n - 3
    while at < end:
        at = <const char*>memchr(at, 110, end - at)     # n
        if at is NULL:
            return False
        if memcmp(at, b"null", 4) == 0:
            return True
        at += 1
    return False


@cython.final
@cython.freelist(256)
cdef class Data:
    """Data(type, value=None)\n--\n
    A value and the name of its encoding, `type`.

    `Bytes`, `String`, `JSON`, `Proto` and `MsgPack` make it; for a registered encoding, `Data(name, value)` does, and
    for bytes that are encoded already, `Data.from_encoded(name, data)`. The value is encoded once, at publish or at the
    first `encode()`; later changes of the value have no effect. Received data holds the bytes that were received.
    """

    def __init__(self, object type, object value=None):
        """Make Data of a value. Raises TypeError if `type` is not a str."""
        if self.type is not None:
            raise TypeError("Data can't be changed")
        if not isinstance(type, str):
            raise TypeError(f"the type of Data must be a str, not {type.__class__.__name__}")
        self.type = str.__str__(type)           # a plain str, also for a subclass such as StrEnum
        self._value = value

    @classmethod
    def from_encoded(cls, type, data):
        """Return Data whose bytes are encoded already, such as the bytes that another Data's `encode()` returned.

        `type` is the name of the encoding. It need not be registered here: only `decode()` needs the encoding. The
        bytes are not checked before `decode()`. They are published as they are. `data` may also be a bytearray or
        memoryview, which is copied. Equal to Data of the value with this encoding.

        Raises ConfigError if `type` is not a name, or `data` is not bytes.
        """
        if not isinstance(type, str) or not type:
            raise ConfigError(f"type must be the name of an encoding, not {type!r}", argument="type")
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise ConfigError(f"data must be bytes, not {data.__class__.__name__}", argument="data")
        if len(data) > MAX_ENCODED:
            raise ConfigError(f"data of {len(data)} bytes is too long for an event", argument="data")
        return _restore_data(str.__str__(type), data if data.__class__ is bytes else bytes(data))

    def encode(self):
        """Return the encoded bytes.

        Raises EncodeError if the value can't be encoded, UnknownEncoding if the encoding is not registered.
        """
        return self.encoded()

    def decode(self, into=None):
        """Return the Python value.

        `into` is the type of the result: a dataclass, TypedDict, msgspec.Struct, attrs class or pydantic model. For
        `proto` it is the message class, and required. Raises DecodeError (with `event_id`) if the bytes can't be
        decoded, UnknownEncoding if the encoding is not registered, ConfigError for `proto` without `into`.
        """
        cdef str event_id = "" if self._event_id_text is None else self._event_id_text
        if self._event_id.n:
            event_id = PyUnicode_DecodeUTF8(PyBytes_AS_STRING(self._raw) + self._event_id.start, self._event_id.n, NULL)
        return decode_value(self.type, self.encoded(), into, event_id)

    cdef bytes encoded(self):
        cdef bytes encoded
        if self._encoded is None:
            if self._raw is not None:
                self._encoded = PyBytes_FromStringAndSize(PyBytes_AS_STRING(self._raw) + self._span.start, self._span.n)
            elif type(self._value) is bytes and self.type == "bytes":
                self._encoded = self._value
            elif self.type is None:
                raise TypeError("this Data was made without a type: __new__ was called without __init__")
            else:
                encoded = encode_json(self._value) if self.type == "json" else None
                if encoded is None:
                    encoded = encode_value(self.type, self._value)
                # The encoder itself or another thread may have encoded it meanwhile. The first result stays, because
                # the plan of an envelope may point into it.
                if self._encoded is None:
                    self._encoded = encoded
        return self._encoded

    cdef bytes encoded_or_none(self):
        """Return the encoded bytes; None if the value can't be encoded."""
        try:
            return self.encoded()
        except Exception:
            return None

    def __eq__(self, other):
        # A comparison must not raise. So if neither can be encoded, their values are compared.
        if self is other:
            return True
        if not isinstance(other, Data):
            return NotImplemented
        if self.type != (<Data>other).type:
            return False
        cdef bytes mine = self.encoded_or_none()
        cdef bytes others = (<Data>other).encoded_or_none()
        if mine is not None or others is not None:
            return mine == others
        try:
            return bool(self._value is (<Data>other)._value or self._value == (<Data>other)._value)
        except Exception:
            return False

    def __hash__(self):
        cdef bytes encoded = self.encoded_or_none()
        if encoded is not None:
            return hash((self.type, encoded))
        try:
            return hash((self.type, self._value))
        except Exception:
            return hash(self.type)

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        # Once encoded, Data no longer depends on the value, so no copy is needed. Raises the errors of `encode()`.
        self.encoded()
        return self

    def __repr__(self):
        if self.type is None:
            return "<Data without a type>"
        name = self.type if len(self.type) <= 40 else f"{self.type[:40]}…"
        if self._raw is not None:
            return f"<Data {name} {self._span.n} bytes>"
        return f"<Data {name}>"

    def __reduce__(self):
        return _restore_data, (self.type, self.encoded())


cdef FreeList free_list


# No local variable may hold the object here: its reference count is 0, and must not be raised and lowered again.
cdef void dealloc_data(PyObject* it) noexcept:
    if ((<Data>it)._raw is None and PyObject_GC_IsTracked(it)) or not has_room(&free_list):
        free_list.other(it)
        return
    if (<Data>it)._raw is not None:
        (<Data>it)._raw = None
    if (<Data>it)._value is not None:
        (<Data>it)._value = None
    # The type stays, and empty fields are not set again: counting references to None takes longer than the rest.
    if (<Data>it)._encoded is not None:
        (<Data>it)._encoded = None
    if (<Data>it)._event_id_text is not None:
        (<Data>it)._event_id_text = None
    put_free(&free_list, it)


install_free_list(&free_list, <PyTypeObject*>Data, dealloc_data)


cdef Data new_data():
    """Return empty, untracked Data. The caller must set `type`, since an object from the free list has its old one."""
    return <Data>take_free(&free_list)


cdef Data received_data(bytes raw, Span* encoding, Span* payload, Span* event_id):
    cdef Data data
    # Without the name of an encoding, the payload is plain bytes.
    cdef str type = "bytes" if encoding.n == 0 else encoding_name(
        <const unsigned char*>PyBytes_AS_STRING(raw) + encoding.start, encoding.n
    )
    data = new_data()
    data.type = type
    data._raw = raw
    data._span = payload[0]
    data._event_id = event_id[0]
    return data


def _restore_data(str type not None, bytes encoded not None):
    cdef Span payload, nothing
    nothing.start = nothing.n = payload.start = 0
    payload.n = <uint32_t>len(encoded)
    cdef Data data = received_data(encoded, &nothing, &payload, &nothing)
    data.type = type
    data._encoded = encoded
    return data


cdef Data data_of(Data data, object event_id):
    cdef Data copy
    if data._raw is None or data._event_id.n or data._event_id_text is not None:
        return data
    if not isinstance(event_id, str) or not event_id:
        return data
    copy = _restore_data(data.type, data.encoded())
    copy._event_id_text = str.__str__(event_id)
    return copy


cdef Data make_data(str encoding, object value):
    cdef Data data = new_data()
    data.type = encoding
    data._value = value
    data.is_payload = False
    if data._event_id.n:
        data._event_id.n = 0                # reused Data may still have the id of another event
    if not (type(value) is bytes or type(value) is str or value is None):
        give_to_collector(data)
    return data


cdef Data NIL = make_data("nil", None)


cdef Data check_data(object value):
    if value is None:
        return NIL
    if not isinstance(value, Data):
        return None
    if (<Data>value).type is None:
        raise ConfigError("data was made without a type: __new__ was called without __init__", argument="data")
    return value


def Bytes(value):
    """Return Data of raw bytes: bytes, bytearray or memoryview. The latter two are copied, since they can change."""
    if type(value) is not bytes and isinstance(value, (bytearray, memoryview)):
        value = bytes(value)
    return make_data("bytes", value)


def String(value):
    """Return Data of a text, encoded as UTF-8."""
    return make_data("string", value)


def JSON(value):
    """Return Data of a value that msgspec can encode as JSON, such as a dict, a dataclass or a Struct."""
    return make_data("json", value)


def Proto(message):
    """Return Data of a protobuf message."""
    return make_data("proto", message)


def MsgPack(value):
    """Return Data of a value that can be encoded as MessagePack."""
    return make_data("msgpack", value)
