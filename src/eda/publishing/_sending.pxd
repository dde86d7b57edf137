from eda.publishing._publisher_core cimport PublisherCore


# The part of a publisher that `send` uses for each event.
cdef class Sender:
    cdef public PublisherCore _core     # None: the publisher is not open yet
    cdef public object _senders         # the queue of senders that wait for room, which is empty while events flow
    cdef public bint _closed


# The coroutine of one `send`.
cdef class Sending:
    cdef Sender publisher               # None: it has ended
    cdef object event
    cdef object rest                    # the coroutine that sends the event if the core alone can't; else None
    cdef bint has_begun
    cdef bint is_running                # `rest` runs now, so it must not be freed

    cdef bint end(self) noexcept
    cdef object begin(self)
