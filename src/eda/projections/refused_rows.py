"""The rows of an outbox that a stream has refused: which keys they block, when they are tried again, and the log."""

from __future__ import annotations

import logging

from eda.errors import printable
from eda.projections.outbox_rows import OutboxRow

__all__ = ["RefusedRows"]

FIRST_PAUSE_S = 1.0
MAX_PAUSE_S = 60.0
LOG_EVERY_S = 60.0
MAX_BLOCKED = 1000  # more blocked keys than this block the whole stream: the database is told to leave each of them out

BLOCKED = (
    "outbox %s: stream %s refuses event %s%s; its row stays in the table, and %d rows and all later rows of their "
    "aggregates wait. The relay tries again every minute or earlier: %s"
)
BURIED = "outbox %s: stream %s refuses event %s%s; %d rows were moved to the table %s_dead: %s"


class _Refusal:
    __slots__ = ("n_tries", "retry_at")

    def __init__(self) -> None:
        self.n_tries = 0
        self.retry_at = 0.0


class RefusedRows:
    """What blocks the rows of one stream: refused rows. A row without an aggregate blocks only itself."""

    def __init__(self, table: str, stream: str, logger: logging.Logger) -> None:
        self._table = table
        self._stream = stream
        self._logger = logger
        self._by_serial: dict[int, tuple[str, _Refusal]] = {}
        self._logged_at = float("-inf")

    def add(self, refused: list[tuple[OutboxRow, Exception]], now: float) -> None:
        """Note rows that the stream has refused. They are tried again after a pause, which doubles up to a minute."""
        for row, _ in refused:
            _, refusal = self._by_serial.setdefault(row.serial, (row.key, _Refusal()))
            refusal.retry_at = now + min(FIRST_PAUSE_S * 2.0**refusal.n_tries, MAX_PAUSE_S)
            refusal.n_tries = min(refusal.n_tries + 1, 10)
        if now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            row, error = refused[0]
            self._logger.error(
                BLOCKED, self._table, self._stream, row.id, _of_aggregate(row), len(refused), _text(error)
            )

    def log_buried(self, refused: list[tuple[OutboxRow, Exception]]) -> None:
        """Log rows that were moved to the table of dead rows."""
        row, error = refused[0]
        self._logger.error(
            BURIED, self._table, self._stream, row.id, _of_aggregate(row), len(refused), self._table, _text(error)
        )

    def accepted(self, serials: list[int]) -> None:
        """Forget the refusals of rows that the stream has stored."""
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

    def was_refused(self, serial: int) -> bool:
        """Return whether the stream has refused a row, and has not stored it since."""
        return serial in self._by_serial


def _of_aggregate(row: OutboxRow) -> str:
    return f" of aggregate {row.key}" if row.key else ""


def _text(error: Exception) -> str:
    return printable(f"{type(error).__name__}: {error}")
