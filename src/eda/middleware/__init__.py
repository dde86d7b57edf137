"""Middleware: code of users around each publish and each handler call.

A connection without middleware uses none of these files. With middleware, `connect` makes a `HookedConn`, which is in
`hooked_conn` at the top.

Files, each after the files that it imports:

    base               `Middleware`, the types of its `call_next`, and the check of `connect(middleware=…)`
    calls              hooks called one inside the other: each gets its `call_next`, and no outcome is lost
    around_conn        the hooks at the beginning and at the end of a connection
    around_publish     the hooks around a publish and around a flush
    around_handler     the hooks around a handler of events or of batches
    _observed          a handler with one plain hook around it
    observing          a handler with hooks around it, of both kinds
    hooked_publisher   a publisher that runs hooks
    marked_publisher   a publisher that runs plain hooks for the events that it sends
    hooked_batch       `publish_batch` with hooks: all or nothing
    around_store       the hooks around an event store: of appended events, and of events that it has read
"""

__all__: list[str] = []
