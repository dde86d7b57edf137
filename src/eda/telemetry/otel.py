"""`OpenTelemetry`: traces of all that a connection publishes and handles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eda._version import __version__
from eda.errors import ConfigError
from eda.middleware.base import Middleware
from eda.telemetry.conventions import SCHEMA_URL

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

__all__ = ["OpenTelemetry"]


class OpenTelemetry(Middleware):
    """Middleware that makes OpenTelemetry spans: `eda.connect(..., middleware=[eda.OpenTelemetry()])`.

    Needs the extra `otel`. The program sets up the OpenTelemetry SDK and its exporter. Without an SDK nothing is
    recorded. One object may serve several connections.

    The spans are `send {stream}` for each `conn.publish`, `conn.publish_batch`, append to an event store,
    `send_and_wait` and flush of a publisher, and `process {stream}` for each attempt of a handler or projection. The
    global propagator carries the trace context in the event's `meta`. A context that the program has set there is kept.

    `tracer_provider`: None is the global one, at the time when a connection is made. `baggage`: whether baggage goes
    with the events, so that everybody who reads the stream can see it. `follow_sampling`: an event whose sender has not
    sampled its trace gets no `process` span, which costs least; False: the sampler decides about each attempt.

    Raises ConfigError if opentelemetry-api is not installed, and for wrong arguments.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        baggage: bool = False,
        follow_sampling: bool = True,
    ) -> None:
        try:
            from opentelemetry.trace import TracerProvider
        except ImportError as error:
            raise ConfigError(
                "eda.OpenTelemetry needs the package opentelemetry-api: install eda-fast[otel]", argument="middleware"
            ) from error
        if tracer_provider is not None and not isinstance(tracer_provider, TracerProvider):
            raise ConfigError(
                f"tracer_provider must be an OpenTelemetry TracerProvider or None, not {tracer_provider!r}",
                argument="tracer_provider",
            )
        for name, value in (("baggage", baggage), ("follow_sampling", follow_sampling)):
            if not isinstance(value, bool):
                raise ConfigError(f"{name} must be True or False, not {value!r}", argument=name)
        self._tracer_provider = tracer_provider
        self._baggage = baggage
        self._follow_sampling = follow_sampling

    def bound_to(self, conn: Any, /) -> Middleware:
        """Return the middleware that makes the spans of a connection."""
        from opentelemetry.trace import get_tracer

        from eda.telemetry.tracing import Tracing  # here, because it imports opentelemetry

        tracer = get_tracer("eda", __version__, self._tracer_provider, SCHEMA_URL)
        return Tracing(conn, tracer, with_baggage=self._baggage, follow_sampling=self._follow_sampling)
