from eda.publishing._stream_sender cimport StreamSender


# A StreamSender that also publishes ready-made messages. It has no fields of its own.
cdef class MessageSender(StreamSender):
    pass
