"""Appends of a single event: the fold before it is sent, and the result. One call for each step.

Most commands decide on one event. Their append is the hot path of an event store, so everything between the caller's
`decide` and `evolve` and the bytes on the wire is compiled. Everything unusual is left to `core` and `event_store`.
"""

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport INT64_MAX, int64_t
from libc.string cimport memcpy

from eda._clock cimport wall_ns
from eda._codec cimport Refusal, envelope_of, read_envelope, refusal_error
from eda._data cimport Data
from eda._event cimport F_AGGREGATE, F_ID, F_SCHEMA, F_TYPE, Event, new_event, use_data
from eda._nuid cimport new_nuid
from eda._payloads cimport data_of_payload, entry_of, is_read_back
from eda._texts cimport ascii_text
from eda.publishing._message_sender cimport MessageSender
from eda.publishing._stream_sender cimport Destination
from eda.store._cache cimport Cache, Cached, Entry
from eda.store._earlier cimport with_sequence
from eda.store._message cimport Message
from eda.store._payload_envelope cimport payload_envelope
from eda.transport._loop_check cimport LoopCheck

from types import CoroutineType

from eda.errors import ConfigError
from eda.names import FORGOTTEN, SNAPSHOT
from eda.publishing._stream_sender import check_event_id
from eda.receipt import Receipt
from eda.store.cause import with_cause
from eda.store.changeable import is_immutable, quick_answer
from eda.store.command_ids import MAX_COMMAND_ID, infix_of
from eda.store.outgoing import ids_of, plain_events
from eda.store.results import Appended, Loaded
from eda.typed.registry import MADE_AS

__all__ = ["Single", "Singles"]

cdef enum:
    MOST_ID = 128               # bytes of a command's event id; a command id has up to 100

cdef dict made_as = MADE_AS
cdef str forgotten = FORGOTTEN
cdef str snapshot = SNAPSHOT
cdef Py_ssize_t max_command_id = MAX_COMMAND_ID

cdef extern from *:
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* n) except NULL
    bint PyUnicode_IS_ASCII(str text) noexcept


cdef Event event_of_payload(object payload, str aggregate):
    """Return Event(data=payload, aggregate=aggregate), without a look at each argument. The aggregate is not empty."""
    cdef Event event = new_event()
    cdef PyObject* type = NULL
    cdef PyObject* schema = NULL
    cdef Data data = data_of_payload(payload, &type, &schema)
    event.set_text(F_ID, "")
    event.set_text(F_TYPE, <str>type)
    if <str>schema:
        event.set_text(F_SCHEMA, <str>schema)
    event.set_text(F_AGGREGATE, aggregate)
    use_data(event, data)
    return event


cdef Event event_of(Event event, object payload, str aggregate):
    """Return the event; if it is None, the one that consists of the payload."""
    return event_of_payload(payload, aggregate) if event is None else event


cdef str type_of(Event event, object payload):
    """Return the type of the event; if it is None, that of the payload's class."""
    return <str>entry_of(payload)[1] if event is None else event.get_text(F_TYPE)


@cython.final
cdef class Single(Message):
    """An append of a single event, from the decision to the result.

    `waiter`: the wait for the sequence at which the event is stored; negative if its id was stored before. It is None
    for a command that is not sent: then `decide` has raised an error, or `decided` is its result, which is not a single
    event. `before` is the aggregate as it was; if `evolve` may have changed its state
    in place, without the state. `after` is the aggregate once `stored` was called.
    """

    def __init__(self):
        raise TypeError("Singles makes it")

    @property
    def before(self):
        """The aggregate before the append."""
        return self.known.without_state() if self.is_spent else self.known

    def take_refusal(self):
        """Return the error that `decide` has raised, or None, and drop it here: its traceback may refer to this."""
        refusal, self.refusal = self.refusal, None
        return refusal

    def forget_waiter(self):
        """Drop the wait, which keeps the error that it has raised: the error's traceback may refer to this."""
        self.waiter = None

    def stored(self, int64_t sequence):
        """Note that the event is stored at this sequence, and return the result."""
        if self.known is None:
            raise TypeError("Singles makes it")
        return self.stored_at(sequence)

    cdef object stored_at(self, int64_t sequence):
        cdef Cached before = self.known
        cdef int64_t version = before.version + 1
        if self.command_id is not None:
            before.commands.put(self.command_id, version, sequence, 1)
        self.after = before.after(
            version, sequence, self.id, self.state, self.has_state, with_sequence(before.earlier, sequence)
        )
        self.cache.put_at(self.entry, self.aggregate, self.after)
        return Appended(self.aggregate, version, [Receipt(self.id, self.stream, sequence, 0, False)], self.state)


