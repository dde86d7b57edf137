"""The event store: aggregates whose events are appended under an expected version, and loaded and folded into a state.

This wing offers `EventStore` (`conn.store`), which appends, loads and forgets aggregates, and `Decider`, which says how
commands become events and events a state. It never delivers events to handlers.

Files, each after the files that it imports:

    opening            whether the server and the stream can hold a store; creates or checks the stream
    decider_arguments  what is refused as an argument of a decider, and how its functions are called
    decider            how the commands of users become events, and how events become a state
    results            a loaded aggregate, and an append that was stored
    command_ids        the ids of a command's events
    _recent_commands   the latest commands of an aggregate, and where their events are stored
    _cache             the cached aggregates: those used last, with a bound
    cause              the cause and the correlation of events that a handler appends
    outgoing           the events of an append: checked, completed with their aggregate, and their ids
    _earlier           the sequences of an aggregate's earlier events, which each message names
    _tail_reading      reads the events after a baseline by the sequences that messages name
    tail               the tail of an aggregate: its events after a baseline
    history            exact reads of one aggregate's events
    aggregate_names    the names of all aggregates
    state_codec        how a state is written into a snapshot and read back, and whether it is the same then
    snapshot           a snapshot and its envelope; the marker in place of the snapshot of a forgotten aggregate
    snapshot_stream    the stream `<stream>-snapshots`: its settings and its messages
    snapshots          snapshots: read, and written in the background
    changeable         whether a state may be changed in place
    _message           the message of a single event: its subject, and the headers that state the expectation
    _payload_envelope  the envelope of an event that consists of a payload
    _single            appends of a single event: the fold before it is sent, and the result
    appending          one append under an expectation: a single message or an atomic batch
    forgetting         forget: the tombstone, the purge, the marker
    turns              callers that append to the same aggregate take turns
    stream_parts       what all stores of one stream on one connection share
    reading            reads aggregates: from the cache, from a snapshot, and from the stream
    core               appends to aggregates, and finds out what a refused or unanswered append has done
    hooked_core        the same with the hooks of middleware around each append and for each event that is read
    _call              a call of `execute` or `append` as a coroutine, without frames of Python
    executing          commands that need more than one decision on a cached aggregate
    event_store        `EventStore`: what users call
    assembly           checks the arguments of a store and opens its parts
"""

__all__: list[str] = []
