"""Trace contexts in the metadata of events, by whatever propagator the program uses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import TextMapPropagator

import eda
from eda.telemetry.propagation import Propagation

ENTRY = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Own(TextMapPropagator):
    """Carries a context in entries of names that the conventions do not know, and reads one more."""

    def inject(self, carrier: Any, context: Context | None = None, setter: Any = None) -> None:
        carrier["own-trace"] = f"{trace.get_current_span(context).get_span_context().trace_id}"

    def extract(self, carrier: Any, context: Context | None = None, getter: Any = None) -> Context:
        number = int(carrier.get("own-trace", 0)) + int(carrier.get("undeclared", 0))
        span = trace.NonRecordingSpan(trace.SpanContext(number, 1, is_remote=True, trace_flags=trace.TraceFlags(1)))
        return trace.set_span_in_context(span, context)

    @property
    def fields(self) -> set[str]:
        return {"own-trace"}


@pytest.fixture
def own() -> Iterator[None]:
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(Own())
    yield
    propagate.set_global_textmap(before)


def in_trace(number: int) -> Context:
    context = trace.SpanContext(number, 1, is_remote=False, trace_flags=trace.TraceFlags(1))
    return trace.set_span_in_context(trace.NonRecordingSpan(context), Context())


def test_entries_when_the_program_sets_another_propagator_are_its(own: None) -> None:
    propagation = Propagation(with_baggage=False)
    event = propagation.stamp_of(in_trace(7)).on(eda.Event(meta={"a": "b"}))
    assert event.meta == {"a": "b", "own-trace": "7"}
    assert propagation.stamp_of(in_trace(8)).on(event) is event


def test_origin_when_the_propagator_reads_other_entries_is_read_for_each_event(own: None) -> None:
    propagation = Propagation(with_baggage=False)
    origins = [
        propagation.origin_of(eda.Event(meta={"own-trace": "7", "undeclared": number})).span_context.trace_id
        for number in ("1", "1", "2", "1")
    ]
    assert origins == [8, 8, 9, 8]


def test_origin_when_the_propagator_changes_is_read_again() -> None:
    propagation = Propagation(with_baggage=False)
    event = eda.Event(meta={"traceparent": ENTRY, "own-trace": "7"})
    assert propagation.origin_of(event).span_context.span_id == 0xB7AD6B7169203331
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(Own())
    try:
        assert propagation.origin_of(event).span_context.trace_id == 7
    finally:
        propagate.set_global_textmap(before)
    assert propagation.origin_of(event).span_context.span_id == 0xB7AD6B7169203331


def test_origin_when_consecutive_events_have_the_same_context_is_the_same_object() -> None:
    propagation = Propagation(with_baggage=False)
    origins = [
        propagation.origin_of(eda.Event(meta={"traceparent": ENTRY, "number": str(number)})) for number in range(3)
    ]
    assert origins[0] is origins[1] is origins[2]
    assert propagation.origin_of(eda.Event()) is not origins[0]
    assert not propagation.origin_of(eda.Event()).span_context.is_valid


@pytest.mark.parametrize("with_baggage", [False, True])
def test_origin_when_only_the_baggage_differs_has_its_own(with_baggage: bool) -> None:
    propagation = Propagation(with_baggage=with_baggage)
    found = [
        baggage.get_baggage(
            "a", propagation.origin_of(eda.Event(meta={"traceparent": ENTRY, "baggage": f"a={number}"})).context
        )
        for number in range(2)
    ]
    assert found == (["0", "1"] if with_baggage else [None, None])


def test_context_when_the_user_has_set_baggage_alone_is_added() -> None:
    propagation = Propagation(with_baggage=True)
    context = baggage.set_baggage("a", "mine", in_trace(7))
    event = propagation.stamp_of(context).on(eda.Event(meta={"baggage": "a=yours"}))
    assert set(event.meta) == {"baggage", "traceparent"}
    assert event.meta["baggage"] == "a=yours"
