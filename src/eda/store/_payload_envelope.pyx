"""The envelope of an event that consists of a payload: written without making the Event.

Most commands decide on the instance of a payload class, and nobody ever sees the Event that it would become.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.object cimport PyObject

from eda._bytes cimport size_of_varint
from eda._codec cimport Plan, copy_envelope, copy_number, size_of_text, utf8_of
from eda._data cimport MAX_ENCODED, has_null
from eda._envelope cimport N_VERSION
from eda._event cimport F_AGGREGATE, F_CAUSE, F_CLIENT, F_ID, F_SCHEMA, F_TYPE

from eda.encodings import json_encoder, refuse_nonfinite

__all__: list = []

cdef enum:
    N_KEPT = 65_536             # bytes; a larger buffer is not kept

cdef object encode_into = json_encoder.encode_into
cdef bytearray spare = bytearray(1024)          # a buffer for the next payload; None while it is in use


cdef bytes payload_envelope(object payload, tuple entry, str aggregate, str id, str client, int64_t now_ns,
                            int64_t version):
    global spare
    cdef bytearray encoded
    cdef bytes envelope
    if <str>entry[0] != "json":
        return None
    # The encoder may run code of the user, and so come here again.
    encoded, spare = spare, None
    if encoded is None:
        encoded = bytearray()
    try:
        encode_into(payload, encoded)
        # NaN and the infinities are written as null, and are refused.
        if has_null(PyByteArray_AS_STRING(encoded), PyByteArray_GET_SIZE(encoded)):
            refuse_nonfinite(payload)
    except Exception:
        envelope = None
    else:
        envelope = envelope_with(encoded, entry, aggregate, id, client, now_ns, version)
    if PyByteArray_GET_SIZE(encoded) <= N_KEPT:
        spare = encoded
    return envelope


cdef bytes envelope_with(bytearray encoded, tuple entry, str aggregate, str id, str client, int64_t now_ns,
                         int64_t version):
    cdef Plan plan
    cdef bytes envelope
    cdef unsigned char* to
    cdef Py_ssize_t n = PyByteArray_GET_SIZE(encoded)
    if n > MAX_ENCODED:
        return None
    utf8_of(<PyObject*>id, "id", &plan.text[F_ID])
    utf8_of(<PyObject*>entry[1], "type", &plan.text[F_TYPE])
    utf8_of(<PyObject*>entry[2], "schema", &plan.text[F_SCHEMA])
    plan.text[F_CAUSE].n = 0
    utf8_of(<PyObject*>client, "client", &plan.text[F_CLIENT])
    utf8_of(<PyObject*>aggregate, "aggregate", &plan.text[F_AGGREGATE])
    utf8_of(<PyObject*>entry[0], "encoding", &plan.encoding)
    plan.payload.data = <const unsigned char*>PyByteArray_AS_STRING(encoded)
    plan.payload.n = n
    plan.time_ns = now_ns
    plan.ack_time_ns = 0
    plan.n_meta = 0
    plan.size = (
        size_of_text(plan.text[F_ID].n) + size_of_text(plan.text[F_TYPE].n) + size_of_text(plan.text[F_SCHEMA].n)
        + size_of_text(plan.text[F_CLIENT].n) + size_of_text(plan.text[F_AGGREGATE].n) + size_of_text(n)
        + size_of_text(plan.encoding.n) + 2 + size_of_varint(<uint64_t>now_ns) + size_of_varint(<uint64_t>version)
    )
    envelope = PyBytes_FromStringAndSize(NULL, plan.size)
    to = copy_envelope(<unsigned char*>PyBytes_AS_STRING(envelope), None, &plan)
    to = copy_number(to, N_VERSION, version)
    assert to - <unsigned char*>PyBytes_AS_STRING(envelope) == plan.size
    return envelope
