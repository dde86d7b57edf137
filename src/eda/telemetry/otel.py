"""`OpenTelemetry`: traces and metrics of all that a connection publishes and handles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eda._version import __version__
from eda.errors import ConfigError
from eda.middleware.base import Middleware
from eda.telemetry.conventions import SCHEMA_URL

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from eda.telemetry.otel_metrics import OtelMetrics

__all__ = ["OpenTelemetry"]


class OpenTelemetry(Middleware):
    """Middleware that makes OpenTelemetry spans and metrics: `eda.connect(..., middleware=[eda.OpenTelemetry()])`.

    Needs the extra `otel`. The program sets up the OpenTelemetry SDK and its exporters. Without an SDK nothing is
    recorded. One object may serve several connections.

    The spans are `send {stream}` for each `conn.publish`, `conn.publish_batch`, append to an event store,
    `send_and_wait` and flush of a publisher, `process {stream}` for each attempt of a handler or projection, and
    `settle {stream}` for each dead letter that is stored. The global propagator carries the trace context in the
    event's `meta`. A context that the program has set there is kept. The metrics are those of the semantic conventions
    for messaging clients.

    `traces`, `metrics`: whether to make them. `tracer_provider`, `meter_provider`: None is the global one. `baggage`:
    whether baggage goes with the events, so that everybody who reads the stream can see it. `follow_sampling`: an event
    whose sender has not sampled its trace gets no `process` span, which costs least; False: the sampler decides about
    each attempt.

    Raises ConfigError if opentelemetry-api is not installed, and for wrong arguments.
    """

    def __init__(
        self,
        *,
        traces: bool = True,
        metrics: bool = True,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        baggage: bool = False,
        follow_sampling: bool = True,
    ) -> None:
        try:
            from opentelemetry.metrics import MeterProvider
            from opentelemetry.trace import TracerProvider
        except ImportError as error:
            raise ConfigError(
                "eda.OpenTelemetry needs the package opentelemetry-api: install eda-fast[otel]", argument="middleware"
            ) from error
        for name, provider, wanted in (
            ("tracer_provider", tracer_provider, TracerProvider),
            ("meter_provider", meter_provider, MeterProvider),
        ):
            if provider is not None and not isinstance(provider, wanted):
                raise ConfigError(
                    f"{name} must be an OpenTelemetry {wanted.__name__} or None, not {provider!r}", argument=name
                )
        flags = {"traces": traces, "metrics": metrics, "baggage": baggage, "follow_sampling": follow_sampling}
        for name, value in flags.items():
            if not isinstance(value, bool):
                raise ConfigError(f"{name} must be True or False, not {value!r}", argument=name)
        self._traces = traces
        self._metrics: OtelMetrics | None = None  # of all connections together
        if metrics:
            from eda.telemetry.otel_metrics import OtelMetrics  # here, because it imports opentelemetry

            self._metrics = OtelMetrics(meter_provider)
        self._tracer_provider = tracer_provider
        self._baggage = baggage
        self._follow_sampling = follow_sampling

    def bound_to(self, conn: Any, /) -> Middleware:
        """Return the middleware that makes the spans and metrics of a connection."""
        from opentelemetry.trace import get_tracer

        from eda.telemetry.measuring import Measuring  # here, because they import opentelemetry
        from eda.telemetry.tracing import Tracing

        if not self._traces:
            return Measuring(self._metrics)
        tracer = get_tracer("eda", __version__, self._tracer_provider, SCHEMA_URL)
        return Tracing(conn, self._metrics, tracer, with_baggage=self._baggage, follow_sampling=self._follow_sampling)
