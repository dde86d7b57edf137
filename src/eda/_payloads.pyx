"""Payloads of declared classes: into an event, and out of it again. All decoding into a payload class is done here.

The two tables belong to `typed/registry`. This file is compiled because it runs for every event that is made from a
payload, and for every event that a typed handler gets.
"""

from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject
from libc.math cimport isfinite

from eda._data cimport Data, make_data

from eda.typed.decoding import class_entry, contradiction, decode_slowly, payload_error
from eda.typed.plain_fields import PLAIN_FIELDS, plain_fields
from eda.typed.registry import DECODERS, MADE_AS

__all__: list = []

cdef dict made_as = MADE_AS
cdef dict decoders = DECODERS
cdef dict fields_of = PLAIN_FIELDS


cdef extern from *:
    """
    /* What a descriptor of the object's class has for the object. */
    static inline PyObject* eda_value_of(PyObject* descriptor, PyObject* it) {
        return Py_TYPE(descriptor)->tp_descr_get(descriptor, it, (PyObject*)Py_TYPE(it));
    }
    """
    object value_of "eda_value_of"(object descriptor, object it)
    long long PyLong_AsLongLongAndOverflow(object value, int* overflow) except? -1


cdef tuple entry_of(object value):
    cdef PyObject* found = PyDict_GetItemWithError(made_as, type(value))
    return class_entry(value) if found is NULL else <tuple>found


cdef Data payload_data(str encoding, object value):
    cdef Data data = make_data(encoding, value)
    data.is_payload = True
    return data


cdef Data data_of_payload(object value, PyObject** type, PyObject** schema):
    cdef tuple entry = entry_of(value)
    check_same(entry, 1, type[0], value)
    check_same(entry, 2, schema[0], value)
    type[0] = <PyObject*>entry[1]
    schema[0] = <PyObject*>entry[2]
    return payload_data(entry[0], value)


cdef inline int check_same(tuple entry, Py_ssize_t i, PyObject* given, object value) except -1:
    if given is not NULL and <object>given and <object>given != entry[i]:
        raise contradiction("type" if i == 1 else "schema", <object>given, value)
    return 0


cdef dict fields_with_class(dict fields, Data data):
    cdef tuple entry
    if "data" not in fields:
        if data._raw is not None or not data.is_payload:
            return fields
        value = data._value
        entry = entry_of(value)
    else:
        value = fields["data"]
        if value is None or isinstance(value, Data):
            return fields
        entry = entry_of(value)
        data = payload_data(entry[0], value)
    for i, name in (1, "type"), (2, "schema"):
        if fields.get(name, entry[i]) != entry[i]:
            raise contradiction(name, fields[name], value)
    return {**fields, "data": data, "type": entry[1], "schema": entry[2]}


cdef object decode_parts(str type, str schema, str encoding, bytes payload, object event):
    cdef PyObject* found = PyDict_GetItemWithError(decoders, type)
    cdef tuple entry
    if found is not NULL:
        entry = <tuple>found
        if entry[0] == encoding and (entry[1] is None or entry[1] == schema):
            try:
                return entry[2](payload)
            except Exception as error:
                raise payload_error(type, schema, encoding, error, event.id) from error
    return decode_slowly(type, schema, encoding, payload, event.id)


cdef bint is_read_back(object payload) except -1:
    """Return whether a payload that is decoded from its bytes is the same, and neither of them can be changed."""
    cdef object value
    cdef int overflow
    cdef object fields = fields_of.get(type(payload), fields_of)
    if fields is fields_of:
        fields = plain_fields(type(payload))
    if fields is None:
        return False
    for member, kind in <tuple>fields:
        value = value_of(member, payload)
        if type(value) is not kind:
            return False
        if kind is int:
            PyLong_AsLongLongAndOverflow(value, &overflow)
            if overflow:
                return False
        elif kind is float and not isfinite(<double>value):
            return False
    return True
