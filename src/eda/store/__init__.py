"""The event store: aggregates whose events are appended under an expected version, and loaded and folded into a state.

This wing offers `EventStore` (`conn.store`), which appends, loads and forgets aggregates, and `Decider`, which says how
commands become events and events a state. It never delivers events to handlers.

Files, each after the files that it imports:

"""

__all__: list[str] = []
