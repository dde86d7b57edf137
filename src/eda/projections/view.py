"""`conn.view`: what other processes use of a projection. A view waits and reads positions; it never applies events."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from eda.deadline import Deadline
from eda.errors import Closed, ConfigError, Timeout
from eda.life import Life, OnLife
from eda.log import with_fields
from eda.projections.outage_log import OutageLog
from eda.projections.progress import Progress, lowest_of
from eda.projections.side import Side
from eda.projections.sink import PositionRow, Sink, ViewVersion, place_text
from eda.projections.sink_users import close_sink, open_sink
from eda.projections.stats import ProjectionStats
from eda.projections.waiting import Target, target_of, timeout_of
from eda.receipt import Receipt
from eda.subscribing.remaining import Remaining
from eda.subscribing.services import Services

__all__ = ["View"]

LOOK_S = 1.0  # between two looks for another current version
FIRST_POLL_S = 0.005  # between two looks while somebody waits; each further pause is longer
MAX_POLL_S = 0.02
GROWTH = 1.2
UNKNOWN_STREAM_S = 2.0  # after this, a stream without rows is one that the projection does not read


def _nothing(view: Life) -> None:
    pass


class View(Side):
    """The read model of a projection that runs in another process. Made by `Conn.view`; await it or enter it to begin.

    It follows the current version of the projection: `promote` switches all views to another version.
    """

    _health_group = "views"

    def __init__(
        self, services: Services, name: str, sink: Sink, on_opening: OnLife = _nothing, on_closed: OnLife = _nothing
    ) -> None:
        logger = with_fields(services.logger, eda_projection=name)
        super().__init__(f"view {name!r}", logger, on_opening, on_closed)
        self.name: str = name
        self._sink = sink
        self._progress = Progress(Remaining(services.wire, services.api))
        self._outage = OutageLog(self._logger, self._label, sink.label)
        self._current: ViewVersion | None = None
        self._passed: dict[str, tuple[int, int]] = {}
        self._waiting: dict[asyncio.Future[None], tuple[Target, float]] = {}  # and since when
        self._poke = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._is_sink_open = False

    @property
    def version(self) -> int | None:
        """Return the current version of the projection, as it was known a second ago; None: no version was opened yet.

        After `wait_for`, it is the version that has applied the event.
        """
        return None if self._current is None else self._current.version

    def _condition(self) -> dict[str, Any]:
        """Return what a health check says about it; see `conn.health`."""
        condition = super()._condition() | {"name": self.name, "version": self.version}
        return condition | ({"state": "no_database"} if self._stage == "open" and self._outage.is_failing else {})

    # --- opening and closing -----------------------------------------------------------------------------------------

    async def _open(self) -> None:
        self._is_sink_open = True
        await open_sink(self._sink, creates_tables=False)
        await self._look()
        self._looking = self._loop.create_task(self._keep_looking(), name=f"eda looks after {self._label}")

    async def _close(self, deadline: Deadline) -> None:
        looking = self._looking
        if looking is not None and looking is not asyncio.current_task():
            looking.cancel()
            await deadline.wait({looking})
        for caller in self._waiting:
            if not caller.done():
                caller.set_exception(self._error or Closed(self._label))
        if self._is_sink_open:
            self._is_sink_open = False
            await deadline.run(close_sink(self._sink))

    # --- looking -----------------------------------------------------------------------------------------------------

    async def _keep_looking(self) -> None:
        pause_s = FIRST_POLL_S
        while True:
            self._poke.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s if self._waiting else LOOK_S):
                    await self._poke.wait()
                    pause_s = FIRST_POLL_S
            try:
                await self._look()
                self._outage.works()
            except Exception as error:
                if not self._sink.is_outage(error):
                    self._end(error)
                    return
                self._outage.failed("reading the positions of a view", error)
                await asyncio.sleep(LOOK_S / 10)
            pause_s = min(pause_s * GROWTH, MAX_POLL_S)

    async def _look(self) -> None:
        """Read the current version and its positions, and resolve the callers whose events were passed."""
        versions = await self._sink.versions(self.name)
        self._current = next((each for each in versions if each.is_current), None)
        rows: tuple[PositionRow, ...] = () if self._current is None else self._current.rows
        self._passed = lowest_of(rows)
        for caller, (target, since) in self._waiting.items():
            passed = self._passed.get(target.stream, (0, 0))
            if caller.done():
                continue
            if passed >= target.place:
                caller.set_result(None)
            elif self._passed and target.stream not in self._passed and self._loop.time() - since > UNKNOWN_STREAM_S:
                caller.set_exception(self._does_not_read(target.stream))

    def _does_not_read(self, stream: str) -> ConfigError:
        return ConfigError(
            f"projection {self.name!r} version {self.version} does not read stream {stream!r}; it reads "
            f"{', '.join(sorted(self._passed))}",
            argument="position",
        )

    # --- reading -----------------------------------------------------------------------------------------------------

    async def wait_for(self, position: Receipt | tuple[str, int, int], timeout_s: float = 30.0) -> None:
        """Wait until the current version of the projection has passed an event: a Receipt, or a receipt's `position`.

        "Passed" means applied, or given up: the process that applies the events knows which. The database is asked
        at once, and then every 5 to 20 ms. If another version is promoted meanwhile, that version counts.

        Raises ConfigError for sequence 0, for anything that is not a position, and for a stream that the projection
        does not read. Raises Timeout after `timeout_s` seconds, also if the projection has never run. Raises Closed.
        """
        target, timeout_s = target_of(position), timeout_of(timeout_s)
        await self._in_use()
        if self._passed.get(target.stream, (0, 0)) >= target.place:
            return
        caller: asyncio.Future[None] = self._loop.create_future()
        self._waiting[caller] = target, self._loop.time()
        self._poke.set()
        try:
            async with asyncio.timeout(timeout_s):
                await caller
        except TimeoutError as error:
            raise Timeout(self._waited_for(target), timeout_s) from error
        finally:
            del self._waiting[caller]
            if not caller.cancel() and not caller.cancelled():
                caller.exception()  # retrieved, also if this task was cancelled in the same turn of the loop

    def _waited_for(self, target: Target) -> str:
        event = f"event {target.text} of stream {target.stream!r}"
        if self._current is None:
            return f"waiting until projection {self.name!r}, of which no version was opened yet, has applied {event}"
        at = self._passed.get(target.stream)
        how_far = "it has not begun with this stream" if at is None else f"it has applied up to {place_text(at)}"
        return f"waiting until projection {self.name!r} version {self.version} has applied {event} ({how_far})"

    async def stats(self) -> ProjectionStats:
        """Return how far the current version is. Reads the database and asks for each stream.

        Raises the database's errors, ServerError, Timeout, Closed.
        """
        await self._in_use()
        await self._look()
        rows: tuple[PositionRow, ...] = () if self._current is None else self._current.rows
        return ProjectionStats(self.name, self.version, await self._progress.of(rows))
