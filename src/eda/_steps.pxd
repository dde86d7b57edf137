# What a compiled object needs so that a program can await it as a coroutine. Such an object takes less time to make,
# run and free than a coroutine of Python.

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF


cdef extern from "Python.h":
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    # Do what `send` of a coroutine does: set the result, which the caller owns, and return whether it is the last one.
    PySendResult PyIter_Send(PyObject* iterator, PyObject* value, PyObject** result) except PYGEN_ERROR
    ctypedef PySendResult (*SendFunction "sendfunc")(
        PyObject* it, PyObject* value, PyObject** result
    ) except PYGEN_ERROR
    ctypedef struct AwaitedType "PyTypeObject":
        pass


cdef extern from *:
    """
    /* Do what `__next__` does, by `am_send`. Compiled coroutines take their first step so. A `raise` of Cython would
       make a traceback for each result, which takes longer than most handlers. A result of None needs no exception. */
    static PyObject* eda_next_by_send(PyObject* it) {
        PyObject* result = NULL;
        if (Py_TYPE(it)->tp_as_async->am_send(it, Py_None, &result) != PYGEN_RETURN) return result;
        if (PyTuple_Check(result) || PyExceptionInstance_Check(result)) {
            /* PyErr_SetObject would take them for the arguments of the exception, or for the exception. */
            PyObject* error = PyObject_CallFunctionObjArgs(PyExc_StopIteration, result, NULL);
            if (error != NULL) PyErr_SetObject(PyExc_StopIteration, error);
            Py_XDECREF(error);
        } else if (result != Py_None) {
            PyErr_SetObject(PyExc_StopIteration, result);
        }
        Py_DECREF(result);
        return NULL;
    }

    static void eda_use_for_send(PyTypeObject* type, sendfunc send) {
        type->tp_as_async->am_send = send;
        type->tp_iternext = eda_next_by_send;
    }
    """
    # Let what awaits objects of a type get their results without a traceback. The type has `__await__` and `__next__`.
    void use_for_send "eda_use_for_send"(AwaitedType* type, SendFunction send) noexcept


# Return what `send` of a coroutine returns for the result of a SendFunction, which is taken over. Raises StopIteration.
cdef inline object taken_step(PySendResult how, PyObject* result):
    returned = <object>result
    Py_DECREF(returned)             # `result` was owned, and `returned` has a reference of its own
    if how == PYGEN_RETURN:
        raise StopIteration(returned)
    return returned
