"""eda.telemetry.attempts: what a span tells of an error, whatever the error does."""

from __future__ import annotations

import pytest
from opentelemetry.trace import StatusCode

from eda.telemetry.attempts import note_error
from support.telemetry.spans import Spans, attributes


class Unprintable(Exception):
    def __str__(self) -> str:
        raise LookupError("no text")


@pytest.mark.parametrize("error", [ValueError("a\nb"), Unprintable()], ids=["usual", "unprintable"])
def test_span_when_an_error_is_noted_has_its_type(error: Exception) -> None:
    spans = Spans()
    span = spans.tracer.start_span("x")
    note_error(span, error)
    span.end()
    (ended,) = spans.all()
    assert ended.status.status_code is StatusCode.ERROR
    name = attributes(ended)["error.type"]
    assert name == ("ValueError" if isinstance(error, ValueError) else f"{__name__}.Unprintable")
    assert ended.status.description == ("a\\nb" if isinstance(error, ValueError) else name)
