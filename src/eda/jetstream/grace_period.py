"""For how long a refusal that is final is not believed: a server that restarts or elects may say odd things."""

from __future__ import annotations

import time

from eda.errors import EdaError, ServerError

__all__ = ["GRACE_S", "GracePeriod"]

GRACE_S = 2.0


class GracePeriod:
    """What is tried again in the background, and for how long."""

    def __init__(self) -> None:
        self._since: float | None = None  # the server has refused for good ever since

    def allows(self, error: EdaError) -> bool:
        """Whether to try again after that error: whatever may pass, and for some seconds what the server refuses."""
        if error.retryable:
            self._since = None
            return True
        if not isinstance(error, ServerError):
            return False
        now = time.monotonic()
        if self._since is None:
            self._since = now
        return now - self._since < GRACE_S
