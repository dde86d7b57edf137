"""Telemetry: traces and metrics by OpenTelemetry, metrics for Prometheus. It uses only what users can use.

`opentelemetry-api` and `prometheus-client` are imported only when an `OpenTelemetry` or a collector is made.

Files, each after the files that it imports:

    families           the names, kinds and sources of all metrics for Prometheus
    lag_watch          reads lags in the background, while somebody wants them
    prometheus         `eda.prometheus`: the collector that users register
    otel_metrics       the metrics of OpenTelemetry's conventions, from the counts of connections
    conventions        the names of attributes, span names and errors, as of the semantic conventions for messaging
    propagation        trace contexts in the metadata of events
    _usual             the hooks that run for each event, in the usual cases
    spans              begins the spans of a connection, and links them to contexts
    flush_span         the span of what a publisher sends until it is flushed
    attempts           what a span tells of a failure, and of what becomes of its events
    sending            the hooks around publishes
    processing         the hook around attempts
    settling           the hook around the storing of dead letters
    measuring          the middleware that has the metrics of a connection measured
    tracing            the middleware that makes the spans of a connection
    otel               `OpenTelemetry`, which users give to `connect(middleware=[...])`
"""

__all__: list[str] = []
