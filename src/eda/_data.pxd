from cpython.object cimport PyObject, PyTypeObject
from libc.stdint cimport uint32_t


# Objects of one final type that came from received bytes and are not in use: untracked, all fields empty. Taking one up
# again spares what tp_new and tp_dealloc do for every object: zero it, track and untrack it, save an exception.
cdef extern from *:
    """
    #define EDA_MAX_IDLE 4096
    typedef struct {
        PyObject* items[EDA_MAX_IDLE];
        int n;
        destructor other;       /* the type's own, for what is not kept */
    } eda_idle;
    static inline void eda_watch_idle(eda_idle* idle, PyTypeObject* type, destructor dealloc) {
        idle->other = type->tp_dealloc;
        type->tp_dealloc = dealloc;
    }
    static inline PyObject* eda_take_idle(eda_idle* idle) {
        PyObject* it = idle->items[--idle->n];
    #ifdef Py_REF_DEBUG
        _Py_NewReference(it);
    #else
        Py_SET_REFCNT(it, 1);
    #endif
        return it;
    }
    static inline int eda_has_room(eda_idle* idle) { return idle->n < EDA_MAX_IDLE; }
    static inline void eda_put_idle(eda_idle* idle, PyObject* it) { idle->items[idle->n++] = it; }
    """
    ctypedef void (*Dealloc "destructor")(PyObject* it) noexcept
    ctypedef struct Idle "eda_idle":
        int n
        Dealloc other
    void watch_idle "eda_watch_idle"(Idle* idle, PyTypeObject* type, Dealloc dealloc) noexcept
    object take_idle "eda_take_idle"(Idle* idle)                # idle.n must not be 0
    bint has_room "eda_has_room"(Idle* idle) noexcept
    void put_idle "eda_put_idle"(Idle* idle, PyObject* it) noexcept


# A stretch of an event's bytes.
cdef struct Span:
    uint32_t start
    uint32_t n


cdef class Data:
    cdef readonly str type      # encoding name
    cdef object _value          # what the user passed; None for received data
    cdef bytes _encoded         # the encoded bytes, once they were asked for; None before
    cdef bytes _raw             # received data: owner of the bytes that the spans point into; else None
    cdef Span _span             # received data: the payload within _raw
    cdef Span _event_id         # received data: the event's id within _raw, for errors
    cdef str _event_id_text     # unpickled data: the event's id; else None

    cdef bytes encoded(self)
    cdef bytes encoded_or_none(self)


cdef Data NIL

# The Data that a user gives for an event, NIL for None; raises ConfigError.
cdef Data check_data(object value)

# Data of stretches of `raw` that the codec has checked.
cdef Data received_data(bytes raw, Span* encoding, Span* payload, Span* event_id)

# Tell the cycle collector that the object can't be part of a cycle: it refers to texts and bytes alone. Saves its
# passes over a full window or ring.
cdef void leave_to_refcount(object it) noexcept
cdef bint is_left_to_refcount(object it) noexcept
cdef void give_to_collector(object it) noexcept
