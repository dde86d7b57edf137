"""Outgoing bytes of one connection: written together, and kept in chunks while they may have to be sent again."""

cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES, PyBUF_WRITABLE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc

from eda._bytes cimport Writer, put_byte, put_bytes, put_decimal, release, reserve

__all__ = ["Outbound"]

cdef enum:
    NEW_SIZE = CHUNK_SIZE + 8 * 1024            # room for the last frame, too
    # A chunk of so many bytes is the buffer itself; of fewer, a copy: else most of what is kept would be empty room.
    MIN_OWN = 48 * 1024
    MAX_IDLE = 32
    MAX_IDLE_SIZE = CHUNK_SIZE * 2

cdef const char* UNSIGNED_BYTE = "B"

# Buffers of chunks that are gone, at most 4 MiB: the memory of a new one would be zeroed by the system, page by page.
cdef Writer[MAX_IDLE] idle
cdef int n_idle = 0


cdef void give_back(Writer* w) noexcept:
    """Keep a buffer for the next chunk, or free it."""
    global n_idle
    if n_idle < MAX_IDLE and w.cap <= MAX_IDLE_SIZE:
        idle[n_idle] = w[0]
        n_idle += 1
    else:
        free(w.buf)


cdef void take_new(Writer* w) noexcept:
    """Give a writer a buffer in place of the one that it had; without memory it has none, and reserve() fails."""
    global n_idle
    if n_idle:
        n_idle -= 1
        w[0] = idle[n_idle]
    else:
        w.buf = <unsigned char*>malloc(NEW_SIZE)
        w.cap = NEW_SIZE if w.buf is not NULL else 0
    w.pos = 0


@cython.final
@cython.auto_pickle(False)              # a copy would give the same buffer back once more
cdef class Chunk:
    """A stretch of outgoing publishes; its bytes never change."""

    def __dealloc__(self):
        cdef Writer w
        if self.cap:
            w.buf = <unsigned char*>self.data
            w.cap = self.cap
            give_back(&w)

    cdef int keep(self, bytes data) except -1:
        """Consist of these bytes."""
        self.owner = data
        self.data = PyBytes_AS_STRING(data)
        self.n = PyBytes_GET_SIZE(data)
        return 0

    def __getbuffer__(self, Py_buffer* view, int flags):
        # By hand: PyBuffer_FillInfo() knows nothing of the None that Cython has put there, and loses it.
        if flags & PyBUF_WRITABLE:
            raise BufferError("what is written can't be changed")
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
    """Move what was written into the chunk, and return it as what can be handed to a transport."""
    cdef Py_ssize_t n = w.pos
    if n < MIN_OWN:
        w.pos = 0
        chunk.keep(PyBytes_FromStringAndSize(<char*>w.buf, n))
        return chunk.owner
    chunk.data = <const char*>w.buf
    chunk.n = w.pos
    chunk.cap = w.cap
    take_new(w)
    return memoryview(chunk)


@cython.final
cdef class Outbound:
    """Collects outgoing frames and writes them once per turn of the event loop, or at 64 KiB.

    Without a connection publishes are dropped (their window sends them again) and commands kept: an acknowledgement
    is worth as much after a reconnect. Requests, such as pulls, end with their connection: one that was sent by the
    next one would bring what nobody waits for. `schedule` is called when there is something to write; it must see to a
    call of `flush()` in this turn of the loop.
    """

    def __cinit__(self, object schedule):
        self.schedule = schedule

    def __dealloc__(self):
        release(&self.publishes)
        release(&self.commands)
        release(&self.requests)

    def set_write(self, object write):
        """Write through `write` from now on, or not at all (None)."""
        self.write = write
        self.paused = False
        self.requests.pos = 0
        if write is not None and self.commands.pos:
            write_soon(self)

    def set_paused(self, bint paused):
        """Note that the transport's buffer is full, or has room again."""
        self.paused = paused

    def command(self, bytes frame not None):
        """Add a whole frame that is not part of any window."""
        if reserve(&self.commands, len(frame)) < 0:
            raise MemoryError
        put_bytes(&self.commands, <const char*>frame, len(frame))
        write_soon(self)

    def request(self, bytes frame not None):
        """Add a whole frame that is written on this connection or not at all."""
        if reserve(&self.requests, len(frame)) < 0:
            raise MemoryError
        put_bytes(&self.requests, <const char*>frame, len(frame))
        if self.write is not None and self.requests.pos >= CHUNK_SIZE:
            self.flush()
        else:
            self.write_or_schedule()

    @property
    def size(self):
        """Bytes that wait for the next write."""
        return self.publishes.pos + self.commands.pos + self.requests.pos

    cdef Chunk current_chunk(self):
        if self.chunk is None:
            self.chunk = Chunk.__new__(Chunk)
        return self.chunk

    cdef int write_or_schedule(self) except -1:
        """Have what was added written: now, or at the end of the turn."""
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
        if self.publishes.pos:
            chunk = self.current_chunk()
            self.chunk = None               # whatever fails now, it takes no more
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
    """Add PUB <subject> <n>: payload, as a command. The subject must come from a trusted place or have been checked."""
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
