from eda._event cimport Event


cdef class Stamp:
    cdef dict entries               # metadata to add
    cdef tuple texts                # the same as an event keeps them: key, value, key, value …
    cdef frozenset names            # an event whose metadata have one of these is not stamped

    cpdef Event on(self, Event event)


cdef class SameMeta:
    cdef bytes kept                 # the metadata of the noted event as they are in its envelope; empty: none is noted

    cpdef int note(self, Event event) except -1
    cpdef bint is_in(self, object event)
