"""From a delivered frame to the outcome of its event: intake, ledger, handlers, acknowledgements, failures.

It offers the dispatcher and the workers that run handlers. It never asks the server for events: a source in
`subscribing` does that, through the methods that the dispatcher calls.

Files, each below those that import it:

    _foreign         messages that others wrote, told from those that eda publishes; inline
    _ledger          the delivery ledger: what is held, what is next; that of a shared subscription
    suspects         a shared subscription's record of events that may be what kills the process
    _ledger_ordered  that of an ordered one: the done prefix, lanes for keys
    _intake          deliveries > events > ledger; credit
    _outcome         what becomes of an event that was handled, or not; the lease
    failure_log      what the log is told of failures, and how often at most
    _dispatch        ledger > handlers > outcomes: the workers
    dead_lettering   storing a subscription's dead letters: which stream, which reason, how often
    dispatcher_host  what a dispatcher needs of event loop and subscription: futures, timers, decisions about failures
    workers          the tasks that run a subscription's handlers
"""

__all__: list[str] = []
