"""Subscriptions: where their events come from, and their life from opening to closing.

It offers `Subscription` and `Events`, which users hold, and the list of a stream's kept subscriptions. It never calls
a handler: `handling` does.

Files, each after the files that it imports:

    bare_subject       messages on a stream's own subject: readers ask for it only if the stream has such messages
    filters            which subjects a subscription, its consumer and the other members ask for
    shared_or_ordered  whether a subscription is shared or ordered, and whether its stream allows that kind
    spec               what a subscription was asked to do: stream, name, kind and options
    moved_position     the moved position of a shared subscription, until it has a consumer there
    durable_names      the names of durable subscriptions: no two positions may use the same name
    services           the parts of an open connection that a subscription uses
    source             what both kinds of sources have in common: pulls, their statuses, and silence
    unwanted           deliveries of a shared consumer that this member's own filter does not want
    remaining          how many events of a stream remain after a position, and how old the oldest is
    behind             how far one kept subscription is behind
    lag                `conn.subscriptions`: the kept subscriptions of streams, and how far behind they are
    details            `conn.subscription`: one kept subscription with its settings
    target             where a position is moved to: a sequence, a place in a pack, a time, an end of the stream
    kept               positions of kept subscriptions moved or forgotten from outside
    monitor            the timer of a subscription: overdue handlers, leases, missing progress
    ordered_source     the source of an ordered subscription: throw-away readers
    shared_consumer    the consumer of a shared subscription: created or adopted, and repaired if somebody changed it
    shared_source      the source of a shared subscription: one pull consumer
    activation         reading and handling start when the member takes the cursor, and stop when it loses it
    pipeline           all parts of a subscription: puts them together, opens and closes them
    condition          what a health check says about a subscription
    subscription       the subscription that users hold: how it is opened, paused and closed, and how it ends
    events_iterator    the iterator that `conn.events` returns
    direct_pages       the messages of a stream in pages, read without a consumer
    browsing           `conn.browse`: the events of a stream, read without a trace
"""

__all__: list[str] = []
