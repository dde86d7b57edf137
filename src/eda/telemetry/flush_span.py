"""The span of what a publisher sends until it is flushed."""

from __future__ import annotations

from typing import final

from opentelemetry.context import Context
from opentelemetry.trace import Span, get_current_span, set_span_in_context

from eda._clock import read_monotonic_ns
from eda._stamp import Stamp
from eda.telemetry.conventions import BATCH_COUNT, N_FAILED
from eda.telemetry.propagation import Propagation
from eda.telemetry.spans import Links

__all__ = ["FlushSpan"]

# A program may never flush. Its spans must end all the same, because only then are they exported.
LONGEST_NS = 60_000_000_000


@final
class FlushSpan:
    """The span of the events that a publisher has sent since its last flush.

    Events that are sent in the context in which the span began carry the context of the span. An event that is sent in
    another trace, such as by a handler that shares the publisher, carries the context of its sender, so it stays in its
    own trace. Then the span has a link to the sender's.
    """

    def __init__(self, span: Span, context: Context, propagation: Propagation) -> None:
        self.span = span
        self.n_events = 0
        self.ends_ns: int = read_monotonic_ns() + LONGEST_NS  # at the latest
        self._propagation = propagation
        self._context = context
        self._parent = get_current_span(context).get_span_context()
        self._own = propagation.stamp_of(set_span_in_context(span, context))
        self._links = Links(span)

    def stamp_in(self, context: Context) -> Stamp:
        """Return the stamp of the events that are sent in a context."""
        if context is self._context:
            return self._own
        sender = get_current_span(context).get_span_context()
        if not sender.is_valid or (sender.trace_id, sender.span_id) == (self._parent.trace_id, self._parent.span_id):
            if not self._propagation.with_baggage:
                return self._own
            return self._propagation.stamp_of(set_span_in_context(self.span, context))
        self._links.add(sender)
        return self._propagation.stamp_of(context)

    def end(self, n_failed: int = 0) -> None:
        """End the span. `n_failed`: how many events were not stored."""
        self.span.set_attribute(BATCH_COUNT, self.n_events)
        if n_failed:
            self.span.set_attribute(N_FAILED, n_failed)
        self._links.end()
        self.span.end()
