"""The latest commands of an aggregate, and where their events are stored.

A command that is executed again is found here, so that it is not decided again. The cache has such a list for each
aggregate, and each snapshot has one. So a list is one buffer without Python objects: a million of them would slow the
garbage collector, and take more memory.
"""

cimport cython
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport int64_t, uint16_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memmove

import re

from eda.store.command_ids import MAX_COMMAND_ID, command_in, infix_of

__all__ = ["MOST", "RecentCommands"]

MOST = 256  # commands that are found again

cdef enum:
    N_MOST = 256
    N_SPARE = 64                # so many older commands may be in the buffer before they are removed
    N_MAX_ID = 100
    N_FIRST = 64                # bytes of room for further entries, at least

# An entry of the buffer: the command id, and a Tail. The length comes last, so that entries are read backwards, the
# newest first.
cdef packed struct Tail:
    int64_t version             # of the command's first event
    int64_t sequence            # of the command's first event
    uint16_t n                  # events
    unsigned char n_id          # bytes of the id

# An entry of the text. Neither ids nor numbers have spaces, so two spaces always begin an entry.
_ENTRY = rf"  [!-~]{{1,{MAX_COMMAND_ID}}} [1-9]\d{{0,18}},[1-9]\d{{0,18}},[1-9]\d{{0,3}}"
_TEXT = re.compile(rf"(?:{_ENTRY})*", re.ASCII)
_MAX = 2**63 - 1


cdef extern from *:
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* n) except NULL


cdef int find_entry(RecentCommands commands, str command_id, Tail* tail) except -1:
    """Fill `tail` from a command's entry. Return 0 if it is not among the last 256."""
    cdef Py_ssize_t n, end = commands.size
    cdef const char* id
    cdef int left = N_MOST
    if end == 0:
        return 0
    id = PyUnicode_AsUTF8AndSize(command_id, &n)
    while end > 0 and left > 0:
        memcpy(tail, commands.entries + end - sizeof(Tail), sizeof(Tail))
        end -= <Py_ssize_t>sizeof(Tail) + tail.n_id
        if tail.n_id == n and memcmp(commands.entries + end, id, n) == 0:
            return 1
        left -= 1
    return 0


