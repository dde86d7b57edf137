"""From a delivered frame to the outcome of its event: intake, ledger, handlers, acknowledgements, failures.

It offers the dispatcher, its host, and the workers that run handlers. It never asks the server for events: the
dispatcher's credit calls a source in `subscribing`, which sends the pull.

An event's way in: `_intake` takes the frame and adds the event to a ledger. A `_worker` takes it from the ledger and
calls the handler. `_outcome` acknowledges it, or has it tried again. `_credit` decides when more events are asked for,
`_lease` and `_gate` whether handlers may start.

Files, each after the files that it imports:

    verdicts         why an event gets no handler
    _foreign         recognises messages of other programs; inline
    _ledger          the delivery ledger: which events are held, which is next; the shared subscription's
    _ledger_ordered  the ordered subscription's ledger: the position, and a lane for each key
    _waiting         workers that wait, and who wakes them
    _credit          how many events the server may still send, and when more are asked for
    _lease           until when an ordered subscription may start handlers; which positions are stored first
    _gate            pauses and the circuit: whether handlers may start
    _outcome         acknowledgements, retries, dead letters
    _intake          frames > events > ledger
    _worker          ledger > handler > outcome
    _dispatch        the parts above, put together
    suspects         a shared subscription's record of the events that may have killed the process
    failure_log      log records about failed events, at a bounded rate
    dead_lettering   storing a subscription's dead letters: which stream, which reason, how often
    dispatcher_host  what a dispatcher needs of event loop and subscription: futures, timers, decisions about failures
    workers          the tasks that run a subscription's handlers
"""

__all__: list[str] = []
