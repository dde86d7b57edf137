from cpython.object cimport PyObject, PyTypeObject
from libc.stdint cimport uint32_t


# A free list: unused objects of one final type, with empty fields and not tracked by the garbage collector. Reuse of
# such an object saves the work of tp_new and tp_dealloc: zeroing, tracking, untracking, saving an exception.
cdef extern from *:
    """
    #define EDA_MAX_FREE 4096
    typedef struct {
        PyObject* items[EDA_MAX_FREE];
        int n;
        PyTypeObject* type;
        destructor other;       /* the type's own tp_dealloc, for objects that are not kept */
    } eda_free_list;
    static inline void eda_install_free_list(eda_free_list* free_list, PyTypeObject* type, destructor dealloc) {
        free_list->type = type;
        free_list->other = type->tp_dealloc;
        type->tp_dealloc = dealloc;
    }
    static PyObject* eda_make_untracked(PyTypeObject* type) {
        PyObject* no_arguments = PyTuple_New(0);
        PyObject* it = no_arguments == NULL ? NULL : type->tp_new(type, no_arguments, NULL);
        Py_XDECREF(no_arguments);
        if (it != NULL) PyObject_GC_UnTrack(it);
        return it;
    }
    static inline PyObject* eda_take_free(eda_free_list* free_list) {
        PyObject* it;
        if (free_list->n == 0) return eda_make_untracked(free_list->type);
        it = free_list->items[--free_list->n];
    #ifdef Py_REF_DEBUG
        _Py_NewReference(it);
    #else
        Py_SET_REFCNT(it, 1);
    #endif
        return it;
    }
    static inline int eda_has_room(eda_free_list* free_list) { return free_list->n < EDA_MAX_FREE; }
    static inline void eda_put_free(eda_free_list* free_list, PyObject* it) { free_list->items[free_list->n++] = it; }
    """
    ctypedef void (*Dealloc "destructor")(PyObject* it) noexcept
    ctypedef struct FreeList "eda_free_list":
        Dealloc other
    void install_free_list "eda_install_free_list"(FreeList* free_list, PyTypeObject* type, Dealloc dealloc) noexcept
    object take_free "eda_take_free"(FreeList* free_list)                # a new object if the list is empty
    bint has_room "eda_has_room"(FreeList* free_list) noexcept
    void put_free "eda_put_free"(FreeList* free_list, PyObject* it) noexcept


# A stretch of an event's bytes.
cdef struct Span:
    uint32_t start
    uint32_t n


cdef enum:
    MAX_ENCODED = 0x7FFFFFFF                # a Span holds lengths of 32 bits; servers take far less


cdef class Data:
    cdef readonly str type
    """The name of the encoding: `bytes`, `string`, `json`, `proto`, `msgpack`, `nil`, or a registered one."""
    cdef object _value          # the user's value; None for received data
    cdef bytes _encoded         # the encoded bytes; None before they were first needed
    cdef bytes _raw             # received data: the bytes into which the spans point; else None
    cdef Span _span             # received data: the payload within _raw
    cdef Span _event_id         # received data: the event's id within _raw, for errors
    cdef str _event_id_text     # unpickled data: the event's id; else None
    cdef bint is_payload        # made from an instance of a payload class; not set for received data

    cdef bytes encoded(self)
    cdef bytes encoded_or_none(self)


cdef Data NIL

# Return the Data that a user gave for an event, NIL for None, and None for anything else. Raises ConfigError for Data
# that was made without __init__.
cdef Data check_data(object value)

# Return new Data of a value that the user made.
cdef Data make_data(str encoding, object value)

# Return whether a text contains "null", as which the JSON encoder writes numbers that are not finite.
cdef bint has_null(const char* text, Py_ssize_t n) noexcept

# Return the name of an encoding, without a new string if the encoding is built in.
cdef str encoding_name(const unsigned char* text, Py_ssize_t n)

# Return the Data at these spans of `raw`, which the codec has checked.
cdef Data received_data(bytes raw, Span* encoding, Span* payload, Span* event_id)

# Return Data for an event with this id, so that an error of `decode()` names the event. That is a copy of Data that was
# made from encoded bytes, and the same Data in all other cases: received Data knows its event, and a value needs no
# decoding.
cdef Data data_of(Data data, object event_id)

# The garbage collector need not track an object that refers to texts and bytes only, since it can't be part of a cycle.
# Otherwise each collection would visit all events of a full window or ring.
cdef void leave_to_refcount(object it) noexcept
cdef bint is_left_to_refcount(object it) noexcept
cdef void give_to_collector(object it) noexcept
