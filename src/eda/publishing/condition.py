"""What a health check says about a publisher."""

from __future__ import annotations

from typing import Any

from eda.publishing.publisher import Publisher

__all__ = ["condition_of"]


def condition_of(publisher: Publisher) -> dict[str, Any]:
    """Return what a health check says about a publisher; see `conn.health`."""
    stats, pump = publisher.stats(), publisher._pump
    return {
        "stream": publisher.stream,
        "state": str(pump.machine.state),
        "mode": stats.mode or None,
        "pending": stats.pending,
        "pending_bytes": stats.pending_bytes,
        "failed": stats.failed,
        "oldest_pending_s": round(stats.oldest_pending_s, 3),
        "timeout_s": pump.clock.timeout_s or None,
    }
