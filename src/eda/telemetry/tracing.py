"""The middleware that makes the spans of one connection."""

from __future__ import annotations

from typing import Any, final

from opentelemetry import context
from opentelemetry.trace import Tracer

from eda.telemetry._usual import Current
from eda.telemetry.measuring import Measuring
from eda.telemetry.otel_metrics import OtelMetrics
from eda.telemetry.processing import Processing
from eda.telemetry.propagation import Propagation
from eda.telemetry.sending import Sending
from eda.telemetry.settling import Settling
from eda.telemetry.spans import SpanMaker

__all__ = ["Tracing"]


@final
class Tracing(Measuring):
    """Makes the spans of one connection. `conn` is an `eda.Conn`. The other arguments are as in `OpenTelemetry`."""

    def __init__(
        self, conn: Any, metrics: OtelMetrics | None, tracer: Tracer, *, with_baggage: bool, follow_sampling: bool
    ) -> None:
        super().__init__(metrics)
        spans, propagation = SpanMaker(conn, tracer), Propagation(with_baggage=with_baggage)
        current = Current(context.get_current, context.attach, context.detach)
        self._sending = sending = Sending(spans, propagation, current)
        processing = Processing(spans, propagation, current, follow_sampling=follow_sampling)
        # Compiled objects are the hooks that run for each event.
        settling = Settling(spans, propagation, follow_sampling=follow_sampling)
        hooks = {"publish": sending.publish, "mark": sending.mark, "flush": sending.flush}
        hooks |= {"observe": processing.observe, "dead_letter": settling.observe}
        for name, hook in hooks.items():
            setattr(self, name, hook)

    async def closed(self, conn: Any) -> None:
        """End the spans of publishers that were closed without a flush."""
        self._sending.close()
        await super().closed(conn)
