"""Trace contexts in the metadata of events, written and read by the program's global propagator."""

from __future__ import annotations

from typing import final

from opentelemetry import baggage, propagate
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import SpanContext, get_current_span

from eda._event import Event
from eda._stamp import Stamp

__all__ = ["NOTHING", "NO_ORIGIN", "Origin", "Propagation"]

NOTHING = Context()
# With no other fields, what an event's metadata mean depends on these entries alone.
W3C = frozenset(("traceparent", "tracestate", "baggage"))


@final
class Origin:
    """The context that came with an event: without one it is empty, and its span context is not valid."""

    __slots__ = ("context", "is_unsampled", "span_context")

    def __init__(self, context: Context) -> None:
        self.context: Context = context
        self.span_context: SpanContext = get_current_span(context).get_span_context()
        self.is_unsampled: bool = self.span_context.is_valid and not self.span_context.trace_flags.sampled


NO_ORIGIN = Origin(NOTHING)


class Propagation:
    """Writes contexts into the metadata of events, and reads them. `with_baggage`: baggage goes with them."""

    def __init__(self, *, with_baggage: bool) -> None:
        self.with_baggage: bool = with_baggage
        self._propagator: TextMapPropagator | None = None
        self._fields: frozenset[str] = frozenset()
        self._is_w3c = False
        self._meta: dict[str, str] = {}  # of the latest event
        self._key: tuple[object, ...] | None = None
        self._origin = NO_ORIGIN

    def stamp_of(self, context: Context) -> Stamp:
        """Return the stamp that writes a context into events, unless these carry one already."""
        if propagate.get_global_textmap() is not self._propagator:
            self._follow_propagator()
        entries: dict[str, str] = {}
        propagate.inject(entries, context if self.with_baggage else baggage.clear(context))
        return Stamp(entries, self._fields)

    def origin_of(self, event: Event) -> Origin:
        """Return the context that came with an event.

        Consecutive events often have the same, for example if they were sent before the same flush. So the latest one
        is kept: reading a context takes 5 us.
        """
        meta = event.meta
        if not meta:
            return NO_ORIGIN
        if propagate.get_global_textmap() is not self._propagator:
            self._follow_propagator()
        if meta == self._meta:
            return self._origin
        if self._is_w3c:
            key: tuple[object, ...] = (meta.get("traceparent"), meta.get("tracestate"), meta.get("baggage"))
            if key == self._key:
                return self._origin
            self._key = key
        self._meta = meta
        self._origin = self._read(meta)
        return self._origin

    def _read(self, meta: dict[str, str]) -> Origin:
        context = propagate.extract(meta, NOTHING)
        return Origin(context if self.with_baggage else baggage.clear(context))

    def _follow_propagator(self) -> None:
        """Note which propagator is the global one: the program may set it at any time."""
        propagator = propagate.get_global_textmap()
        if propagator is not self._propagator:
            self._propagator = propagator
            # A context that the user has set may have baggage alone.
            self._fields = frozenset(propagator.fields) - {"baggage"}
            self._is_w3c = propagator.fields <= W3C
            self._meta, self._key, self._origin = {}, None, NO_ORIGIN
