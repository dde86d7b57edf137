"""Begins the spans of one connection, with the attributes that all of them have."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, final

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Tracer

from eda._event import Event
from eda.telemetry.conventions import (
    CONVERSATION_ID,
    EVENT_TYPE,
    GROUP,
    LINKS_LEFT_OUT,
    MAX_LINKS,
    MESSAGE_ID,
    operation,
)

__all__ = ["Links", "SpanMaker", "attributes_of"]

SERVER_S = 1.0  # how long the name of the server is used before it is looked up again
REMEMBERED = 8192  # how many contexts are remembered, so that none of them is counted twice


@final
class SpanMaker:
    """Begins spans. `conn` is an `eda.Conn`."""

    def __init__(self, conn: Any, tracer: Tracer) -> None:
        self._conn = conn
        self._tracer = tracer
        self._attributes: dict[tuple[str, str, str | None], dict[str, Any]] = {}
        self._attributes_until = 0.0

    def send(self, stream: str, within: Context, more: dict[str, Any], links: Sequence[Link] = ()) -> Span:
        """Begin a span `send`, whose parent is the span of the context `within`."""
        attributes = self._usual("send", stream, None) | more
        return self._tracer.start_span(f"send {stream}", within, SpanKind.PRODUCER, attributes, links)

    def process(
        self, stream: str, group: str | None, within: Context, more: dict[str, Any], links: Sequence[Link] = ()
    ) -> Span:
        """Begin a span `process`. `group`: the name under which members share the events, if there is one."""
        attributes = self._usual("process", stream, group) | more
        return self._tracer.start_span(f"process {stream}", within, SpanKind.CONSUMER, attributes, links)

    def settle(self, stream: str, group: str | None, within: Context, more: dict[str, Any]) -> Span:
        """Begin a span `settle`."""
        attributes = self._usual("settle", stream, group) | more
        return self._tracer.start_span(f"settle {stream}", within, SpanKind.CLIENT, attributes)

    def _usual(self, kind: str, stream: str, group: str | None) -> dict[str, Any]:
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


def attributes_of(event: Event) -> dict[str, Any]:
    """Return the attributes of a span of one event."""
    attributes: dict[str, Any] = {MESSAGE_ID: event.id, EVENT_TYPE: event.type}
    if event.cause:
        attributes[CONVERSATION_ID] = event.cause
    return attributes


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
