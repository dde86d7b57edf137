"""ConnSides: what a connection offers on the write side and on the read side: stores, projections, views and relays."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Literal, Never, TypeVar, overload

from eda._event import Event
from eda._router import Router
from eda.lifetime import Lifetime
from eda.options import Retry
from eda.publishing.publisher_options import PublisherOptions

if TYPE_CHECKING:
    from eda.projections.outbox import Outbox
    from eda.projections.projection import Projection
    from eda.projections.relay import Relay
    from eda.projections.sink import Sink
    from eda.projections.stream_runner import Around
    from eda.projections.view import View
    from eda.store.decider import Decider
    from eda.store.event_store import EventStore

__all__ = ["ConnSides"]

S = TypeVar("S")
C = TypeVar("C")


class ConnSides:
    """The methods of `Conn` for event stores, read models and the outbox. Most programs need none of them.

    They import their wing when they are first called.
    """

    _lifetime: Lifetime
    client: str

    # --- event store -------------------------------------------------------------------------------------------------

    @overload
    def store(self, stream: str, decider: None = None, *, cache: int = 10_000) -> EventStore[None, Never]: ...
    @overload
    def store(
        self,
        stream: str,
        decider: Decider[S, C],
        *,
        snapshot_every: int | None = None,
        cache: int = 10_000,
        attempts: int = 10,
    ) -> EventStore[S, C]: ...
    def store(
        self,
        stream: str,
        decider: Decider[S, C] | None = None,
        *,
        snapshot_every: int | None = None,
        cache: int = 10_000,
        attempts: int = 10,
    ) -> EventStore[Any, Any]:
        """Return the event store of a stream: its aggregates. It opens when it is first used, or when it is awaited.

        The stream must be marked as a store. If it does not exist, it is created with the mark, if that is allowed;
        `conn.streams.update(stream, store=True)` marks an existing one. `decider` folds events into states and turns
        commands into events; without it, only `append`, `history`, `aggregates` and `forget` are of use.

        `snapshot_every`: after how many events of an aggregate its state is stored in the stream `{stream}-snapshots`;
        None: never. `cache`: how many aggregates are kept in memory, so that `execute` need not read them; 0: none.
        `attempts`: how often `execute` has a command decided if other processes append to the same aggregate.

        Needs nats-server 2.11, and 2.12.1 for several events in one append. Raises ConfigError, and Closed.
        """
        from eda.store.assembly import StoreServices, new_store  # here, because most programs need no store

        lifetime, client = self._lifetime, self.client

        def services() -> StoreServices:
            opened = lifetime.require_open()
            return StoreServices(opened.wire, opened.api, opened.logger, opened.known_streams, client, lifetime.batches)

        sizes: Any = {"snapshot_every": snapshot_every, "cache": cache, "attempts": attempts}
        return new_store(lifetime.require_open, services, stream, decider, hooks=self._store_hooks(), **sizes)

    def _store_hooks(self) -> Any:
        """Return the hooks around event stores: a connection with middleware has them."""
        return None

    # --- read models -------------------------------------------------------------------------------------------------

    @overload
    def projection(
        self,
        streams: str | Collection[str],
        apply: Callable[[list[Event], Any], object] | Router,
        *,
        into: Sink,
        name: str,
        version: int = 1,
        types: Collection[str] | None = None,
        aggregate: str | None = None,
        key: Literal["aggregate"] | Callable[[Event], object] | None = None,
        lanes: int = 1,
        batch: int = 500,
        linger_s: float = 0.01,
        retry: Retry | None = None,
        dead_letter: str | None = "{stream}-dead",
        timeout_s: float = 30.0,
    ) -> Projection: ...
    @overload
    def projection(
        self,
        streams: str | Collection[str],
        apply: Callable[[Event, Any], object] | Router,
        *,
        into: Sink,
        name: str,
        version: int = 1,
        types: Collection[str] | None = None,
        aggregate: str | None = None,
        key: Literal["aggregate"] | Callable[[Event], object] | None = None,
        lanes: int = 1,
        batch: None,
        linger_s: float = 0.01,
        retry: Retry | None = None,
        dead_letter: str | None = "{stream}-dead",
        timeout_s: float = 30.0,
    ) -> Projection: ...
    def projection(
        self,
        streams: str | Collection[str],
        apply: Callable[[Any, Any], object] | Router,
        *,
        into: Sink,
        name: str,
        version: int = 1,
        types: Collection[str] | None = None,
        aggregate: str | None = None,
        key: Literal["aggregate"] | Callable[[Event], object] | None = None,
        lanes: int = 1,
        batch: int | None = 500,
        linger_s: float = 0.01,
        retry: Retry | None = None,
        dead_letter: str | None = "{stream}-dead",
        timeout_s: float = 30.0,
    ) -> Projection:
        """Return a projection: it applies events to tables of your database, each exactly once.

        Await it or enter it with `async with` to begin. `streams`: the name of a stream, or several. `into`: the
        database, such as `eda.sql.SQLite(path)`. `name`: the name of the read model. `version`: another version begins
        with the first event and runs beside the others; `promote` switches views to it.

        `apply(events, tx)` gets a list of up to `batch` events and the driver's connection, in a transaction that eda
        commits together with the position; with `batch=None` it gets one event. `linger_s`: how many seconds to wait
        at most for a full list. A Router in place of `apply` passes each payload to the handler of its class.
        `types`, `aggregate`: only events of these types, of this aggregate.

        `key` and `lanes`: events are split by a hash of their key, "aggregate" or a function of the event, into lanes
        that work at the same time; events of one key stay in order.

        If `apply` fails, the event that is to blame is found by halving the list. It is tried again as `retry` says
        (None: up to 5 attempts), and then becomes a dead letter in `dead_letter` (None: it is logged and skipped); the
        other events are applied. If the database does not work, no event counts as failed. `timeout_s`: the longest
        time of a transaction, in seconds.

        Raises ConfigError, and Closed. Opening it raises PositionInvalid, ConfigError, StreamNotFound, ServerError,
        Timeout, Closed, and the errors of the database.
        """
        from eda.projections.assembly import new_projection  # here, because most programs have no projection

        lifetime = self._lifetime
        services = lifetime.require_open()
        lifetime.check_not_closing()
        arguments: Any = {
            "name": name,
            "version": version,
            "types": types,
            "aggregate": aggregate,
            "key": key,
            "lanes": lanes,
            "batch": batch,
            "linger_s": linger_s,
            "retry": retry,
            "dead_letter": dead_letter,
            "timeout_s": timeout_s,
        }
        return new_projection(
            services,
            streams,
            apply,
            into,
            around=self._around_attempts(is_batch=batch is not None),
            on_opening=lifetime.admit_projection,
            on_closed=lifetime.dismiss,
            **arguments,
        )

    def view(self, name: str, *, into: Sink) -> View:
        """Return a view of a projection that other processes run: it waits and reads positions, and applies nothing.

        Await it or enter it with `async with` to begin. `into`: the database of the projection. The view follows the
        version that was promoted. Your tables are yours: read them with a connection of your own, after `wait_for`.

        Raises ConfigError, and Closed. Opening it raises Closed, and the errors of the database.
        """
        from eda.projections.assembly import new_view  # here, because most programs have no view

        lifetime = self._lifetime
        services = lifetime.require_open()
        lifetime.check_not_closing()
        return new_view(services, name, into, on_opening=lifetime.admit_side, on_closed=lifetime.dismiss)

    def _around_attempts(self, *, is_batch: bool) -> Around | None:
        """Return what puts the hooks of middleware around each attempt of a projection; None: there are none."""
        return None

    # --- the outbox --------------------------------------------------------------------------------------------------

    def relay(self, outbox: Outbox, *, refused: Literal["block", "dead"] = "block") -> Relay:
        """Return a relay: it publishes the events that transactions have left in an outbox, and deletes their rows.

        Await it or enter it with `async with` to begin. Any number of processes may run a relay of the same outbox. One
        of them is active, and the others stand by. The events of each stream are published in their order, under the
        ids that they got in `Outbox.add`, and each is stored once: after a crash or an outage of any length, the relay
        searches the stream for the events that it has sent.

        `refused`: what becomes of a row that its stream refuses for good, for example because the event is too large or
        the stream does not exist. "block": the row stays, and it and all later rows of its aggregate wait; the relay
        tries again every minute or earlier. "dead": the row is moved to the table `<table>_dead`, with the reason.

        Raises ConfigError, and Closed. Opening it raises the errors of the database.
        """
        from eda.projections.relay import Relay  # here, because most programs have no relay

        lifetime = self._lifetime
        services = lifetime.require_open()
        lifetime.check_not_closing()
        conn: Any = self  # a Conn, which has the publishers
        return Relay(
            services,
            lambda stream, **callbacks: conn._new_publisher(
                services, stream, PublisherOptions(**callbacks, stops_on_failure=True)
            ),
            outbox,
            refused=refused,
            on_opening=lifetime.admit_side,
            on_closed=lifetime.dismiss,
        )
