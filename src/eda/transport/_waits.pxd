cdef class Wait


cdef class Waits:
    cdef readonly object loop
    cdef object give_loop           # callable: returns `loop`
    cdef object current_task
    cdef object cancelled_error
    cdef object over                # an asyncio future that is over: the callbacks of tasks get it
    cdef list ended                 # waits that ended in this read, and whose tasks are not resumed yet
    cdef bint is_reading

    cdef Wait make(self)
    cdef int resume_tasks(self) except -1


cdef class Wait:
    cdef Waits waits
    cdef bint is_awaited            # a task is about to wait
    cdef object callback            # the task's callback; None: no task waits yet
    cdef object context
    cdef object value
    cdef object error
    cdef bint is_done

    cdef Waits owner(self)
    cdef int end_with(self, object value) except -1
    cdef int finish(self, object value, object error, bint within_a_read) except -1
    cdef tuple take_callback(self)
    cdef int resume(self) except -1
    cdef int call_soon(self) except -1
