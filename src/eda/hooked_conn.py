"""The connection that `connect(middleware=[...])` makes: a Conn that runs hooks.

The hooks are in a class of their own, so that without middleware no publish and no handler call tests for them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, cast

from eda._event import Event
from eda.conn import Conn
from eda.conn_services import ConnectOptions, ConnServices
from eda.errors import ConfigError
from eda.handlers import AnyHandler
from eda.jetstream.subjects import check_stream_name
from eda.lifetime import ConnState
from eda.middleware.around_conn import ConnHooks
from eda.middleware.around_publish import MarkHook, PublishChain, send_hooks, with_id
from eda.middleware.around_store import StoreHooks, check_can_load
from eda.middleware.base import Middleware, bound, overrides
from eda.middleware.calls import hooks_of
from eda.middleware.hooked_batch import HookedBatch
from eda.middleware.hooked_publisher import HookedPublisher
from eda.middleware.marked_publisher import MarkedPublisher
from eda.middleware.observing import dead_letter_observer, hooked_handler
from eda.publishing.atomic_batch import MAX_EVENTS
from eda.publishing.publisher import Publisher
from eda.publishing.publisher_options import PublisherOptions
from eda.receipt import Receipt
from eda.subscribing.spec import SubscriptionSpec
from eda.subscribing.subscription import Subscription
from eda.transport.addresses import Addresses

if TYPE_CHECKING:
    from eda.projections.lane_host import Attempt
    from eda.projections.stream_runner import Around

__all__ = ["HookedConn"]

_EMPTY = Event()


class HookedConn(Conn):
    """A connection with middleware, used as any other Conn."""

    def __init__(
        self,
        addresses: Addresses,
        client: str | None,
        logger: logging.Logger,
        options: ConnectOptions,
        on_state: Callable[[ConnState], object] | None,
        middleware: tuple[Middleware, ...],
    ) -> None:
        super().__init__(addresses, client, logger, options, on_state)
        self._middleware = middleware = bound(middleware, self)
        self._lifetime.watcher = ConnHooks(middleware, self, logger)
        self._publish_hooks = hooks_of(middleware, "publish")
        self._send_hooks = send_hooks(middleware)
        self._observe_dead_letter = dead_letter_observer(middleware, logger)
        self._flush_hooks = hooks_of(middleware, "flush")

    # --- publishing --------------------------------------------------------------------------------------------------

    async def publish(self, stream: str, event: Event | None = None, *, timeout_s: float | None = None) -> Receipt:
        """Run the hooks, then publish as `Conn.publish` does. `timeout_s` does not include the hooks."""
        self._lifetime.require_open()
        stream = check_stream_name(stream)
        if event is None:
            event = _EMPTY
        elif type(event) is not Event:
            raise ConfigError(f"event must be an eda.Event, not {type(event).__name__}", argument="event")
        publish = super().publish
        chain = PublishChain(self._publish_hooks, lambda passed: publish(stream, passed, timeout_s=timeout_s))
        receipt: Receipt = await chain.call(with_id(event, stream))
        return receipt

    async def publish_batch(self, stream: str, events: Iterable[Event]) -> list[Receipt]:
        """Run the hooks of each event concurrently, then publish as `Conn.publish_batch` does."""
        self._lifetime.require_open()
        stream = check_stream_name(stream)
        if not isinstance(events, Iterable):
            return await super().publish_batch(stream, events)  # raises the error
        given = list(islice(events, MAX_EVENTS + 1))
        is_wrong = len(given) > MAX_EVENTS or any(type(each) is not Event for each in given)
        if is_wrong or not given or not self._publish_hooks:
            return await super().publish_batch(stream, given)
        publish = super().publish_batch
        batch = HookedBatch(
            self._publish_hooks, [with_id(each, stream) for each in given], lambda passed: publish(stream, passed)
        )
        return await batch.run()

    def _new_publisher(
        self, services: ConnServices, stream: str, options: PublisherOptions, cls: type[Publisher] = HookedPublisher
    ) -> Publisher:
        marks = tuple(hook for hook in self._send_hooks if isinstance(hook, MarkHook))
        if marks and len(marks) == len(self._send_hooks):
            cls = MarkedPublisher
        publisher = super()._new_publisher(services, stream, options, cls)
        assert isinstance(publisher, HookedPublisher)
        publisher.use(self._publish_hooks, self._send_hooks, self._flush_hooks)
        if isinstance(publisher, MarkedPublisher):
            publisher.set_marks(marks)
        return publisher

    # --- subscribing -------------------------------------------------------------------------------------------------

    def _new_subscription(self, services: ConnServices, spec: SubscriptionSpec, handler: AnyHandler) -> Subscription:
        services.dead_letters.observe = self._observe_dead_letter
        is_batch = spec.options.batch is not None
        self._check_not_bypassed("subscription", is_batch=is_batch)
        hooked, parts = hooked_handler(self._middleware, handler, is_batch=is_batch)
        subscription = super()._new_subscription(services, spec, hooked)
        for part in parts:
            part.subscription = subscription
        return subscription

    def _check_not_bypassed(self, kind: str, *, is_batch: bool) -> None:
        """Raise ConfigError for middleware that would not see the events."""
        hook, other = ("handle_batch", "handle") if is_batch else ("handle", "handle_batch")
        for each in self._middleware:
            if overrides(each, other) and not overrides(each, hook):
                raise _bypassed(type(each).__name__, other, hook, kind, is_batch=is_batch)

    # --- read models -------------------------------------------------------------------------------------------------

    def _around_attempts(self, *, is_batch: bool) -> Around | None:
        self._lifetime.require_open().dead_letters.observe = self._observe_dead_letter
        self._check_not_bypassed("projection", is_batch=is_batch)
        if not any(
            overrides(each, hook) for each in self._middleware for hook in ("handle", "handle_batch", "observe")
        ):
            return None

        def around(subscription: Subscription, attempt: Attempt) -> Attempt:
            hooked, parts = hooked_handler(self._middleware, attempt, is_batch=is_batch)
            for part in parts:
                part.subscription = subscription
            return cast("Attempt", hooked)  # an attempt returns an awaitable, and so does what is around it

        return around

    # --- event store -------------------------------------------------------------------------------------------------

    def _store_hooks(self) -> StoreHooks:
        check_can_load(self._middleware)
        return StoreHooks(self._middleware)


def _bypassed(name: str, other: str, hook: str, kind: str, *, is_batch: bool) -> ConfigError:
    """Return the error for middleware that would not see the events of a subscription or projection."""
    kind = f"a {kind} with batch" if is_batch else f"a {kind} without batch"
    argument = "events" if is_batch else "event"
    return ConfigError(
        f"middleware {name} has the hook {other} but not {hook}, so {kind} would bypass it: give it a hook {hook}; "
        f"`await call_next({argument})` passes the {argument} on unchanged",
        argument="middleware",
    )
