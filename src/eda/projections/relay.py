"""`conn.relay`: publishes the rows of an outbox and deletes those that the streams have acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from eda.deadline import Deadline
from eda.errors import ConfigError
from eda.life import OnLife
from eda.log import with_fields
from eda.projections.outbox import Outbox
from eda.projections.outbox_cursor import OutboxRow
from eda.projections.outbox_rows import Journal, OutboxRows
from eda.projections.relay_host import RelayCounts, RelayHost
from eda.projections.relay_signals import Signals, signals_for
from eda.projections.relay_stream import RelayStream
from eda.projections.side import Side
from eda.projections.sink import CommitUnknown
from eda.projections.sink_users import close_sink, open_sink
from eda.publishing.publisher import Publisher
from eda.subscribing.services import Services

__all__ = ["Relay", "RelayStats"]

CHUNK = 4000  # rows
MAX_TAKEN = 20_000  # rows that are read and not deleted yet, of all streams
MAX_BLOCKED = (
    1000  # refused rows and aggregates of a stream; with more, nothing of the stream is read until the next try
)
STUCK_S = 1.0  # a stream that takes no rows for this long holds up no other streams
POLL_S = 5.0  # without a signal
STALL_POLLS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # while open transactions hold rows back
STALL_S = 5.0  # after this time, the log says which transaction it is
STANDBY_S = 0.5
MEASURE_S = 5.0
PAUSES_S = (0.1, 0.2, 0.5, 1.0, 2.0)  # while the database does not work
LOG_EVERY_S = 60.0
CLOSE_S = 10.0  # for the chunks that are being published
KEPT_SHARE = 0.2  # of the time for closing, for the connections to the database

STANDS_BY = "outbox %s: another relay is active, and this one stands by"
ACTIVE = "outbox %s: this relay is active"
OUTAGE = "outbox %s: the database %s failed; the relay tries again until it works: %s"
STALLED = (
    "outbox %s: rows can't be published for %.0f s now, because a transaction is open in this PostgreSQL server: "
    "process %s, application %r, state %s, open for %s s"
)


@dataclass(frozen=True)
class RelayStats:
    """What a relay has done since it was opened, in events, and how many rows wait."""

    sent: int
    """given to publishers; an event that is sent again counts again"""
    acknowledged: int
    """stored by their streams"""
    found: int
    """found in their streams after a crash or an outage, and not sent again"""
    refused: int
    """refusals by streams. A row that is tried again counts again"""
    dead: int
    """moved to the table of dead rows"""
    waiting: int
    """rows in the table at the last look, which is at most some seconds old. It counts no more than 100,000"""
    oldest_s: float
    """the age of the oldest of these rows in seconds, at the last look"""
    active: bool
    """whether this relay publishes. False: another one does, or the database can't be reached"""


