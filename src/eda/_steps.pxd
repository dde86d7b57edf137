# What a compiled object needs so that a program can await it as a coroutine. Such an object takes less time to make, run
# and free than a coroutine of Python.

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF


cdef extern from "Python.h":
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    # Do what `send` of a coroutine does: set the result, which the caller owns, and return whether it is the last one.
    PySendResult PyIter_Send(PyObject* iterator, PyObject* value, PyObject** result) except PYGEN_ERROR
    ctypedef PySendResult (*SendFunction "sendfunc")(PyObject* it, PyObject* value, PyObject** result) except PYGEN_ERROR
    ctypedef struct PyAsyncMethods:
        SendFunction am_send
    ctypedef struct AwaitedType "PyTypeObject":
        PyAsyncMethods* tp_as_async


# Let what awaits objects of a type get their result without a StopIteration. The type has a method `__await__`.
cdef inline void use_for_send(AwaitedType* type, SendFunction send) noexcept:
    type.tp_as_async.am_send = send


# Return what `send` of a coroutine returns for the result of a SendFunction, which is taken over. Raises StopIteration.
cdef inline object taken_step(PySendResult how, PyObject* result):
    returned = <object>result
    Py_DECREF(returned)             # `result` was owned, and `returned` has a reference of its own
    if how == PYGEN_RETURN:
        raise StopIteration(returned)
    return returned
