"""The outgoing bytes of one connection: written together, and kept in chunks while they may have to be sent again."""

cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES, PyBUF_WRITABLE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc

from eda._bytes cimport Writer, put_byte, put_bytes, put_decimal, release, reserve

__all__ = ["Outbound"]

cdef enum:
    NEW_SIZE = CHUNK_SIZE + 8 * 1024            # with room for the last frame
    # From this size onwards, a chunk keeps the buffer. Fewer bytes are copied, because the kept buffer would be mostly
    # empty.
    MIN_OWN = 48 * 1024
    MAX_SPARE = 32
    MAX_SPARE_BYTES = 4 * 1024 * 1024           # of all of them
    MAX_SPARE_SIZE = CHUNK_SIZE * 8             # of one of them

cdef const char* UNSIGNED_BYTE = "B"

# Unused buffers of former chunks. For a new buffer the system would have to zero the memory first.
cdef Writer[MAX_SPARE] spare
cdef int n_spare = 0
cdef Py_ssize_t spare_bytes = 0


cdef void put_spare(Writer* w) noexcept:
    """Keep a buffer for a later chunk, or free it."""
    global n_spare, spare_bytes
    if n_spare < MAX_SPARE and NEW_SIZE <= w.cap <= MAX_SPARE_SIZE and spare_bytes + w.cap <= MAX_SPARE_BYTES:
        spare[n_spare] = w[0]
        n_spare += 1
        spare_bytes += w.cap
    else:
        free(w.buf)


cdef void take_spare(Writer* w) noexcept:
    """Give the writer another buffer. If there is no memory, its buffer is NULL and the next reserve() fails."""
    global n_spare, spare_bytes
    if n_spare:
        n_spare -= 1
        w[0] = spare[n_spare]
        spare_bytes -= w.cap
    else:
        w.buf = <unsigned char*>malloc(NEW_SIZE)
        w.cap = NEW_SIZE if w.buf is not NULL else 0
    w.pos = 0


@cython.final
@cython.auto_pickle(False)              # a copy would release the same buffer a second time
cdef class Chunk:
    """A run of outgoing publishes. Its bytes never change."""

    def __dealloc__(self):
        cdef Writer w
        if self.cap:
            w.buf = <unsigned char*>self.data
            w.cap = self.cap
            put_spare(&w)

    cdef int keep(self, bytes data) except -1:
        """Set the chunk's bytes."""
        self.owner = data
        self.data = PyBytes_AS_STRING(data)
        self.n = PyBytes_GET_SIZE(data)
        return 0

    cdef void take(self, Writer* w) noexcept:
        """Set the chunk's bytes: the writer's buffer, and so the writer has none."""
        self.data = <const char*>w.buf
        self.n = w.pos
        self.cap = w.cap
        w.buf = NULL
        w.pos = w.cap = 0

    def __getbuffer__(self, Py_buffer* view, int flags):
        # Filled by hand: PyBuffer_FillInfo() would lose a reference to the None that Cython has put into view.obj.
        if flags & PyBUF_WRITABLE:
            raise BufferError("outgoing bytes can't be changed")
        view.obj = self
        view.buf = <void*>self.data
        view.len = self.n
        view.readonly = True
        view.itemsize = 1
        view.format = <char*>UNSIGNED_BYTE if flags & PyBUF_FORMAT else NULL
        view.ndim = 1
        view.shape = &view.len if flags & PyBUF_ND else NULL
        view.strides = &view.itemsize if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
        view.suboffsets = NULL
        view.internal = NULL


cdef object take_chunk(Chunk chunk, Writer* w):
    """Move the writer's bytes into the chunk, and return them as bytes or a memoryview for the transport."""
    cdef Py_ssize_t n = w.pos
    if n < MIN_OWN:
        w.pos = 0
        chunk.keep(PyBytes_FromStringAndSize(<char*>w.buf, n))
        return chunk.owner
    chunk.take(w)
    take_spare(w)
    return memoryview(chunk)