@cython.final
@cython.freelist(64)
cdef class RecentCommands:
    """The last 256 commands of one aggregate: the version and sequence of their first event, and how many events.

    Commands that were added one after the other must have rising versions. `copy()` returns a list that later additions
    do not change. A search takes at most 1 µs.
    """

    def __dealloc__(self):
        free(self.entries)

    def find(self, str command_id not None):
        """Return a command's first version, first sequence, and number of events; None if it is not among the last."""
        cdef Tail tail
        if find_entry(self, command_id, &tail):
            return tail.version, tail.sequence, <int>tail.n
        return None

    cdef bint has(self, str command_id) except -1:
        """Return whether a command is among the last."""
        cdef Tail tail
        return find_entry(self, command_id, &tail)

    def add(self, str command_id not None, int64_t version, int64_t sequence, int n):
        """Add a command whose `n` events are stored, the first at this version and sequence.

        Commands are added in the order of their versions. One whose version is not beyond the last command's is there
        already, and is ignored.
        """
        self.put(command_id, version, sequence, n)

    cdef int put(self, str command_id, int64_t version, int64_t sequence, int n) except -1:
        cdef Tail tail
        cdef Py_ssize_t n_id, size, room
        cdef const char* id = PyUnicode_AsUTF8AndSize(command_id, &n_id)
        cdef char* larger
        if not 0 < n_id <= N_MAX_ID or not 0 < n < 65536:
            raise ValueError(f"recent commands: {command_id!r} with {n} events is no command")
        if self.size:
            memcpy(&tail, self.entries + self.size - sizeof(Tail), sizeof(Tail))
            if version <= tail.version:
                return 0
        if self.n_entries >= N_MOST + N_SPARE:
            self.drop_old()
        size = self.size + n_id + <Py_ssize_t>sizeof(Tail)
        if size > self.room:
            room = size + max(size // 4, N_FIRST)
            larger = <char*>realloc(self.entries, room)
            if larger is NULL:
                raise MemoryError
            self.entries = larger
            self.room = room
        tail.version, tail.sequence = version, sequence
        tail.n, tail.n_id = <uint16_t>n, <unsigned char>n_id
        memcpy(self.entries + self.size, id, n_id)
        memcpy(self.entries + self.size + n_id, &tail, sizeof(Tail))
        self.size = size
        self.n_entries += 1
        return 0

    cdef Py_ssize_t begin(self) noexcept:
        """Return where the last 256 entries begin, in bytes."""
        cdef Tail tail
        cdef Py_ssize_t at = self.size
        cdef int left = N_MOST
        while at > 0 and left > 0:
            memcpy(&tail, self.entries + at - sizeof(Tail), sizeof(Tail))
            at -= <Py_ssize_t>sizeof(Tail) + tail.n_id
            left -= 1
        return at

    cdef int drop_old(self) except -1:
        """Remove all but the last 256 entries."""
        cdef Py_ssize_t at = self.begin()
        self.size -= at
        memmove(self.entries, self.entries + at, self.size)
        self.n_entries = min(self.n_entries, N_MOST)
        return 0

    def note(self, events, str aggregate not None):
        """Add the commands that have stored these events of the aggregate. The events are in the order of versions."""
        cdef Tail tail
        cdef Py_ssize_t at
        infix = infix_of(aggregate)
        for event in events:
            found = command_in(event.id, infix)
            if found is None:
                continue
            command_id, number = found
            if number == 1:
                self.put(command_id, event.version, event.sequence, 1)
                continue
            # A command's events are stored at once, one after the other, so its entry is the last one.
            if self.size == 0:
                continue
            at = self.size - <Py_ssize_t>sizeof(Tail)
            memcpy(&tail, self.entries + at, sizeof(Tail))
            if (
                number == tail.n + 1 and event.version == tail.version + tail.n
                and self.entries[at - tail.n_id:at] == command_id.encode()
            ):
                tail.n += 1
                memcpy(self.entries + at, &tail, sizeof(Tail))

    def copy(self):
        """Return a copy of its own."""
        cdef RecentCommands copied = RecentCommands.__new__(RecentCommands)
        if self.size:
            copied.entries = <char*>realloc(NULL, self.size)
            if copied.entries is NULL:
                raise MemoryError
            memcpy(copied.entries, self.entries, self.size)
        copied.size = copied.room = self.size
        copied.n_entries = self.n_entries
        return copied

    def to_text(self):
        """Return the commands as a text of printable ASCII characters, for a snapshot."""
        cdef Tail tail
        cdef list entries = []
        cdef Py_ssize_t end = self.size
        cdef Py_ssize_t begin = self.begin()
        while end > begin:
            memcpy(&tail, self.entries + end - sizeof(Tail), sizeof(Tail))
            end -= <Py_ssize_t>sizeof(Tail) + tail.n_id
            id = PyUnicode_DecodeASCII(self.entries + end, tail.n_id, NULL)
            entries.append(f"{id} {tail.version},{tail.sequence},{tail.n}")
        entries.reverse()
        return "  ".join(entries)

    @classmethod
    def from_text(cls, str text not None):
        """Return the commands that `to_text` has written. Raises ValueError for any other text."""
        cdef RecentCommands read = RecentCommands.__new__(RecentCommands)
        if not _TEXT.fullmatch(f"  {text}" if text else ""):
            raise ValueError("recent commands: not a list of command ids and numbers")
        entries = text.split("  ") if text else []
        if len(entries) > MOST:
            raise ValueError(f"recent commands: {len(entries)} commands, and {MOST} are allowed")
        end_version = end_sequence = 1
        for entry in entries:
            command_id, _, numbers = entry.partition(" ")
            version, sequence, n = map(int, numbers.split(","))
            if version < end_version or sequence < end_sequence or max(version, sequence) > _MAX - n:
                raise ValueError("recent commands: their versions and sequences do not rise")
            end_version, end_sequence = version + n, sequence + n
            read.put(command_id, version, sequence, n)
        return read

    def __len__(self):
        return min(self.n_entries, N_MOST)

    def __eq__(self, other):
        return isinstance(other, RecentCommands) and self.to_text() == other.to_text()

    def __repr__(self):
        return f"<RecentCommands {len(self)}>"

    def __sizeof__(self):
        return object.__sizeof__(self) + self.room
