"""A grace period for refusals: during a restart or election, a server may finally refuse a request that works later."""

from __future__ import annotations

import time

from eda.errors import EdaError, ServerError

__all__ = ["GRACE_S", "GracePeriod"]

GRACE_S = 2.0


class GracePeriod:
    """Decides whether a background request is repeated after an error."""

    def __init__(self) -> None:
        self._since: float | None = None  # time of the first final refusal after the last retryable error

    def allows(self, error: EdaError) -> bool:
        """Return whether to repeat the request: always after a retryable error, and for 2 s after a final refusal."""
        if error.retryable:
            self._since = None
            return True
        if not isinstance(error, ServerError):
            return False
        now = time.monotonic()
        if self._since is None:
            self._since = now
        return now - self._since < GRACE_S