class Relay(Side):
    """Publishes the events of an outbox. Made by `Conn.relay`. Await it or enter it with `async with` to begin.

    Of all relays of an outbox, in whatever process, one is active; the others stand by.
    """

    _health_group = "relays"

    def __init__(
        self,
        services: Services,
        new_publisher: Callable[..., Publisher],
        outbox: Outbox,
        *,
        refused: Literal["block", "dead"] = "block",
        on_opening: OnLife = lambda relay: None,
        on_closed: OnLife = lambda relay: None,
    ) -> None:
        if not isinstance(outbox, Outbox):
            raise ConfigError(f"outbox must be an eda.sql.Outbox, not {type(outbox).__name__}", argument="outbox")
        if refused not in ("block", "dead"):
            raise ConfigError(f"refused must be 'block' or 'dead', not {refused!r}", argument="refused")
        logger = with_fields(services.logger, eda_outbox=outbox.table)
        super().__init__(f"the relay of outbox {outbox.table!r}", logger, on_opening, on_closed)
        self._outbox = outbox
        self._database = outbox.into.database
        self._table = outbox.statements(self._database.dialect)
        self._signals: Signals = signals_for(outbox.into, self._table)
        self._counts = RelayCounts()
        self._host = RelayHost(
            table=outbox.table,
            services=services,
            rows=OutboxRows(self._database, self._table),
            new_publisher=new_publisher,
            buries=refused == "dead",
            counts=self._counts,
            look=asyncio.Event(),
        )
        self._streams: dict[str, RelayStream] = {}
        self._group: asyncio.TaskGroup
        self._is_active = False
        self._is_failing = False  # whether the database failed, and has not worked since
        self._is_closing = asyncio.Event()
        self._waiting, self._oldest_s = 0, 0.0
        self._has_left_out = False  # whether the last read has left out rows that may be there
        self._n_outages = 0
        self._logged_at = float("-inf")
        self._stalled_at: float | None = None
        self._stall_logged_at = float("-inf")
        self._main: asyncio.Task[None] | None = None
        self._has_signals = False  # whether they are open for the next session

    # --- opening and closing -----------------------------------------------------------------------------------------

    async def _open(self) -> None:
        await open_sink(self._outbox.into, creates_tables=False)
        # Each of them opens a connection. All have ended when the first error is raised.
        opening = (self._host.rows.create(), self._host.rows.blocker(), self._signals.open())
        for ended in await asyncio.gather(*opening, return_exceptions=True):
            if isinstance(ended, BaseException):
                raise ended
        self._has_signals = True
        self._main = self._loop.create_task(self._run(), name=f"eda runs {self._label}")
        self._main.add_done_callback(self._on_ended)

    def stop(self) -> None:
        """Begin no chunk any more. `close` does the rest."""
        self._is_closing.set()
        self._host.look.set()

    async def _close(self, deadline: Deadline) -> None:
        """Stop reading rows, and wait for those that are being published.

        Rows whose outcome is not known by then stay in the table, and the next relay finds out about them.
        """
        try:
            if self._main is not None:
                await deadline.wait({self._main}, CLOSE_S, keeps_s=deadline.left_s * KEPT_SHARE)
                self._main.cancel()
                await asyncio.wait({self._main})
        finally:
            try:
                await self._signals.close()
            finally:
                await close_sink(self._outbox.into)

    def _on_ended(self, main: asyncio.Task[None]) -> None:
        error = None if main.cancelled() else main.exception()
        if isinstance(error, Exception):
            self._end(error)

    def stats(self) -> RelayStats:
        """Return the current counts."""
        counts = self._counts
        return RelayStats(
            sent=counts.sent,
            acknowledged=counts.acknowledged,
            found=counts.found,
            refused=counts.refused,
            dead=counts.buried,
            waiting=self._waiting,
            oldest_s=self._oldest_s,
            active=self._is_active,
        )

    def _condition(self) -> dict[str, Any]:
        """Return what a health check says about it; see `conn.health`."""
        condition = super()._condition() | {"name": self._outbox.table, **vars(self.stats())}
        if self._stage == "open":
            condition["state"] = "no_database" if self._is_failing else "active" if self._is_active else "standby"
        return condition

    # --- its life ----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._is_closing.is_set():
            try:
                await self._session()
            except Exception as error:
                cause = _first(error)
                if not (self._outbox.into.is_outage(cause) or isinstance(cause, CommitUnknown)):
                    raise cause from None
                await self._pause(cause)

    async def _pause(self, error: BaseException) -> None:
        self._is_failing = True
        now = self._loop.time()
        if now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            self._logger.warning(OUTAGE, self._outbox.table, self._database.label, error)
        pause_s = PAUSES_S[min(self._n_outages, len(PAUSES_S) - 1)]
        self._n_outages += 1
        with suppress(TimeoutError):
            await asyncio.wait_for(self._is_closing.wait(), pause_s)

    async def _session(self) -> None:
        """Publish until the relay is closed or the database fails, with one connection that holds the lock."""
        try:
            if not self._has_signals:
                await self._signals.open()
            self._has_signals = False
            if not await self._become_active():
                return
            journals = await self._host.rows.journal()
            self._is_active, self._n_outages = True, 0
            self._logger.info(ACTIVE, self._outbox.table)
            self._host.taken.clear()
            self._host.cursor.reset()
            self._streams.clear()
            async with asyncio.TaskGroup() as self._group:
                for journal in journals:
                    self._stream(journal.stream, journal)
                helpers = [self._group.create_task(self._listen()), self._group.create_task(self._measure())]
                await self._read()
                for stream in self._streams.values():
                    stream.end()
                for task in helpers:
                    task.cancel()
        finally:
            self._is_active = False
            await self._signals.close()

    async def _become_active(self) -> bool:
        """Wait until this relay holds the lock; return False if it is closed before."""
        stands_by = False
        while not self._is_closing.is_set():
            is_locked = await self._signals.lock()
            self._is_failing = False
            if is_locked:
                return True
            if not stands_by:
                stands_by = True
                self._logger.info(STANDS_BY, self._outbox.table)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_closing.wait(), STANDBY_S)
        return False

    async def _listen(self) -> None:
        while True:
            await self._signals.wait(POLL_S)
            self._host.look.set()

    async def _measure(self) -> None:
        while True:
            self._waiting, self._oldest_s = await self._host.rows.measure()
            await asyncio.sleep(MEASURE_S)

    def _stream(self, name: str, journal: Journal | None = None) -> RelayStream:
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = RelayStream(self._host, name, journal)
            self._group.create_task(stream.run())
        return stream

    # --- reading -----------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Read the next rows and offer them to their streams, until the relay is closed."""
        look = self._host.look
        n_stalls = 0
        while not self._is_closing.is_set():
            look.clear()
            rows, wait_s = await self._next_rows()
            ready = rows
            if not all(row.is_ready for row in rows):
                # The order is that of the serials: nothing overtakes a row that is not ready.
                ready = rows[: next(number for number, row in enumerate(rows) if not row.is_ready)]
                wait_s = min(wait_s, STALL_POLLS_S[min(n_stalls, len(STALL_POLLS_S) - 1)])
                n_stalls = 0 if ready else n_stalls + 1
                await self._note_stall(self._loop.time(), is_stalled=not ready)
            else:
                n_stalls = 0
                await self._note_stall(self._loop.time(), is_stalled=False)
                if not (rows or self._host.taken or self._has_left_out):
                    self._waiting, self._oldest_s = 0, 0.0
            if ready:
                continue  # there may be more
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await look.wait()

    async def _next_rows(self) -> tuple[list[OutboxRow], float]:
        """Read rows and offer those that are ready. Return all, and for how long the relay may wait for a signal."""
        now = self._loop.time()
        wait_s = POLL_S
        host = self._host
        serials, keys, names = [], [], []
        for name, stream in self._streams.items():
            paused_s = stream.paused_s(now)
            if stream.is_full or paused_s:
                names.append(name)
                stream.was_full = stream.is_full
                wait_s = min(wait_s, paused_s or POLL_S)
                continue
            their_serials, their_keys, retry_s = stream.refused.blocked(now)
            wait_s = min(wait_s, retry_s)
            if len(their_serials) + len(their_keys) > MAX_BLOCKED:
                names.append(name)
            else:
                serials += their_serials
                keys += their_keys
        full_since = min((stream.full_since for stream in self._streams.values()), default=float("inf"))
        if len(self._host.taken) >= MAX_TAKEN or 0 <= now - full_since < STUCK_S:
            # The database would search its table for rows of other streams, which takes long if there are none.
            for stream in self._streams.values():
                stream.was_full = True
            return [], min(wait_s, STUCK_S)
        leaves_out = bool(names or keys or serials)
        self._has_left_out = leaves_out or bool(host.taken)
        if leaves_out:
            host.cursor.reset()
        if not host.cursor.serial:
            serials += host.taken
        generations = {name: stream.generation for name, stream in self._streams.items()}
        n_given_back = host.n_given_back
        rows = await host.rows.read(CHUNK, host.cursor, serials=serials, streams=names, keys=keys)
        if not leaves_out and n_given_back == host.n_given_back:
            host.cursor.advance(rows, host.taken)
        by_stream: dict[str, list[OutboxRow]] = {}
        for row in rows:
            if not row.is_ready:
                break
            by_stream.setdefault(row.stream, []).append(row)
        for name, theirs in by_stream.items():
            stream = self._stream(name)
            if stream.generation == generations.get(name, 0):
                stream.offer(theirs)
            else:
                host.gave_back({row.serial for row in theirs})
        return rows, wait_s

    async def _note_stall(self, now: float, *, is_stalled: bool) -> None:
        """Log which transaction holds rows back, if it does so for long."""
        if not is_stalled:
            self._stalled_at = None
            return
        if self._stalled_at is None:
            self._stalled_at = now
        stalled_s = now - self._stalled_at
        if stalled_s < STALL_S or now - self._stall_logged_at < LOG_EVERY_S:
            return
        blocker = await self._host.rows.blocker()
        if blocker is not None:
            self._stall_logged_at = now
            process = "none (a prepared transaction)" if blocker.pid is None else blocker.pid
            age_s = "?" if blocker.age_s is None else round(blocker.age_s)
            self._logger.warning(
                STALLED, self._outbox.table, stalled_s, process, blocker.application, blocker.state, age_s
            )


def _first(error: BaseException) -> BaseException:
    """Return the first error in a group of errors, or the error itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
