"""The middleware that makes the spans of one connection."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, final
from weakref import WeakKeyDictionary

from opentelemetry import context as current
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Tracer, set_span_in_context

from eda._event import Event
from eda._pack import place_of
from eda.errors import PublishFailed
from eda.middleware.base import FlushNext, Middleware, PublishBatch, PublishNext
from eda.publishing.publisher import Publisher
from eda.subscribing.subscription import Subscription
from eda.telemetry.attempts import note_attempt, note_error
from eda.telemetry.conventions import (
    ATTEMPT,
    BATCH_COUNT,
    CONVERSATION_ID,
    EVENT_TYPE,
    GROUP,
    MESSAGE_ID,
    PLACE,
    operation,
)
from eda.telemetry.flush_span import FlushSpan, Links
from eda.telemetry.propagation import NOTHING, Propagation

__all__ = ["Tracing"]

SERVER_S = 1.0  # how long the name of the server is used before it is looked up again

End = Callable[[BaseException | None], object]


@final
class Tracing(Middleware):
    """Makes the spans of one connection. `conn` is an `eda.Conn`. The other arguments are as in `OpenTelemetry`."""

    def __init__(self, conn: Any, tracer: Tracer, *, with_baggage: bool, follow_sampling: bool) -> None:
        self._conn = conn
        self._tracer = tracer
        self._follow_sampling = follow_sampling
        self._propagation = Propagation(with_baggage=with_baggage)
        self._flushes: dict[Publisher, FlushSpan] = {}
        self._latest: tuple[Publisher, FlushSpan] | None = None  # of `_flushes`; most programs have one publisher
        self._batches: WeakKeyDictionary[PublishBatch, BatchSpan] = WeakKeyDictionary()
        self._attributes: dict[tuple[str, str, str | None], dict[str, Any]] = {}
        self._attributes_until = 0.0

    async def closed(self, conn: Any) -> None:
        """End the spans of publishers that were closed without a flush."""
        for flush in self._flushes.values():
            flush.end()
        self._flushes.clear()
        self._latest = None

    # --- attributes --------------------------------------------------------------------------------------------------

    def _attributes_of(self, kind: str, stream: str, group: str | None = None) -> dict[str, Any]:
        """Return the attributes that all spans of an operation have. The caller must not change them."""
        now = time.monotonic()
        if now >= self._attributes_until:  # after a reconnect it may be another server
            self._attributes.clear()
            self._attributes_until = now + SERVER_S
        key = (kind, stream, group)
        attributes = self._attributes.get(key)
        if attributes is None:
            attributes = operation(kind, stream, self._conn.client, self._conn.server)
            if group is not None:
                attributes[GROUP] = group
            self._attributes[key] = attributes
        return attributes

    # --- publishing --------------------------------------------------------------------------------------------------

    async def publish(self, event: Event, call_next: PublishNext) -> None:
        """Make the span of one event, or have the batch of the event make its span."""
        batch = call_next.batch
        if batch is not None:
            await self._publish_of(batch, event, call_next)
            return
        here = current.get_current()
        attributes = {**self._attributes_of("send", event.stream), MESSAGE_ID: event.id, EVENT_TYPE: event.type}
        if event.cause:
            attributes[CONVERSATION_ID] = event.cause
        span = self._tracer.start_span(
            f"send {event.stream}", here, SpanKind.PRODUCER, attributes, links=self._own_link(event)
        )
        within = set_span_in_context(span, here)
        try:
            await call_next(self._propagation.with_entries(event, self._propagation.entries_of(within)))
        except BaseException as error:
            note_error(span, error)
            raise
        finally:
            span.end()

    def _own_link(self, event: Event) -> list[Link]:
        """Return a link to the context that the user has set in an event, if there is one."""
        origin = self._propagation.origin_of(event)
        return [Link(origin.span_context)] if origin.span_context.is_valid else []

    async def _publish_of(self, batch: PublishBatch, event: Event, call_next: PublishNext) -> None:
        made = self._batches.get(batch)
        if made is None:
            here = current.get_current()
            attributes = {**self._attributes_of("send", event.stream), BATCH_COUNT: len(batch.events)}
            span = self._tracer.start_span(f"send {event.stream}", here, SpanKind.PRODUCER, attributes)
            made = self._batches[batch] = BatchSpan(span, here, self._propagation)
        made.link(event)
        try:
            await call_next(self._propagation.with_entries(event, made.entries))
        except BaseException as error:
            made.end(error)
            raise
        made.end(None)

    def mark(self, event: Event, publisher: Publisher) -> Event:
        """Let an event carry the span of the publisher's next flush."""
        latest = self._latest
        flush = latest[1] if latest is not None and latest[0] is publisher else self._flush_of(publisher)
        return self._propagation.with_entries(event, flush.entries_in(current.get_current()))

    def _flush_of(self, publisher: Publisher) -> FlushSpan:
        flush = self._flushes.get(publisher)
        if flush is None:
            for each in [each for each, flush in self._flushes.items() if flush.is_over]:
                self._flushes.pop(each).end()
            here = current.get_current()
            name, attributes = f"send {publisher.stream}", self._attributes_of("send", publisher.stream)
            span = self._tracer.start_span(name, here, SpanKind.PRODUCER, attributes)
            flush = self._flushes[publisher] = FlushSpan(span, here, self._propagation)
        self._latest = (publisher, flush)
        return flush

    async def flush(self, publisher: Publisher, call_next: FlushNext) -> None:
        """End the span of what was sent since the last flush. Without events there is none."""
        flush = self._flushes.pop(publisher, None)
        if flush is None:
            await call_next()
            return
        self._latest = None
        n_failed = publisher.stats().failed
        try:
            await call_next()
        except BaseException as error:
            note_error(flush.span, error)
            flush.end(len(error.failed) if isinstance(error, PublishFailed) else 0)
            raise
        flush.end(publisher.stats().failed - n_failed)

    # --- handling ----------------------------------------------------------------------------------------------------

    def observe(self, given: Event | list[Event], subscription: Subscription) -> End:
        """Begin the span of an attempt, and make it the current one."""
        if isinstance(given, list):
            return self._observe_batch(given, subscription)
        origin = self._propagation.origin_of(given)
        if origin.is_unsampled and self._follow_sampling:
            # What the handler publishes belongs to the trace that its sender has chosen not to sample.
            return partial(_leave, origin.context, current.attach(origin.context))
        event, sent_by = given, origin.span_context
        attributes = {
            **self._attributes_of("process", subscription.stream, _group_of(subscription)),
            MESSAGE_ID: event.id,
            EVENT_TYPE: event.type,
            PLACE: place_of(event),
            ATTEMPT: event.attempt,
        }
        if event.cause:
            attributes[CONVERSATION_ID] = event.cause
        links = [Link(sent_by)] if sent_by.is_valid else None
        span = self._tracer.start_span(
            f"process {subscription.stream}", origin.context, SpanKind.CONSUMER, attributes, links
        )
        return self._enter(span, origin.context, [event], subscription)

    def _observe_batch(self, events: list[Event], subscription: Subscription) -> End:
        attributes = {
            **self._attributes_of("process", subscription.stream, _group_of(subscription)),
            BATCH_COUNT: len(events),
        }
        span = self._tracer.start_span(f"process {subscription.stream}", NOTHING, SpanKind.CONSUMER, attributes)
        if span.is_recording():
            links = Links(span)
            for event in events:
                links.add(self._propagation.origin_of(event).span_context)
            links.end()
        return self._enter(span, NOTHING, events, subscription)

    def _enter(self, span: Span, context: Context, events: list[Event], subscription: Subscription) -> End:
        within = set_span_in_context(span, context)
        token = current.attach(within)

        def end(error: BaseException | None) -> None:
            _leave(within, token, error)
            if error is not None:
                note_attempt(span, error, events, subscription)
            span.end()

        return end


@final
class BatchSpan:
    """The span of events that are published together. The hook of any of them ends it."""

    def __init__(self, span: Span, context: Context, propagation: Propagation) -> None:
        self.entries = propagation.entries_of(set_span_in_context(span, context))
        self._span: Span | None = span
        self._links = Links(span)
        self._propagation = propagation

    def link(self, event: Event) -> None:
        """Link the span to the context that the user has set in an event."""
        if event.meta:
            self._links.add(self._propagation.origin_of(event).span_context)

    def end(self, error: BaseException | None) -> None:
        """End the span, unless it has ended."""
        span, self._span = self._span, None
        if span is not None:
            if error is not None:
                note_error(span, error)
            self._links.end()
            span.end()


def _group_of(subscription: Subscription) -> str | None:
    """Return the name under which members share the events; None if the subscription is private."""
    options = subscription.options
    return subscription.name if options.durable or options.name is not None else None


def _leave(context: Context, token: Any, error: BaseException | None) -> None:
    """Make the context current that was so before. A coroutine that is closed may be in any context."""
    if not isinstance(error, GeneratorExit) or current.get_current() is context:
        current.detach(token)
