"""The span of what a publisher sends until it is flushed."""

from __future__ import annotations

import time
from typing import final

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext, get_current_span, set_span_in_context

from eda.telemetry.conventions import BATCH_COUNT, LINKS_LEFT_OUT, MAX_LINKS, N_FAILED
from eda.telemetry.propagation import Propagation

__all__ = ["FlushSpan", "Links"]

# A program may never flush. Its spans must end all the same, because only then are they exported.
LONGEST_S = 60.0
REMEMBERED = 8192  # how many contexts are remembered, so that none of them is counted twice


@final
class Links:
    """The links of a span to the contexts of its events: each context once, at most MAX_LINKS."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._seen: set[tuple[int, int]] = set()
        self._n_left_out = 0

    def add(self, context: SpanContext) -> None:
        """Link the span to a context, unless it is linked to it already."""
        key = (context.trace_id, context.span_id)
        if not context.is_valid or key in self._seen:
            return
        if len(self._seen) < REMEMBERED:
            self._seen.add(key)
        if len(self._seen) <= MAX_LINKS:
            self._span.add_link(context)
        else:
            self._n_left_out += 1

    def end(self) -> None:
        """Note how many contexts have no link."""
        if self._n_left_out:
            self._span.set_attribute(LINKS_LEFT_OUT, self._n_left_out)


@final
class FlushSpan:
    """The span of the events that a publisher has sent since its last flush.

    Events that are sent in the context in which the span began carry the context of the span. An event that is sent in
    another trace, such as by a handler that shares the publisher, carries the context of its sender, so it stays in its
    own trace. Then the span has a link to the sender's.
    """

    __slots__ = (
        "_context", "_entries", "_links", "_other", "_other_entries", "_parent", "_propagation", "_until", "n_events",
        "span",
    )  # fmt: skip

    def __init__(self, span: Span, context: Context, propagation: Propagation) -> None:
        self.span = span
        self.n_events = 0
        self._propagation = propagation
        self._context = context
        self._parent = get_current_span(context).get_span_context()
        self._entries = propagation.entries_of(set_span_in_context(span, context))
        self._other: Context | None = None  # the latest other context in which an event was sent
        self._other_entries: dict[str, str] = {}
        self._links = Links(span)
        self._until = time.monotonic() + LONGEST_S

    @property
    def is_over(self) -> bool:
        """Return whether the span has lasted long enough. Its publisher may have closed without a flush."""
        return time.monotonic() >= self._until

    def entries_in(self, context: Context) -> dict[str, str]:
        """Return the entries of metadata for an event that is sent in a context, and count the event."""
        self.n_events += 1
        if context is self._context:
            return self._entries
        if context is not self._other:
            self._other = context
            self._other_entries = self._entries_in_other(context)
        return self._other_entries

    def _entries_in_other(self, context: Context) -> dict[str, str]:
        sender = get_current_span(context).get_span_context()
        if not sender.is_valid or (sender.trace_id, sender.span_id) == (self._parent.trace_id, self._parent.span_id):
            if not self._propagation.with_baggage:
                return self._entries
            return self._propagation.entries_of(set_span_in_context(self.span, context))
        self._links.add(sender)
        return self._propagation.entries_of(context)

    def end(self, n_failed: int = 0) -> None:
        """End the span. `n_failed`: how many events were not stored."""
        self.span.set_attribute(BATCH_COUNT, self.n_events)
        if n_failed:
            self.span.set_attribute(N_FAILED, n_failed)
        self._links.end()
        self.span.end()
