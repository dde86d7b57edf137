"""Reads the lags of a connection's subscriptions in the background, while somebody wants them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from eda.errors import error_text
from eda.subscribing.lag import Lag

__all__ = ["LagWatch"]

EVERY_S = 5.0
WANTED_FOR_S = 90.0  # a scraper comes every 15 to 60 s
READ_TIMEOUT_S = 10.0


class LagWatch:
    """The lags of the open subscriptions of one connection, read every 5 s. Reading stops 90 s after the last `want`.

    `want` and `lags` may be called in any thread, and never wait.
    """

    def __init__(self, conn: Any) -> None:
        self._conn = conn
        self._wanted_at = -WANTED_FOR_S
        self._is_running = False
        self._reading: asyncio.Task[None] | None = None
        self._lags: dict[tuple[str, str], Lag] = {}

    @property
    def lags(self) -> dict[tuple[str, str], Lag]:
        """The lags that were read last. A lag that could not be read is not there; without a connection, none is."""
        return self._lags if self._conn.state in ("connected", "reconnected") else {}

    def want(self) -> None:
        """Have the lags read from now on."""
        self._wanted_at = time.monotonic()
        loop = self._conn.loop
        if self._is_running or loop is None or self._conn.state == "closed":
            return
        try:
            loop.call_soon_threadsafe(self._start)
        except RuntimeError:  # the event loop is closed
            self._lags = {}

    def _start(self) -> None:
        if not self._is_running:
            self._is_running = True
            self._read_soon()

    def _read_soon(self) -> None:
        self._reading = None
        if self._conn.state == "closed" or time.monotonic() - self._wanted_at > WANTED_FOR_S:
            self._is_running = False
            self._lags = {}
            return
        self._reading = self._conn.loop.create_task(self._read(), name="eda reads lags")
        self._reading.add_done_callback(self._read_again)

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                lags = await self._conn.lags()
        except Exception as error:
            lags = {}
            self._conn._logger.debug("the lags for the metrics can't be read now: %s", error_text(error))
        self._lags = lags

    def _read_again(self, reading: asyncio.Task[None]) -> None:
        if reading.cancelled():  # the event loop ends
            self._is_running = False
            self._lags = {}
        else:
            self._conn.loop.call_later(EVERY_S, self._read_soon)