@cython.final
cdef class Singles:
    """Makes and sends the appends of single events of one open store.

    `loop_check` is that of the connection. `opened` is the open stream, `parts` has the epoch,
    `known` has the streams that the connection publishes to. `turns` has the aggregates whose turn is taken.
    `on_stored(aggregate, cached)` is called when the event of a call is stored; None: nothing is.
    """

    def __init__(self, LoopCheck loop_check not None, object opened, object parts, dict known not None,
                 str client not None, object decider, Cache cache not None, dict turns not None, object on_stored=None):
        self.loop_check = loop_check
        self.on_stored = on_stored
        self.opened = opened
        self.parts = parts
        self.known = known
        self.stream = opened.name
        self.client = client
        self.cache = cache
        self.turns = turns
        self.decider = decider
        self.decide = None if decider is None else decider.decide
        self.evolve = None if decider is None else decider.evolve

    # --- commands ----------------------------------------------------------------------------------------------------

    cdef Single execute(self, object aggregate, object command, object command_id, object handled):
        """Decide on a command if the aggregate's state is in the cache, and send the event. It takes one turn.

        Return None if there is more to do than this: then nothing has happened. Otherwise the caller must give the
        turn back. `handled`: the event that the caller handles, or None. Raises ConfigError and what `evolve` raises;
        then the turn is given back, and nothing is sent.
        """
        cdef Entry entry
        cdef Cached known
        cdef Single single
        cdef object result, event, payload
        if self.decide is None or (command_id is not None and not is_command_id(command_id)):
            return None
        entry = self.usable(aggregate) if self.can_send() else None
        if entry is None or not entry.cached.has_state:
            return None
        known = entry.cached
        if command_id is not None and known.commands.has(<str>command_id):
            return None
        single = Single.__new__(Single)
        single.entry = entry
        self.turns[aggregate] = None
        try:
            try:
                result = self.decide(known.state, command)
            except Exception as error:
                single.refusal = error
                single.known = known
                return single
            event = (<list>result)[0] if type(result) is list and len(<list>result) == 1 else result
            if type(event) is not Event and type(event) not in made_as:
                single.decided = result
                single.known = known
                return single
            payload = None
            if type(event) is not Event:
                payload = event
                event = None if handled is None else event_of_payload(payload, <str>aggregate)
            if handled is not None:
                event = with_cause([event], handled)[0]
            self.fill(single, <str>aggregate, known, <Event>event, <str>command_id, None, None, payload)
            self.send_to(single, self.sender, self.destination, self.usual_s)
        except BaseException:
            self.give(<str>aggregate)
            raise
        return single

    cdef Single append(self, object aggregate, object events, object expected, object command_id, object handled):
        """Send a single event if the aggregate is in the cache with the expected version. It takes one turn.

        Returns and raises as `execute` does.
        """
        cdef Entry entry
        cdef Cached known
        cdef Single single
        cdef object event, payload
        if command_id is not None or handled is not None or type(events) is not list or len(<list>events) != 1:
            return None
        event = (<list>events)[0]
        if type(event) is not Event and type(event) not in made_as:
            return None
        entry = self.usable(aggregate) if self.can_send() else None
        if entry is None:
            return None
        known = entry.cached
        if not self.is_expected(expected, <str>aggregate, known):
            return None
        single = Single.__new__(Single)
        single.entry = entry
        self.turns[aggregate] = None
        try:
            payload = None
            if type(event) is not Event:
                payload = event
                event = None
            if self.decider is not None and type_of(<Event>event, payload) not in self.payload_types():
                self.decider.check_takes([event_of(<Event>event, payload, <str>aggregate)])
            self.fill(single, <str>aggregate, known, <Event>event, None, None, None, payload)
            self.send_to(single, self.sender, self.destination, self.usual_s)
        except BaseException:
            self.give(<str>aggregate)
            raise
        return single

    cdef bint can_send(self) except -1:
        """Return whether an event can be sent to the stream now."""
        cdef object stream
        if not self.loop_check.passes() or self.opened.is_unfit:
            return False
        stream = self.known.get(self.stream)
        if stream is None:
            return False
        if stream is not self.seen:
            self.sender = <MessageSender?>stream.publisher.sender
            self.destination = <Destination?>stream.destination
            self.usual_s = stream.usual_s
            self.seen = stream
        return self.sender.takes_more()

    cdef Entry usable(self, object aggregate):
        """Return the aggregate's place in the cache if its turn is free, and it need not be checked; else None."""
        cdef Entry entry
        if type(aggregate) is not str or <str>aggregate in self.turns:
            return None
        entry = self.cache.find(<str>aggregate)
        if entry is None or entry.cached is None or entry.cached.epoch != <int64_t>self.parts.epoch:
            return None
        entry.cached.fetch()
        return entry

    cdef bint is_expected(self, object expected, str aggregate, Cached known) except -1:
        """Return whether the aggregate is as expected. False also for what only `EventStore.append` can judge."""
        if type(expected) is int:
            return expected == known.version
        if type(expected) is Loaded:
            return (
                expected.version == known.version and expected.sequence == known.sequence
                and expected.last_id == known.last_id and expected.aggregate == aggregate
                and expected.stream == self.stream
            )
        return (
            type(expected) is Appended and expected.version == known.version and expected.aggregate == aggregate
            and expected.receipt is not None and expected.receipt.stream == self.stream
        )

    cdef int give(self, str aggregate) except -1:
        if self.turns[aggregate] is None:
            del self.turns[aggregate]
        else:
            self.parts.turns.give(aggregate)
        return 0

    # --- any append --------------------------------------------------------------------------------------------------

    def make(self, str aggregate not None, Cached known not None, Event event not None, str command_id, str id,
             object folded):
        """Return the append of an event after `known`, folded and not sent.

        `id`: the event's id, if it was made already. `folded`: a list of the event that is folded instead, as hooks
        have changed it. Raises ConfigError, EncodeError, and what `evolve` raises.
        """
        cdef Single single = Single.__new__(Single)
        self.fill(single, aggregate, known, event, command_id, id, folded, None)
        return single

    cdef int fill(self, Single single, str aggregate, Cached known, Event event, str command_id, str id,
                  object folded, object payload) except -1:
        """Complete an append. `payload`: the event was made from it, and its type and schema are those of its class.

        Then `event` may be None: the event has nothing else.
        """
        cdef str type = type_of(event, payload)
        if known.version == INT64_MAX:
            raise OverflowError(f"aggregate {aggregate!r} has version {known.version}, and no version can follow")
        if event is not None and event.get_text(F_AGGREGATE) != aggregate:
            if event.get_text(F_AGGREGATE):
                plain_events(aggregate, [event])        # raises
            event = event.replace(aggregate=aggregate)
        if type is not self.usual_type:
            if type == forgotten or type == snapshot:
                plain_events(aggregate, [event_of(event, payload, aggregate)])      # raises
            self.usual_type = type
        if id is None:
            if event is not None and event.get_text(F_ID):
                id = ids_of(aggregate, [event], command_id)[0]
                check_event_id(id)
            elif command_id is None:
                id = new_nuid()
            else:
                if known.infix is None:
                    known.infix = infix_of(aggregate)
                id = first_id(command_id, known.infix)
        single.cache = self.cache
        single.type = type
        single.id = id
        single.command_id = command_id
        if event is None:
            single.envelope = payload_envelope(
                payload, entry_of(payload), aggregate, id, self.client, wall_ns(), known.version + 1
            )
        if single.envelope is None:
            single.envelope = envelope_of(
                event_of(event, payload, aggregate), id, self.client, wall_ns(), known.version + 1
            )
        single.known = known
        if known.has_state and self.evolve is not None:
            if not self.is_kept(known.state):
                # `evolve` may change the state in place. If the append fails, the state is not the aggregate's.
                single.is_spent = True
                if single.entry is None or single.entry.is_dropped:
                    single.entry = self.cache.find(aggregate)
                if single.entry is not None:
                    single.entry.cached = None      # its place is kept for the append that follows
            if folded is None:
                if payload is None or not is_read_back(payload):
                    payload = None
                single.state = self.fold(known.state, single, payload)
            else:
                single.state = self.decider.fold(known.state, folded)
            single.has_state = True
        return single.write(self.stream, aggregate, known.sequence, known.earlier)

    cdef bint is_kept(self, object state) except -1:
        """Return whether nothing of the state can be changed in place."""
        if type(state) is not self.state_type:
            self.state_answer = quick_answer(type(state))
            self.state_type = type(state)
        return is_immutable(state) if self.state_answer is None else self.state_answer

    cdef Event as_stored(self, bytes envelope):
        """Return the event as it will be read from the stream, but without its sequence."""
        cdef Event event = new_event()
        cdef Refusal refusal
        if read_envelope(event, envelope, 0, PyBytes_GET_SIZE(envelope), &refusal) < 0:
            raise refusal_error(&refusal)
        event._stream = self.stream
        return event

    cdef frozenset payload_types(self):
        """Return the types whose payloads `evolve` gets."""
        if self.types is None:
            self.types = self.decider.payload_types() or frozenset()
        return self.types

    cdef object fold(self, object state, Single single, object payload):
        """Return the state after the event, as `Decider.fold` does. `payload` is that of the event, or None."""
        cdef object after
        cdef Event event = None
        if single.type not in self.payload_types():
            return self.decider.fold(state, [self.as_stored(single.envelope)])
        if payload is None:
            event = self.as_stored(single.envelope)
        try:
            after = self.evolve(state, event.payload() if payload is None else payload)
        except Exception as error:
            self.decider.explain(error, self.as_stored(single.envelope), state)
            raise
        if type(after) is CoroutineType:
            self.decider.refuse_coroutine(after)
        return after

    def send(self, Single single not None, object known_stream not None, double give_up_s):
        """Send the event; `single.waiter` gets the outcome. Raises ConfigError for an event that is too large."""
        self.send_to(single, <MessageSender?>known_stream.publisher.sender, known_stream.destination, give_up_s)

    cdef int send_to(self, Single single, MessageSender sender, Destination destination, double give_up_s) except -1:
        try:
            single.waiter = sender.send_message(
                destination, single.subject, single.headers, single.envelope, give_up_s
            )
        except ConfigError as error:
            raise ConfigError(f"events[0]: {error}", argument="events") from error
        return 0


cdef bint is_command_id(object command_id) except -1:
    """Return whether this is a str of 1 to 100 printable ASCII characters without spaces."""
    cdef Py_ssize_t i, n
    cdef const char* text
    if type(command_id) is not str or not PyUnicode_IS_ASCII(<str>command_id):
        return False
    text = PyUnicode_AsUTF8AndSize(command_id, &n)
    if not 0 < n <= max_command_id:
        return False
    for i in range(n):
        if not 33 <= text[i] <= 126:
            return False
    return True


cdef str first_id(str command_id, str infix):
    """Return the id of a command's first event. Both texts are ASCII."""
    cdef char text[MOST_ID]
    cdef Py_ssize_t n, n_infix
    cdef const char* begin = PyUnicode_AsUTF8AndSize(command_id, &n)
    cdef const char* end = PyUnicode_AsUTF8AndSize(infix, &n_infix)
    if n + n_infix >= MOST_ID:
        raise ValueError("command_id: too long")
    memcpy(text, begin, n)
    memcpy(text + n, end, n_infix)
    text[n + n_infix] = 49
    return ascii_text(text, n + n_infix + 1)
