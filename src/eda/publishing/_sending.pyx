"""`send`, which a program calls for each event: in most cases, it only passes the event to the core.

A coroutine of Python would take longer than the core does. So `send` returns an object of its own, with which a program
can do all that it can do with a coroutine: await it, make a task of it, close it.
"""

cimport cython
from cpython.exc cimport PyErr_WarnEx
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF

from eda._data cimport FreeList, give_to_collector, has_room, install_free_list, put_free, take_free
from eda._event cimport Event
from eda._steps cimport (
    PYGEN_ERROR, PYGEN_RETURN, AwaitedType, PyIter_Send, PySendResult, taken_step, use_for_send,
)
from eda.publishing._publisher_core cimport PublisherCore

__all__ = ["Marker", "Sender", "Sending", "with_own_send"]


cdef extern from "Python.h":
    ctypedef struct PyMethodDef:
        pass
    ctypedef struct MethodDescr "PyMethodDescrObject":
        PyMethodDef* d_method
    object PyDescr_NewMethod(PyTypeObject* type, PyMethodDef* method)


cdef class Marker:
    """The base class of compiled functions that change each event before it is sent."""

    def __call__(self, Event event, publisher):
        return self.mark(event, publisher)

    cdef Event mark(self, Event event, object publisher):
        """Return the event that is sent instead: the same one, or a changed copy."""
        raise NotImplementedError


cdef class Sender:
    """The base class of a publisher: `send`, and what it reads for each event."""

    def send(self, event):
        """Accept an event, to be published in the background, and return the id under which it is published: await it.

        Waits only while the window is full or the connection can't take more bytes: that is the back-pressure. With
        packs, it also lets the event loop run after each 2,048 events. If it is cancelled meanwhile, it sends nothing.

        Raises ConfigError or EncodeError for an event that can't be sent; ConfigError in another event loop or thread;
        Closed; PublishFailed if more than 10,000 failures are kept because nobody called `flush`. Then the event is not
        published.
        """
        cdef Sending sending = new_sending()
        sending.publisher = self
        sending.event = event
        return sending


def with_own_send(type cls):
    """Let a subclass of Sender have `send` as a method of its own, and return the class.

    Python calls a compiled method in a quicker way if the object's class is the very class that the method belongs to.
    """
    if not issubclass(cls, Sender):
        raise TypeError(f"{cls.__name__} is no subclass of Sender")
    cls.send = PyDescr_NewMethod(<PyTypeObject*>cls, (<MethodDescr*><PyObject*>Sender.send).d_method)
    return cls


@cython.final
@cython.auto_pickle(False)
cdef class Sending:
    """The coroutine of one `send`. It sends the event when it is awaited, and not before."""

    # Names for asyncio, which shows them for a task.
    __name__ = "send"
    __qualname__ = "Publisher.send"

    def __cinit__(self):
        self.is_tracked = True          # until new_sending() ends that

    def __dealloc__(self):
        if not self.has_begun:
            warn_of_send()

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value, /):
        """Run until the event is sent, or until the sender has to wait. Raises StopIteration, whose value is the id."""
        cdef PyObject* result = NULL
        cdef PySendResult how = send_to(<PyObject*>self, <PyObject*>value, &result)
        return taken_step(how, result)

    def throw(self, type, value=None, traceback=None, /):
        """Raise an exception where the sender waits; if it has not begun, nothing is sent."""
        if self.is_running:
            raise ValueError("coroutine already executing")
        if self.rest is not None:
            self.is_running = True
            try:
                return self.rest.throw(type if value is None else value)
            except BaseException:
                self.end()
                raise
            finally:
                self.is_running = False
        if self.has_begun:
            raise RuntimeError("cannot reuse already awaited coroutine")
        self.end()
        raise type if value is None else value

    def close(self):
        """End it. If it has not begun, nothing is sent. Raises ValueError if it runs now."""
        if self.is_running:
            raise ValueError("coroutine already executing")
        rest = self.rest
        self.end()
        if rest is not None:
            rest.close()

    cdef void end(self) noexcept:
        self.has_begun = True
        self.publisher = None
        self.event = None
        if self.rest is not None:
            self.rest = None


cdef object marked(object mark, Event event, Sender publisher):
    if isinstance(mark, Marker):
        return (<Marker>mark).mark(event, publisher)
    return mark(event, publisher)


cdef int warn_of_send() noexcept:
    """Warn of a `send` that nobody has awaited. If warnings are errors, Python reports that it can't raise here."""
    PyErr_WarnEx(RuntimeWarning, b"coroutine 'Publisher.send' was never awaited: the event was not sent", 1)
    return 0


cdef PySendResult send_to(PyObject* it, PyObject* value, PyObject** result) except PYGEN_ERROR:
    """Do what `send` of a coroutine does. The result is the id, or what the sender waits for; the caller owns it."""
    cdef Sending self = <Sending>it
    cdef Sender publisher
    cdef PublisherCore core
    cdef object event
    cdef str id
    cdef PySendResult how
    if not self.has_begun:
        if value is not <PyObject*>None:
            raise TypeError("can't send non-None value to a just-started coroutine")
        publisher = self.publisher
        event = self.event
        self.end()                      # whatever raises from here on
        if publisher is None:
            raise TypeError("only a publisher makes a coroutine of `send`")
        core = publisher._core
        if core is not None and not publisher._closed:
            if publisher._mark is not None and type(event) is Event:
                event = marked(publisher._mark, <Event>event, publisher)
            if not core.is_overfull and len(publisher._senders) == 0:
                id = core.take_if_flowing(event)
                if id is not None:
                    Py_INCREF(id)
                    result[0] = <PyObject*>id
                    return PYGEN_RETURN
        self.rest = publisher._send_slowly(event)
        give_to_collector(self)         # it waits now, and what it waits for may refer to it
        self.is_tracked = True
    elif self.rest is None:
        raise RuntimeError("cannot reuse already awaited coroutine")
    # What it runs may call `send`, `throw` or `close` of this very object, whose `end` would free the coroutine.
    if self.is_running:
        raise ValueError("coroutine already executing")
    self.is_running = True
    try:
        how = PyIter_Send(<PyObject*>self.rest, value, result)
    except BaseException:
        self.is_running = False
        self.end()
        raise
    self.is_running = False
    if how == PYGEN_RETURN:
        self.end()
    return how


use_for_send(<AwaitedType*>Sending, send_to)


cdef FreeList free_list


# No local variable may hold the object here: its reference count is 0, and must not be raised and lowered again.
cdef void dealloc_sending(PyObject* it) noexcept:
    if not (<Sending>it).has_begun or (<Sending>it).is_tracked or not has_room(&free_list):
        free_list.other(it)
        return
    (<Sending>it).has_begun = False     # it has ended, so its other fields are empty
    put_free(&free_list, it)


install_free_list(&free_list, <PyTypeObject*>Sending, dealloc_sending)


cdef Sending new_sending():
    """Return an empty one. Until it has to wait, no reference leads back to it, so the collector need not know it."""
    cdef Sending sending = <Sending>take_free(&free_list)
    sending.is_tracked = False
    return sending
