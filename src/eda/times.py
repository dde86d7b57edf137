"""Units and moments of time that several wings use."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["EPOCH", "NS"]

NS = 1_000_000_000  # nanoseconds per second
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
