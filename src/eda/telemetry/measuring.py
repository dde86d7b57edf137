"""The middleware that has the metrics of a connection measured."""

from __future__ import annotations

from typing import Any

from eda.middleware.base import Middleware
from eda.telemetry.otel_metrics import OtelMetrics

__all__ = ["Measuring"]


class Measuring(Middleware):
    """Has a connection measured while it is open. `metrics`: None measures nothing."""

    def __init__(self, metrics: OtelMetrics | None) -> None:
        self._metrics = metrics

    async def opened(self, conn: Any) -> None:
        """Begin to measure."""
        if self._metrics is not None:
            self._metrics.attach(conn)

    async def closed(self, conn: Any) -> None:
        """Stop measuring."""
        if self._metrics is not None:
            self._metrics.detach(conn)
