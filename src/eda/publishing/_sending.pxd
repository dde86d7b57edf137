from eda._event cimport Event
from eda.publishing._publisher_core cimport PublisherCore


# A compiled function that changes each event before it is sent. It is called without the tuple and the look-ups that a
# call of an object takes.
cdef class Marker:
    cdef Event mark(self, Event event, object publisher)


# The part of a publisher that `send` uses for each event.
cdef class Sender:
    cdef public PublisherCore _core     # None: the publisher is not open yet
    cdef public object _senders         # the queue of senders that wait for room, which is empty while events flow
    cdef public object _mark            # the function that changes each event; None: events are sent as they are
    cdef public bint _closed


# The coroutine of one `send`.
cdef class Sending:
    cdef Sender publisher               # None: it has ended
    cdef object event
    cdef object rest                    # the coroutine that sends the event if the core alone can't; else None
    cdef bint has_begun
    cdef bint is_running                # `rest` runs now, so it must not be freed
    cdef bint is_tracked                # by the garbage collector

    cdef void end(self) noexcept


# Return the event as the function `_mark` of a publisher changes it.
cdef object marked(object mark, Event event, Sender publisher)
