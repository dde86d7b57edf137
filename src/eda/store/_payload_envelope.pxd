from libc.stdint cimport int64_t, uint64_t


# Return the envelope of Event(data=payload, aggregate=aggregate); None if it must be made from the Event. `entry` is
# that of the payload's class. The time and the version are not 0. Raises EncodeError for a text that is not UTF-8.
cdef bytes payload_envelope(object payload, tuple entry, str aggregate, str id, str client, int64_t now_ns,
                            int64_t version)
