"""What traces cost an event whose trace is not sampled, beside the same event without telemetry."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from eda._nuid import next_nuid
from eda.middleware._observed import Observed
from eda.telemetry.tracing import Tracing
from micro import Maker, Round
from micro.handling.dispatch import N_DISPATCH, dispatched, frames_of, handle_unread, make_event
from micro.publishing.window import N_EVENTS, Ends, Sink, window_answers

__all__ = ["CONTENDERS"]


class _Conn:
    """A connection that is none: spans have its name and its server."""

    client = "bench"
    server = ("127.0.0.1", 4222)


class _Publisher:
    stream = "volume"


def tracing() -> Any:
    conn: Any = _Conn()
    tracer = TracerProvider(sampler=ALWAYS_OFF).get_tracer("eda")
    return Tracing(conn, None, tracer, with_baggage=False, follow_sampling=True)


def _handled(*, traced: bool) -> Round:
    mark, publisher = tracing().mark, _Publisher()
    events = [make_event(n) for n in range(N_DISPATCH)]
    if not traced:
        return dispatched(handle_unread, frames_of(events))
    observed: Any = Observed(tracing().observe, handle_unread)
    observed.is_outermost = True
    return dispatched(observed, frames_of([mark(event, publisher) for event in events]))


def _sent(*, traced: bool) -> Round:
    mark, publisher = tracing().mark, _Publisher()
    answers = window_answers()
    events = [make_event(n).replace(id=next_nuid()) for n in range(N_EVENTS)]

    def run() -> Ends:
        sink = Sink()
        sink.core.use_window_mode()
        sink.core.start_writing()
        sink.core.accept_many([mark(event, publisher) for event in events] if traced else events, 0, [])
        sink.out.flush()
        sink.parser.feed(answers)
        return sink.core.n_acknowledged, sink.core.n_pending, sink.n_written

    return Round(run, N_EVENTS)


CONTENDERS: dict[str, Maker] = {
    "handled": lambda: _handled(traced=False),
    "handled_unsampled": lambda: _handled(traced=True),
    "sent": lambda: _sent(traced=False),
    "sent_unsampled": lambda: _sent(traced=True),
}
