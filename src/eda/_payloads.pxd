from cpython.object cimport PyObject

from eda._data cimport Data


# Return the Data of a payload, and point `type` and `schema` (each a str, or NULL if not given) to the texts of its
# class, which the registry keeps alive. Raises ConfigError if the class is not declared, or if a given text that is not
# empty differs from the text of the class.
cdef Data data_of_payload(object value, PyObject** type, PyObject** schema)

# Return the encoding, type and schema of a payload's class. Raises ConfigError if it is not declared.
cdef tuple entry_of(object value)

# Return the fields that `Event.replace` was given. If the changed event has a payload as its data, type and schema of
# the payload's class are added. `data`: the data of the event. Raises ConfigError as data_of_payload.
cdef dict fields_with_class(dict fields, Data data)

# Return the payload as an instance of its class. `event` is asked for its id if decoding fails. Raises as
# Event.payload().
cdef object decode_parts(str type, str schema, str encoding, bytes payload, object event)
cdef bint is_read_back(object payload) except -1
