"""Subscriptions: where their events come from, and their life from opening to closing.

It offers `Subscription` and `Events`, which users hold, and the list of a stream's kept subscriptions. It never calls
a handler: `handling` does.

Files, each below those that import it:

    bare_subject     messages on a stream's own subject, and readers that ask for them only where there are any
    durable_names    which kind a subscription is, and that a name has only one
    services         the parts of an open connection that a subscription uses
    source           pulls from a consumer, what statuses and silence mean: for both kinds
    unwanted         the filter of a shared consumer: who may change it, and members with a narrower one
    lag              `conn.subscriptions`: where kept subscriptions are, and how far behind
    monitor          time-outs, leases, and what the log is told when nothing moves
    ordered_source   throw-away readers for an ordered subscription
    shared_consumer  the consumer of a shared subscription: made, attached to, and changed back when others edit it
    shared_source    the source of a shared subscription: a durable consumer
    activation       reading and handling start when the member takes the cursor, and stop when it loses it
    pipeline         what a subscription is made of: put together, opened, closed in order
    subscription     life of a subscription: what opens and closes it, and how it ends
    events_iterator  `conn.events`: a subscription as an iterator
"""

__all__: list[str] = []
