"""The rows of an outbox that a stream has refused: which keys they block, when they are tried again, and the log."""

from __future__ import annotations

import logging
from collections.abc import KeysView

from eda.errors import Closed, ConfigError, ServerError, StreamNotFound, Timeout, printable
from eda.log import with_fields
from eda.projections.outbox_cursor import OutboxRow

__all__ = ["RefusedRows", "is_of_stream", "may_be_stored"]

FIRST_PAUSE_S = 1.0
MAX_PAUSE_S = 60.0
LOG_EVERY_S = 60.0

BLOCKED = (
    "outbox %s: stream %s refuses event %s%s; its row stays in the table, and %d rows and all later rows of their "
    "aggregates wait. The relay tries again every minute or earlier: %s"
)
BURIED = "outbox %s: stream %s refuses event %s%s; %d rows were moved to the table %s_dead: %s"


STREAM_BLOCKED = (
    "outbox %s: stream %s takes no events, so its rows stay in the table and wait; event %s is the first one. The "
    "relay tries again every minute or earlier: %s"
)


class _Refusal:
    __slots__ = ("n_tries", "retry_at")

    def __init__(self) -> None:
        self.n_tries = 0
        self.retry_at = 0.0

    def add(self, now: float) -> float:
        """Count a refusal, and return the seconds until the next try."""
        pause_s = min(FIRST_PAUSE_S * 2.0**self.n_tries, MAX_PAUSE_S)
        self.n_tries = min(self.n_tries + 1, 10)
        self.retry_at = now + pause_s
        return pause_s


class RefusedRows:
    """What blocks the rows of one stream: refused rows. A row without an aggregate blocks only itself."""

    def __init__(self, table: str, stream: str, logger: logging.Logger) -> None:
        self._table = table
        self._stream = stream
        self._logger = with_fields(logger, eda_outbox=table, eda_stream=stream)
        self._by_serial: dict[int, tuple[str, _Refusal]] = {}
        self._of_stream = _Refusal()
        self._logged_at = float("-inf")

    def add(self, refused: list[tuple[OutboxRow, Exception]], now: float) -> None:
        """Note rows that the stream has refused. They are tried again after a pause, which doubles up to a minute."""
        for row, _ in refused:
            self._by_serial.setdefault(row.serial, (row.key, _Refusal()))[1].add(now)
        if now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            row, error = refused[0]
            self._logger.error(
                BLOCKED, self._table, self._stream, row.id, _of_aggregate(row), len(refused), _text(error)
            )

    def add_stream(self, refused: list[tuple[OutboxRow, Exception]], now: float) -> float:
        """Note that the stream takes no events at all. Return the seconds until the next try."""
        if now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            row, error = refused[0]
            self._logger.error(STREAM_BLOCKED, self._table, self._stream, row.id, _text(error))
        return self._of_stream.add(now)

    def log_buried(self, refused: list[tuple[OutboxRow, Exception]]) -> None:
        """Log rows that were moved to the table of dead rows."""
        row, error = refused[0]
        self._logger.error(
            BURIED, self._table, self._stream, row.id, _of_aggregate(row), len(refused), self._table, _text(error)
        )

    def accepted(self, serials: list[int]) -> None:
        """Forget the refusals of rows that the stream has stored."""
        self._of_stream.n_tries = 0
        if self._by_serial:
            for serial in serials:
                self._by_serial.pop(serial, None)

    def blocked(self, now: float) -> tuple[list[int], list[str], float]:
        """Return the serials and the keys (`stream.key`) that are blocked now, and the seconds until one is not."""
        if not self._by_serial:
            return [], [], float("inf")
        serials, keys, wait_s = [], set(), float("inf")
        for serial, (key, refusal) in self._by_serial.items():
            if refusal.retry_at <= now:
                continue
            wait_s = min(wait_s, refusal.retry_at - now)
            if key:
                keys.add(f"{self._stream}.{key}")
            else:
                serials.append(serial)
        return serials, list(keys), wait_s

    @property
    def serials(self) -> KeysView[int]:
        """Return the serials of rows that the stream has refused, and has not stored since."""
        return self._by_serial.keys()


def _of_aggregate(row: OutboxRow) -> str:
    return f" of aggregate {row.key}" if row.key else ""


def _text(error: Exception) -> str:
    return printable(f"{type(error).__name__}: {error}")


def may_be_stored(error: Exception) -> bool:
    """Return whether an event that failed with this error may be stored all the same, or may be stored later."""
    if isinstance(error, ServerError):
        return error.retryable or error.may_be_stored
    return isinstance(error, Timeout | Closed)


def is_of_stream(error: Exception) -> bool:
    """Return whether an error is about the stream and not about one event."""
    return isinstance(error, StreamNotFound) or (isinstance(error, ConfigError) and error.argument == "stream")
