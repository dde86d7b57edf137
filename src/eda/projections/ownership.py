"""Which member applies a stream: claims, signs of life, standbys, and takeovers.

One member owns all lanes of a stream. It writes `updated` of its rows every 2 s, unless a transaction has done so. The
other members stand by: they look each second, and take the rows over when these have not changed for 5 s of their own
clock. No clocks are compared. A member that was frozen and wakes up commits nothing, because each transaction names the
row that it replaces, and a takeover has changed it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from eda.errors import ConfigError
from eda.log import with_fields
from eda.projections.outage_log import EVERY_S, OutageLog
from eda.projections.sink import ClaimLost, PositionRow, Sink, UpTo, lowest_up_to, place_text

__all__ = ["Ownership"]

TOUCH_S = 2.0
LOOK_S = 1.0
STALE_S = 5.0
FIRST_POLL_S = 0.005  # between two looks while somebody waits for an event
MAX_POLL_S = 0.02
RELEASE_S = 2.0

CLAIMED = "projection %s applies stream %s from sequence %s onwards"
TAKEN_OVER = "projection %s takes stream %s over at sequence %s: its last owner has shown no sign of life for %g s"
STANDS_BY = "projection %s stands by for stream %s: another member applies it"
BLOCKED = (
    "projection %s waits to take stream %s over: the database does not answer. A member that is frozen in a "
    "transaction may hold a lock"
)
LOST = "projection %s has lost stream %s to another member, and stands by"
NOT_RELEASED = "projection %s could not release stream %s, so a standby waits %g s before it takes over: %s"


class Ownership:
    """The rows of one stream of a projection, as one member owns them or waits for them.

    `on_lost()` is called when another member has taken the rows over, `on_failed(error)` when signs of life fail for
    another reason than an outage of the database. `on_rows(rows)` gets the rows whenever a standby
    has read them. `is_wanted()` returns whether somebody waits for an event: then a standby looks more often.
    `is_able()` returns whether this member can read the stream: without a connection to the server, an owner shows no
    signs of life, so that a standby that has one takes over.
    """

    def __init__(
        self,
        sink: Sink,
        name: str,
        version: int,
        stream: str,
        lanes: int,
        logger: logging.Logger,
        *,
        on_lost: Callable[[], None] = lambda: None,
        on_failed: Callable[[Exception], None] = lambda error: None,
        on_rows: Callable[[list[PositionRow]], None] = lambda rows: None,
        is_wanted: Callable[[], bool] = lambda: False,
        is_able: Callable[[], bool] = lambda: True,
    ) -> None:
        self._sink = sink
        self._name = name
        self._version = version
        self._stream = stream
        self._lanes = lanes
        self._logger = with_fields(logger, eda_stream=stream, eda_projection=f"{name}-v{version}")
        self._label = f"{name}-v{version}"
        self._outage = OutageLog(self._logger, self._label, sink.label)
        self._on_lost = on_lost
        self._on_failed = on_failed
        self._on_rows = on_rows
        self._is_wanted = is_wanted
        self._is_able = is_able
        self._loop = asyncio.get_running_loop()
        self._poke = asyncio.Event()
        self._written_at = 0.0
        self._blocked_at = float("-inf")  # when it was logged that the database does not answer a claim
        self._touching: asyncio.Task[None] | None = None
        self.is_owner: bool = False

    @property
    def is_failing(self) -> bool:
        """Return whether the database failed when a claim was looked at or kept last."""
        return self._outage.is_failing

    # --- becoming the owner ------------------------------------------------------------------------------------------

    async def claim(
        self, check: Callable[[list[PositionRow]], Awaitable[str]], on_standby: Callable[[], None] = lambda: None
    ) -> list[PositionRow]:
        """Wait until this member owns the rows, and return them by lane.

        `check(rows)` is awaited before each attempt. It returns when the stream was created, or raises the error that
        ends the projection. `on_standby` is called once if another member owns the rows. After this call, `keep` keeps
        the claim.

        Raises the errors of `check`, ConfigError if the rows have another number of lanes, and the sink's errors except
        outages.
        """
        seen: list[PositionRow] | None = None
        since = self._loop.time()
        stands_by = False
        pause_s = FIRST_POLL_S
        while True:
            try:
                rows = await self._sink.rows(self._name, self._version, self._stream)
                now = self._loop.time()
                self._check_lanes(rows)
                if rows != seen:
                    seen, since = rows, now
                if rows:
                    self._on_rows(rows)
                is_free = all(row.updated == 0 for row in rows)  # also if there are no rows yet
                if is_free or now - since >= STALE_S:
                    claimed = await self._try_claim(rows, await check(rows))
                    if claimed is not None:
                        self._outage.works()
                        self._log_claim(claimed, 0 if is_free else now - since)
                        return claimed
                    since = self._loop.time()
                self._outage.works()
            except Exception as error:
                if not self._sink.is_outage(error):
                    raise
                self._outage.failed(f"looking for the owner of stream {self._stream}, or taking over,", error)
            if not stands_by and seen:
                stands_by = True
                self._logger.info(STANDS_BY, self._label, self._stream)
                on_standby()
            pause_s = await self._pause(pause_s)

    def _check_lanes(self, rows: list[PositionRow]) -> None:
        if rows and len(rows) != self._lanes:
            raise ConfigError(
                f"projection {self._name!r} version {self._version} has {len(rows)} lanes in stream {self._stream!r}, "
                f"and lanes={self._lanes} asks for another number. The number can't change, because it decides which "
                f"lane has applied an event: open version={self._version + 1} with lanes={self._lanes}",
                argument="lanes",
            )

    async def _try_claim(self, rows: list[PositionRow], created: str) -> list[PositionRow] | None:
        timer = self._loop.call_later(STALE_S, self._log_blocked)
        try:
            claimed = await self._sink.claim(
                self._name, self._version, self._stream, seen=rows, created=created, lanes=self._lanes
            )
        finally:
            timer.cancel()
        if claimed is not None:
            self.is_owner = True
            self._written_at = self._loop.time()
        return claimed

    def _log_blocked(self) -> None:
        now = self._loop.time()
        if now - self._blocked_at >= EVERY_S:
            self._blocked_at = now
            self._logger.warning(BLOCKED, self._label, self._stream)

    def _log_claim(self, rows: list[PositionRow], silent_s: float) -> None:
        lowest = lowest_up_to(rows)
        if silent_s:
            self._logger.warning(
                TAKEN_OVER, self._label, self._stream, place_text(lowest.place), round(silent_s, 1)
            )  # fmt: skip
        else:
            self._logger.info(CLAIMED, self._label, self._stream, _next_after(lowest))

    async def _pause(self, pause_s: float) -> float:
        """Wait until the next look, and return the pause after it."""
        is_wanted = self._is_wanted()
        self._poke.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s if is_wanted else LOOK_S):
                await self._poke.wait()
                return FIRST_POLL_S
        return min(pause_s * 1.5, MAX_POLL_S) if is_wanted else FIRST_POLL_S

    def poke(self) -> None:
        """Let a standby look at once, because somebody has begun to wait for an event."""
        self._poke.set()

    # --- being the owner ---------------------------------------------------------------------------------------------

    def keep(self, rows: Callable[[], list[PositionRow]]) -> None:
        """Keep the claim by signs of life, until `stop` or until it is lost. `rows()` returns the rows as they are."""
        self._touching = self._loop.create_task(self._touch(rows))

    def wrote(self) -> None:
        """Note that a transaction has written a row, which is a sign of life as well."""
        self._written_at = self._loop.time()

    def lose(self) -> None:
        """Note that the claim is lost: a transaction has found the row changed."""
        if self.is_owner:
            self.is_owner = False
            self._logger.warning(LOST, self._label, self._stream)
            self._on_lost()

    async def _touch(self, rows: Callable[[], list[PositionRow]]) -> None:
        while self.is_owner:
            left_s = self._written_at + TOUCH_S - self._loop.time()
            if left_s > 0 or not self._is_able():
                await asyncio.sleep(max(left_s, LOOK_S / 4))
                continue
            try:
                await self._sink.touch(self._name, self._version, rows())
                self._outage.works()
                self.wrote()
            except ClaimLost:
                self.lose()
            except Exception as error:
                if not self._sink.is_outage(error):
                    self._on_failed(error)
                    return
                self._outage.failed(f"keeping its claim to stream {self._stream}", error)
                await asyncio.sleep(LOOK_S)

    async def stop(self) -> None:
        """Send no more signs of life. The claim stays until it is released, or until another member takes over."""
        touching, self._touching = self._touching, None
        if touching is not None and touching is not asyncio.current_task():
            touching.cancel()
            await asyncio.wait({touching})
            if not touching.cancelled():
                touching.result()

    async def release(self, rows: list[PositionRow]) -> None:
        """Let a standby take the rows over at once. Takes at most 2 s, and raises nothing but a cancellation."""
        await self.stop()
        if not self.is_owner:
            return
        self.is_owner = False
        try:
            async with asyncio.timeout(RELEASE_S):
                await self._sink.release(self._name, self._version, rows)
        except Exception as error:
            self._logger.warning(NOT_RELEASED, self._label, self._stream, STALE_S, error)


def _next_after(up_to: UpTo) -> str:
    """Return the place of the next event, as messages show it."""
    return f"{up_to.sequence}.{up_to.index + 1}" if up_to.is_part else str(up_to.sequence + 1)
