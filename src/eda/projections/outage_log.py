"""Log lines about a database that does not work for a while: the first at once, then at most one each minute."""

from __future__ import annotations

import logging
import time

__all__ = ["EVERY_S", "OutageLog"]

EVERY_S = 60.0

FAILED = "projection %s: %s failed, because of the database %s and not of an event; trying again until it works: %s"
OVER = "projection %s: the database %s works again"


class OutageLog:
    """Logs the outages of one database for one projection. `label` names the projection, `sink` the database."""

    def __init__(self, logger: logging.Logger, label: str, sink: str) -> None:
        self._logger = logger
        self._label = label
        self._sink = sink
        self._last: float | None = None  # when the last failure was logged
        self._is_logged = False  # whether the outage that is under way was logged
        self.is_failing: bool = False  # whether the database failed when it was used last

    def failed(self, what: str, error: BaseException) -> None:
        """Log that something failed, unless the last such line is less than a minute old.

        Short failures, such as deadlocks, may follow each other for hours, so the end of one does not change this.
        """
        self.is_failing = True
        now = time.monotonic()
        if self._last is None or now - self._last >= EVERY_S:
            self._last = now
            self._is_logged = True
            self._logger.warning(FAILED, self._label, what, self._sink, error)

    def works(self) -> None:
        """Log the end of an outage, if its beginning was logged."""
        self.is_failing = False
        if self._is_logged:
            self._is_logged = False
            self._logger.info(OVER, self._label, self._sink)
