cdef str new_nuid()
