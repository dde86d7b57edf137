"""A grace period for refusals: during a restart or an election, a server may refuse for good what it accepts later."""

from __future__ import annotations

import time

from eda.errors import EdaError, ServerError

__all__ = ["GRACE_S", "GracePeriod"]

GRACE_S = 2.0


class GracePeriod:
    """Decides whether a request in the background is repeated after an error."""

    def __init__(self) -> None:
        self._since: float | None = None  # when the first of the final refusals in a row came

    def allows(self, error: EdaError) -> bool:
        """Return whether to repeat the request: always if it may succeed later, and for 2 s after a final refusal."""
        if error.retryable:
            self._since = None
            return True
        if not isinstance(error, ServerError):
            return False
        now = time.monotonic()
        if self._since is None:
            self._since = now
        return now - self._since < GRACE_S