@cython.final
cdef class Outbound:
    """The outgoing frames of one connection, written once per turn of the event loop, or at 64 KiB (packs: 240 KiB).

    Without a connection, publishes are dropped, since their window sends them again. Commands wait, since an
    acknowledgement is still useful after a reconnect. Requests, such as pulls, are dropped: nobody would wait for the
    answers on the next connection. `schedule` is called when there is something to write. It must call `flush()` before
    the end of this turn of the loop.
    """

    def __cinit__(self, object schedule):
        self.schedule = schedule

    def __dealloc__(self):
        release(&self.publishes)
        release(&self.commands)
        release(&self.requests)

    def set_write(self, object write):
        """Set the function that writes; None while there is no connection. Requests that wait are dropped."""
        self.write = write
        self.paused = False
        self.requests.pos = 0
        if write is not None and self.commands.pos:
            write_soon(self)

    def set_paused(self, bint paused):
        """Note whether the transport's buffer is full."""
        self.paused = paused

    def command(self, bytes frame not None):
        """Add a whole frame that waits until there is a connection."""
        if reserve(&self.commands, len(frame)) < 0:
            raise MemoryError
        put_bytes(&self.commands, <const char*>frame, len(frame))
        write_soon(self)

    def request(self, bytes frame not None):
        """Add a whole frame that is dropped if this connection is lost before the write."""
        if reserve(&self.requests, len(frame)) < 0:
            raise MemoryError
        put_bytes(&self.requests, <const char*>frame, len(frame))
        if self.write is not None and self.requests.pos >= CHUNK_SIZE:
            self.flush()
        else:
            self.write_or_schedule()

    @property
    def size(self):
        """Return the number of bytes that wait for the next write."""
        return self.publishes.pos + self.commands.pos + self.requests.pos

    cdef Chunk current_chunk(self):
        if self.chunk is None:
            self.chunk = Chunk.__new__(Chunk)
        return self.chunk

    cdef int write_or_schedule(self) except -1:
        """Write now if `at_once` is set or there are 64 KiB; otherwise schedule a flush() in this turn of the loop."""
        if self.at_once:
            self.flush()
        elif self.publishes.pos + self.commands.pos >= CHUNK_SIZE and (self.write is not None or self.publishes.pos):
            self.flush()
        elif not self.scheduled:
            self.scheduled = True
            self.schedule()
        return 0

    cpdef int flush(self) except -1:
        """Write everything now."""
        cdef object publishes = None
        cdef bytes commands = None
        cdef bytes requests
        cdef Chunk chunk
        self.scheduled = False
        self.n_flushes += 1
        if self.publishes.pos:
            chunk = self.current_chunk()
            self.chunk = None               # a written chunk gets no more frames, even if the write fails
            publishes = take_chunk(chunk, &self.publishes)
        if self.write is None:
            self.requests.pos = 0
            return 0
        if self.commands.pos:
            commands = PyBytes_FromStringAndSize(<char*>self.commands.buf, self.commands.pos)
            self.commands.pos = 0
        if self.requests.pos:
            requests = PyBytes_FromStringAndSize(<char*>self.requests.buf, self.requests.pos)
            self.requests.pos = 0
            commands = requests if commands is None else b"%b%b" % (commands, requests)
        if publishes is not None:
            self.n_writes += 1
            self.write(publishes if commands is None else b"%b%b" % (commands, publishes))
        elif commands is not None:
            self.n_writes += 1
            self.write(commands)
        return 0


cdef int put_publish(Outbound out, const unsigned char* subject, Py_ssize_t n_subject, const char* payload,
                     Py_ssize_t n_payload) except -1:
    """Add a PUB of the payload as a command. The caller must have checked the subject."""
    cdef Writer* w = &out.commands
    if reserve(w, 4 + n_subject + 1 + 20 + 2 + n_payload + 2) < 0:
        raise MemoryError
    put_bytes(w, b"PUB ", 4)
    put_bytes(w, subject, n_subject)
    put_byte(w, 32)
    put_decimal(w, <uint64_t>n_payload)
    put_bytes(w, b"\r\n", 2)
    if n_payload:
        put_bytes(w, payload, n_payload)
    put_bytes(w, b"\r\n", 2)
    return write_soon(out)
