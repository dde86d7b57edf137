"""From a delivered frame to the outcome of its event: intake, ledger, handlers, acknowledgements, failures.

The wing offers the dispatcher, its host, and the workers that run handlers. It sends no pulls itself: `_credit` calls a
source in `subscribing`, which sends them.

An event's way: `_intake` takes the frame and adds the event to a ledger. A `_worker` takes the event from the ledger
and calls the handler. `_outcome` acknowledges the event, or arranges its retry. `_credit` decides when to pull more
events. `_lease` and `_gate` decide whether handlers may start.

Files, each after the files that it imports:

    verdicts         why an event gets no handler, or is handled alone
    misfits          whose payload can't be decoded, if a handler raises a decoding error
    _foreign         recognises messages of other programs; inline
    _held_packs      the packs that a subscription holds: their bytes; shared: their acknowledgement subjects and leases
    _ledger          the held events, and which is next; and the ledger of a shared subscription
    _ledger_ordered  the ledger of an ordered subscription: the position, and a lane for each key
    _waiting         workers that wait, and who wakes them
    _credit          how many events the server may still send, and when to pull more
    _lease           until when an ordered subscription may start handlers, and when they wait for a stored position
    _gate            pauses and the circuit: whether handlers may start
    _call_times      how long handler calls took, and with which errors they failed
    _outcome         acknowledgements, retries, dead letters
    _reading         turns frames into events
    _intake          decides which deliveries are ours, and adds their events to the ledger
    _worker          takes events from the ledger, calls the handler, passes on the outcome
    _dispatch        the parts above, put together
    suspects         a shared subscription's record of the events that may have killed the process
    failure_log      log records about failed events, at a bounded rate
    dead_lettering   storing a subscription's dead letters: which stream, which reason, how often
    running_handler  which event the calling handler handles, and whether it runs too long
    dispatcher_host  futures, timers and decisions about failures, which the dispatcher asks for
    workers          the tasks that run a subscription's handlers
"""

__all__: list[str] = []
