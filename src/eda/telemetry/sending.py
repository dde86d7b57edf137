"""The spans of what a connection publishes."""

from __future__ import annotations

from typing import final
from weakref import WeakKeyDictionary

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, set_span_in_context

from eda._clock import read_monotonic_ns
from eda._event import Event
from eda._stamp import Stamp
from eda.errors import PublishFailed
from eda.middleware.base import FlushNext, PublishBatch, PublishNext
from eda.publishing.publisher import Publisher
from eda.telemetry._usual import Current, Marking
from eda.telemetry.attempts import note_error
from eda.telemetry.conventions import BATCH_COUNT
from eda.telemetry.flush_span import FlushSpan
from eda.telemetry.propagation import Propagation
from eda.telemetry.spans import Links, SpanMaker, attributes_of

__all__ = ["Sending"]


@final
class Sending:
    """The hooks around publishes. `mark` is the hook of this name."""

    def __init__(self, spans: SpanMaker, propagation: Propagation, current: Current) -> None:
        self._current = current
        self._spans = spans
        self._propagation = propagation
        self._flushes: dict[Publisher, FlushSpan] = {}
        self._marked: FlushSpan | None = None  # the one whose events `mark` counts now
        self._batches: WeakKeyDictionary[PublishBatch, BatchSpan] = WeakKeyDictionary()
        self.mark: Marking = Marking(current, self._mark)

    def close(self) -> None:
        """End the spans of publishers that were closed without a flush."""
        self._count()
        while self._flushes:
            self._flushes.popitem()[1].end()

    # --- one event, or several together ------------------------------------------------------------------------------

    async def publish(self, event: Event, call_next: PublishNext) -> None:
        """Make the span of one event, or have the batch of the event make its span."""
        batch = call_next.batch
        if batch is not None:
            await self._publish_of(batch, event, call_next)
            return
        here = self._current.get()
        sent_by = self._propagation.origin_of(event).span_context  # a context that the user has set
        links = [Link(sent_by)] if sent_by.is_valid else []
        span = self._spans.send(event.stream, here, attributes_of(event), links)
        try:
            await call_next(self._propagation.stamp_of(set_span_in_context(span, here)).on(event))
        except BaseException as error:
            note_error(span, error)
            raise
        finally:
            span.end()

    async def _publish_of(self, batch: PublishBatch, event: Event, call_next: PublishNext) -> None:
        made = self._batches.get(batch)
        if made is None:
            here = self._current.get()
            span = self._spans.send(event.stream, here, {BATCH_COUNT: len(batch.events)})
            made = self._batches[batch] = BatchSpan(span, here, self._propagation)
        made.link(event)
        try:
            await call_next(made.stamp.on(event))
        except BaseException as error:
            made.end(error)
            raise
        made.end(None)

    # --- a publisher's events ----------------------------------------------------------------------------------------

    def _mark(self, event: Event, publisher: Publisher) -> Event:
        """Let an event carry the span of the publisher's next flush, and have `mark` do so for those that follow."""
        self._count()
        here = self._current.get()
        flush = self._flushes.get(publisher)
        if flush is None or read_monotonic_ns() >= flush.ends_ns:
            flush = self._begin(publisher, here)
        self._marked = flush
        self.mark.use(publisher, here, flush.stamp_in(here), flush.ends_ns)
        return self.mark(event, publisher)

    def _count(self) -> None:
        """Add what `mark` has counted to the span that it has counted for."""
        n = self.mark.take_count()
        if self._marked is not None:
            self._marked.n_events += n
            self._marked = None

    def _begin(self, publisher: Publisher, here: Context) -> FlushSpan:
        """Begin the span of a publisher. End those that have lasted long enough: their publishers may be closed."""
        now = read_monotonic_ns()
        for each in [each for each, flush in self._flushes.items() if now >= flush.ends_ns]:
            self._flushes.pop(each).end()
        flush = self._flushes[publisher] = FlushSpan(
            self._spans.send(publisher.stream, here, {}), here, self._propagation
        )
        return flush

    async def flush(self, publisher: Publisher, call_next: FlushNext) -> None:
        """End the span of what was sent since the last flush. Without events there is none."""
        flush = self._flushes.pop(publisher, None)
        if flush is None:
            await call_next()
            return
        self._count()
        n_failed = publisher.stats().failed
        n = 0
        try:
            await call_next()
            n = publisher.stats().failed - n_failed
        except BaseException as error:
            n = len(error.failed) if isinstance(error, PublishFailed) else 0
            note_error(flush.span, error)
            raise
        finally:
            flush.end(n)


@final
class BatchSpan:
    """The span of events that are published together. The hook of any of them ends it."""

    def __init__(self, span: Span, context: Context, propagation: Propagation) -> None:
        self.stamp: Stamp = propagation.stamp_of(set_span_in_context(span, context))
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
        if span is None:
            return
        try:
            if error is not None:
                note_error(span, error)
            self._links.end()
        finally:
            span.end()
