"""The spans that a program makes, kept in memory by the OpenTelemetry SDK."""

from __future__ import annotations

from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler

import eda
from helpers import until

__all__ = ["Spans", "attributes", "entry_of", "links", "notes", "parent_of"]


class Spans:
    """A provider for `OpenTelemetry`, and the spans that have ended."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler or ParentBased(ALWAYS_ON))
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer: trace.Tracer = self.provider.get_tracer("test")

    def middleware(self, **options: Any) -> list[eda.Middleware]:
        return [eda.OpenTelemetry(tracer_provider=self.provider, **options)]

    def all(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all() if span.name == name]

    async def wait_for(self, name: str, n: int = 1) -> list[ReadableSpan]:
        """Return the spans of this name, when there are so many."""
        await until(lambda: len(self.named(name)) >= n)
        assert len(self.named(name)) == n
        return self.named(name)

    async def one(self, name: str) -> ReadableSpan:
        (span,) = await self.wait_for(name)
        return span


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def notes(span: ReadableSpan) -> list[tuple[str, dict[str, Any]]]:
    """Return the events of a span but those of exceptions."""
    return [(event.name, dict(event.attributes or {})) for event in span.events if event.name != "exception"]


def links(span: ReadableSpan) -> list[int]:
    """Return the ids of the spans that a span is linked to."""
    return [link.context.span_id for link in span.links]


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def entry_of(span: ReadableSpan | trace.Span) -> str:
    """Return the metadata entry `traceparent` that carries the context of a span."""
    context = span.get_span_context()
    assert context is not None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
