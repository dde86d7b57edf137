"""Telemetry: traces by OpenTelemetry. It is middleware like a user's own, and uses only what users can use.

Only `opentelemetry-api` is imported, and only when an `OpenTelemetry` is made.

Files, each after the files that it imports:

    conventions        the names of attributes, span names and errors, as of the semantic conventions for messaging
    propagation        trace contexts in the metadata of events
    _usual             the hooks that run for each event, in the usual cases
    spans              begins the spans of a connection, and links them to contexts
    flush_span         the span of what a publisher sends until it is flushed
    attempts           what a span tells of a failure, and of what becomes of its events
    sending            the hooks around publishes
    processing         the hook around attempts
    tracing            the middleware of one connection
    otel               `OpenTelemetry`, which users give to `connect(middleware=[...])`
"""

__all__: list[str] = []
