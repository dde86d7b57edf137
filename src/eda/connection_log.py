"""What the log says about a connection: that it is open, lost, still lost once a minute, and back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from eda.errors import printable
from eda.log import with_fields
from eda.transport.wire import Wire

__all__ = ["ConnectionLog", "Server"]

EVERY_S = 60.0  # between two warnings of one connection about its loss

MAX_NAME = 200  # characters


class Server(NamedTuple):
    """The server of a connection, as it described itself at log-in."""

    name: str | None
    version: str | None
    address: str
    cluster: str | None


class ConnectionLog:
    """Logs the life of one connection, and knows when and how often it was lost.

    A connection may be lost for hours, or lost and restored many times in a second. So at most one warning a minute is
    logged about that. `n_waiting()` returns how many events wait to be published.
    """

    def __init__(self, logger: logging.Logger, addresses: str, wire: Wire, n_waiting: Callable[[], int]) -> None:
        self._logger = with_fields(logger, eda_address=addresses)
        self._addresses = addresses
        self._wire = wire
        self._n_waiting = n_waiting
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._warned_at: float | None = None  # when the last warning was logged
        self._is_told = False  # whether the loss that lasts now was logged
        self._n_untold = 0  # losses since the last warning
        self._failed_before = 0  # attempts to reconnect that had failed when the connection was lost
        self.server: Server = _server_of(wire)
        self.n_reconnects: int = 0
        self.lost_at: float | None = None  # on the loop's clock; None: connected
        self.connected_ns: int = time.time_ns()  # when it was connected last, in nanoseconds since 1970
        self._logger.info(
            "connected to %s: server %s, nats-server %s",
            self.server.address, self.server.name, self.server.version, extra=self._fields,
        )  # fmt: skip

    @property
    def _fields(self) -> dict[str, str]:
        server = self.server
        return {
            "eda_address": server.address,
            "eda_server": server.name or "",
            "eda_server_version": server.version or "",
        }

    @property
    def lost_s(self) -> float | None:
        """Return for how many seconds the connection has been lost; None: it is not."""
        return None if self.lost_at is None else self._loop.time() - self.lost_at

    @property
    def n_failed(self) -> int:
        """Return how many attempts to reconnect have failed since the connection was lost."""
        return self._wire.n_failed_attempts - self._failed_before

    def lost(self) -> None:
        """Note that the connection is lost."""
        if self.lost_at is not None:
            return
        now = self.lost_at = self._loop.time()
        self._failed_before = self._wire.n_failed_attempts
        if self._warned_at is None or now - self._warned_at >= EVERY_S:
            self._warned_at = now
            self._is_told = True
            self._logger.warning("disconnected from %s; reconnecting", self._addresses)
        else:
            self._n_untold += 1
        self._arm(self._warned_at + EVERY_S - now)

    def restored(self) -> None:
        """Note that the connection is back, perhaps to another server."""
        lost_s, self.lost_at = self.lost_s or 0.0, None
        self.server = _server_of(self._wire)
        self.n_reconnects += 1
        self.connected_ns = time.time_ns()
        if self._is_told:
            self._is_told = False
            self._logger.info(
                "reconnected to %s after %.3g s: server %s, nats-server %s",
                self.server.address, lost_s, self.server.name, self.server.version,
                extra={**self._fields, "eda_outage_s": round(lost_s, 3)},
            )  # fmt: skip
            if not self._n_untold:
                self.close()

    def close(self) -> None:
        """Log nothing more of this loss."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, delay_s: float) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(delay_s, self._tell)

    def _tell(self) -> None:
        """Log the loss that lasts, or those that were not logged one by one."""
        self._timer = None
        n_untold, self._n_untold = self._n_untold, 0
        self._warned_at = self._loop.time()
        if self.lost_s is None:
            self._logger.warning(
                "the connection to %s was lost and restored %d more times in the last %g s",
                self._addresses, n_untold, EVERY_S, extra={"eda_count": n_untold},
            )  # fmt: skip
            return
        self._is_told = True
        self._logger.warning(
            "still disconnected from %s after %.0f s: %d attempts to reconnect failed, the last one with: %s; %d "
            "events wait to be published",
            self._addresses, self.lost_s, self.n_failed, self._wire.last_failure or "no answer", self._n_waiting(),
            extra={"eda_outage_s": round(self.lost_s, 3), "eda_count": n_untold},
        )  # fmt: skip
        self._arm(EVERY_S)


def _server_of(wire: Wire) -> Server:
    info = wire.info
    name, version, cluster = (_text(info.get(field)) for field in ("server_name", "version", "cluster"))
    return Server(name, version, wire.address, cluster)


def _text(value: object) -> str | None:
    return printable(value[:MAX_NAME]) if isinstance(value, str) and value else None
