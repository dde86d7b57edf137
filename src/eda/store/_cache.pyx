"""The cached aggregates of a store: their states, and which of their events the states include."""

cimport cython
from cpython.ref cimport PyObject

from eda.store._recent_commands cimport RecentCommands

__all__ = ["Cache", "Cached"]


cdef extern from *:
    """
    #if defined(__GNUC__)
    #define EDA_PREFETCH(it) __builtin_prefetch(it)
    #else
    #define EDA_PREFETCH(it) ((void)(it))
    #endif
    """
    void prefetch "EDA_PREFETCH"(const void* it) noexcept


@cython.final
@cython.freelist(64)
cdef class Cached:
    """An aggregate's state after `version`, as the store has it. It is a baseline: the server checks every append.

    `sequence` and `last_id`: of the event with this version. `commands`: the latest commands. `snapshot_version` and
    `snapshot_sequence`: the version that the last snapshot has, and the sequence of its message; 0 if there is none.
    `epoch`: if it differs from the store's, the aggregate is checked before it is used. `has_state`: whether `state` is
    known; the rest is enough for an append without a decision. `earlier`: the sequences of the last events, `sequence`
    among them, as far as they are known (see `_earlier`).
    """

    def __init__(self, object state, int64_t version=0, int64_t sequence=0, str last_id not None="",
                 RecentCommands commands=None, bint has_state=True, int64_t snapshot_version=0,
                 int64_t snapshot_sequence=0, int64_t epoch=0, str earlier not None=""):
        self.state = state
        self.version = version
        self.sequence = sequence
        self.last_id = last_id
        self.commands = RecentCommands.__new__(RecentCommands) if commands is None else commands
        self.has_state = has_state
        self.snapshot_version = snapshot_version
        self.snapshot_sequence = snapshot_sequence
        self.epoch = epoch
        self.earlier = earlier

    def __repr__(self):
        return f"<Cached version {self.version} at sequence {self.sequence}>"

    cdef void fetch(self) noexcept:
        """Have the processor load what an append needs next: none of it was used since the aggregate's last event."""
        prefetch(<void*>self.commands)
        prefetch(<void*>self.state)
        prefetch(<void*>self.earlier)
        prefetch(<void*>self.infix)
        prefetch(<void*>self.last_id)

    cpdef Cached without_state(self):
        """Return what is known of the aggregate, without its state."""
        return self.after(self.version, self.sequence, self.last_id, None, False, self.earlier)

    def of_epoch(self, int64_t epoch):
        """Return the same as checked in this epoch."""
        cdef Cached known = self.after(
            self.version, self.sequence, self.last_id, self.state, self.has_state, self.earlier
        )
        known.epoch = epoch
        return known

    cpdef Cached after(self, int64_t version, int64_t sequence, str last_id, object state, bint has_state,
                       str earlier):
        """Return the aggregate after further events, the last of which is given."""
        cdef Cached known = Cached.__new__(Cached)
        known.state = state
        known.version = version
        known.sequence = sequence
        known.last_id = last_id
        known.commands = self.commands
        known.has_state = has_state
        known.snapshot_version = self.snapshot_version
        known.snapshot_sequence = self.snapshot_sequence
        known.epoch = self.epoch
        known.earlier = earlier
        known.infix = self.infix
        return known


@cython.final
@cython.freelist(64)
@cython.no_gc_clear
cdef class Entry:
    """An aggregate in the cache, and its neighbours in the order of use."""


@cython.final
cdef class Cache:
    """The aggregates that were used last, at most `bound`. With a bound of 0 it keeps nothing."""

    def __init__(self, Py_ssize_t bound):
        self.bound = bound
        self.entries = {}

    def get(self, str aggregate not None):
        """Return an aggregate, which is then the one used last; None if it is not cached."""
        cdef Entry entry = self.find(aggregate)
        return None if entry is None else entry.cached

    cdef Entry find(self, str aggregate):
        """Return the place of an aggregate, which is then the one used last; None if it is not cached."""
        cdef object found = self.entries.get(aggregate)
        if found is None:
            return None
        self.use(<Entry>found)
        return <Entry>found

    cdef int use(self, Entry entry) except -1:
        """Make an entry the one used last."""
        if self.newest != <PyObject*>entry:
            self.unlink(entry)
            self.link(entry)
        return 0

    cdef void link(self, Entry entry) noexcept:
        entry.older = self.newest
        entry.newer = NULL
        if self.newest is not NULL:
            (<Entry>self.newest).newer = <PyObject*>entry
        else:
            self.oldest = <PyObject*>entry
        self.newest = <PyObject*>entry

    cdef void unlink(self, Entry entry) noexcept:
        if entry.older is not NULL:
            (<Entry>entry.older).newer = entry.newer
        else:
            self.oldest = entry.newer
        if entry.newer is not NULL:
            (<Entry>entry.newer).older = entry.older
        else:
            self.newest = entry.older

    cpdef int put(self, str aggregate, Cached cached) except -1:
        """Cache an aggregate. If there are too many, the one that was not used for the longest time is dropped."""
        return self.put_at(None, aggregate, cached)

    cdef int put_at(self, Entry entry, str aggregate, Cached cached) except -1:
        """Do what `put` does. `entry`: the aggregate's place as `find` has returned it, or None if it is not known.

        It may be dropped since then. An aggregate that is cached must never get a second place: its neighbours in the
        order of use would refer to the first one, which is freed.
        """
        if entry is None or entry.is_dropped:
            entry = self.find(aggregate)
        if entry is not None:
            self.use(entry)
            entry.cached = cached
            return 0
        if self.bound == 0:
            return 0
        entry = Entry.__new__(Entry)
        entry.cached = cached
        entry.aggregate = aggregate
        self.entries[aggregate] = entry
        self.link(entry)
        if len(self.entries) > self.bound:
            self.drop((<Entry>self.oldest).aggregate)
        return 0

    cpdef int drop(self, str aggregate) except -1:
        """Forget an aggregate, if it is cached."""
        cdef object found = self.entries.pop(aggregate, None)
        if found is not None:
            self.unlink(<Entry>found)
            (<Entry>found).is_dropped = True
        return 0

    def __len__(self):
        return len(self.entries)
