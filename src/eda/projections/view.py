"""`conn.view`: what other processes use of a projection. A view waits and reads positions; it never applies events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, Self

from eda.errors import Closed, ConfigError, Timeout
from eda.projections.outage_log import OutageLog
from eda.projections.progress import Progress, lowest_of
from eda.projections.sink import PositionRow, Sink, ViewVersion
from eda.projections.stats import ProjectionStats
from eda.projections.waiting import Target, target_of, timeout_of
from eda.subscribing.remaining import Remaining
from eda.subscribing.services import Services

__all__ = ["View"]

LOOK_S = 1.0  # between two looks for another current version
FIRST_POLL_S = 0.005  # between two looks while somebody waits; each further pause is longer
MAX_POLL_S = 0.02
GROWTH = 1.2
UNKNOWN_STREAM_S = 2.0  # after this, a stream without rows is one that the projection does not read


class View:
    """The read model of a projection that runs in another process. Made by `Conn.view`; await it or enter it to begin.

    It follows the current version of the projection: `promote` switches all views to another version.
    """

    def __init__(
        self,
        services: Services,
        name: str,
        sink: Sink,
        on_opening: Callable[[View], None] = lambda view: None,
        on_closed: Callable[[View], None] = lambda view: None,
    ) -> None:
        self.name: str = name
        self._sink = sink
        self._progress = Progress(Remaining(services.wire, services.api))
        self._outage = OutageLog(services.logger, f"{name} (a view)", sink.label)
        self._on_opening = on_opening
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._current: ViewVersion | None = None
        self._passed: dict[str, tuple[int, int]] = {}
        self._waiting: dict[asyncio.Future[None], tuple[Target, float]] = {}  # and since when
        self._poke = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._opening: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()
        self._error: Exception | None = None

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "open" if self._looking is not None else "not opened"
        return f"<View {self.name!r} in {self._sink.label}, {state}>"

    @property
    def version(self) -> int | None:
        """Return the current version of the projection, as it was known a second ago; None: no version was opened yet.

        After `wait_for`, it is the version that has applied the event.
        """
        return None if self._current is None else self._current.version

    @property
    def is_closed(self) -> bool:
        """Return whether it is closed."""
        return self._closed.is_set()

    # --- opening and closing -----------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, Self]:
        return self.opened().__await__()

    async def __aenter__(self) -> Self:
        return await self.opened()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def opened(self) -> Self:
        """Open it, unless it is open already. Raises the database's errors, and Closed after `close`."""
        if self._closing is not None:
            raise self._error or Closed(f"view {self.name}")
        if self._opening is None:
            self._on_opening(self)
            self._opening = self._loop.create_task(self._open())
        opening = self._opening
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            if opening.cancelled():
                raise Closed(f"view {self.name}") from None
            self.begin_close()
            raise
        except Exception as error:
            self._error = error
            await self.close()
            raise
        return self

    async def _open(self) -> None:
        await self._sink.open(creates_tables=False)
        await self._look()
        self._looking = self._loop.create_task(self._keep_looking())

    async def close(self) -> None:
        """Let all callers of `wait_for` fail with Closed, and close the connections to the database."""
        await asyncio.shield(self.begin_close())

    def begin_close(self) -> asyncio.Task[None]:
        """Begin to close, and return the task that does it."""
        if self._closing is None:
            self._closing = self._loop.create_task(self._close())
        return self._closing

    async def _close(self) -> None:
        tasks = [task for task in (self._opening, self._looking) if task is not None and not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._end_waiting(self._error or Closed(f"view {self.name}"))
        try:
            await self._sink.close()
        finally:
            self._closed.set()
            self._on_closed(self)

    def _end_waiting(self, error: Exception) -> None:
        for caller in self._waiting:
            if not caller.done():
                caller.set_exception(error)

    async def wait(self) -> None:
        """Wait until the view is closed. If an error has ended it, raise the error."""
        await self.opened()
        await self._closed.wait()
        if self._error is not None:
            raise self._error

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
                    self._error = error
                    self.begin_close()
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
            if passed >= (target.sequence, target.index):
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

    async def wait_for(self, position: object, timeout_s: float = 30.0) -> None:
        """Wait until the current version of the projection has passed an event: a Receipt, or a receipt's `position`.

        "Passed" means applied, or given up: the process that applies the events knows which. The database is asked
        at once, and then every 5 to 20 ms. If another version is promoted meanwhile, that version counts.

        Raises ConfigError for sequence 0, for anything that is not a position, and for a stream that the projection
        does not read. Raises Timeout after `timeout_s` seconds, also if the projection has never run. Raises Closed.
        """
        target, timeout_s = target_of(position), timeout_of(timeout_s)
        await self.opened()
        if self._passed.get(target.stream, (0, 0)) >= (target.sequence, target.index):
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
        event = f"event {target.sequence} of stream {target.stream!r}"
        if self._current is None:
            return f"waiting until projection {self.name!r}, of which no version was opened yet, has applied {event}"
        at = self._passed.get(target.stream)
        how_far = "it has not begun with this stream" if at is None else f"it has applied up to {at[0]}"
        return f"waiting until projection {self.name!r} version {self.version} has applied {event} ({how_far})"

    async def stats(self) -> ProjectionStats:
        """Return how far the current version is. Reads the database and asks for each stream.

        Raises the database's errors, ServerError, Timeout, Closed.
        """
        await self.opened()
        await self._look()
        rows = () if self._current is None else self._current.rows
        return ProjectionStats(self.name, self.version, await self._progress.of(rows))
