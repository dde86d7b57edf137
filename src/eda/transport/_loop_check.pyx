"""The check that the caller runs in the event loop of a connection, without a system call for each answer.

When Python 3.11 is asked for the running loop, it asks the system for the process id, because a forked child runs no
loop. That takes 0.15 µs. It keeps the loop in an object that is made anew each time a loop begins to run or ends, and
the dict of the thread has this object under a name (CPython 3.11, Modules/_asynciomodule.c, set_running_loop). So while
the object is the same, and no fork came between, the same loop runs in this thread. With Python 3.12 the object is the
loop itself, or None. Python 3.13 has no such object, and is asked each time: it answers without a system call.
"""

cimport cython
from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject

import os

__all__ = ["LoopCheck"]

cdef str NAME = "__asyncio_running_event_loop__"

cdef long n_forks = 0           # after which this process has begun


cdef extern from "Python.h":
    PyObject* PyThreadState_GetDict() noexcept      # NULL: there is none


@cython.final
@cython.auto_pickle(False)
cdef class LoopCheck:
    """Whether `loop` runs in this thread. `running_loop`: a function that returns the running loop, or None."""

    def __init__(self, object loop, object running_loop not None):
        self.loop = loop
        self.running_loop = running_loop

    cpdef bint passes(self) except -1:
        """Return whether the caller runs in the loop."""
        cdef PyObject* of_thread = PyThreadState_GetDict()
        cdef PyObject* found = NULL
        if of_thread is not NULL:
            found = PyDict_GetItemWithError(<object>of_thread, NAME)
        if found == <PyObject*>None:
            found = NULL                # Python 3.12: a loop has run in this thread, and none does now
        if found is not NULL and found == <PyObject*>self.seen and self.n_forks == n_forks:
            return True
        if self.running_loop() is not self.loop:
            return False
        if found is not NULL:
            self.seen = <object>found
            self.n_forks = n_forks
        return True


def _note_fork():
    global n_forks
    n_forks += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
