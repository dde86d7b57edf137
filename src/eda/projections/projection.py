"""`conn.projection`: applies events to the user's database, exactly once."""

from __future__ import annotations

import asyncio
from typing import Any

from eda.deadline import Deadline
from eda.errors import Closed
from eda.jetstream.stream_info import StreamInfo
from eda.jetstream.subjects import filter_subjects
from eda.life import OnLife
from eda.log import with_fields
from eda.projections.apply_function import Apply
from eda.projections.options import ProjectionOptions
from eda.projections.outage_log import OutageLog
from eda.projections.progress import MAX_LAG, Progress, check_lag, max_lag_of
from eda.projections.side import Side
from eda.projections.sink import Sink
from eda.projections.sink_users import close_sink, open_sink
from eda.projections.stats import ProjectionStats, StreamProgress
from eda.projections.stream_runner import Around, StreamRunner
from eda.projections.waiting import Waiters, target_of, timeout_of
from eda.receipt import Receipt
from eda.subscribing.condition import asked_subjects
from eda.subscribing.filters import server_filter
from eda.subscribing.lag import Lags
from eda.subscribing.remaining import Remaining
from eda.subscribing.services import Services

__all__ = ["Projection"]

KEEPS_S = 4.0  # beyond a transaction's longest time, for releasing the rows


class Projection(Side):
    """Applies the events of streams to the user's database. Made by `Conn.projection`; await it or enter it to begin.

    The position changes in the same transaction as the rows, so each event is applied exactly once. If several
    processes open the same projection, one of them applies a stream, and the others stand by for it.

    Leaving the `async with` block closes it. If an error has ended the projection, leaving the block raises the error,
    as `wait` does. If the block is cancelled, closing takes at most 2 s.
    """

    _health_group = "projections"
    _has_lags = True

    def __init__(
        self,
        services: Services,
        options: ProjectionOptions,
        apply: Apply,
        sink: Sink,
        around: Around | None,
        on_opening: OnLife,
        on_closed: OnLife,
    ) -> None:
        logger = with_fields(services.logger, eda_projection=options.subscription_name)
        super().__init__(options.label, logger, on_opening, on_closed)
        self.streams: tuple[str, ...] = options.streams
        self.name: str = options.name
        self.version: int = options.version
        self._options = options
        self._sink = sink
        self._services = services
        self._progress = Progress(Remaining(services.wire, services.api))
        self._is_sink_open = False
        self._outages = OutageLog(self._logger, options.subscription_name, sink.label)
        self._waiters = Waiters(options.name, options.version, options.streams, self._on_wanted)
        self._runners = {
            stream: StreamRunner(
                services,
                stream,
                options,
                sink,
                apply.call,
                self._waiters,
                self._outages,
                around,
                self._note_user_code,
                self._end,
            )
            for stream in options.streams
        }

    # --- waiting -----------------------------------------------------------------------------------------------------

    async def wait_for(self, position: Receipt | tuple[str, int, int], timeout_s: float = 30.0) -> None:
        """Wait until the projection has passed an event: it is applied, and committed.

        `position`: the receipt of a publish, or its `position`. Raises ConfigError for a stream that the projection
        does not read; NotApplied if this process has given the event up, and it is a dead letter; Timeout after
        `timeout_s`; the error that ends the projection; Closed.
        """
        target, timeout_s = target_of(position), timeout_of(timeout_s)
        await self.opened()
        await self._waiters.wait(target, timeout_s)

    def _on_wanted(self, stream: str) -> None:
        self._runners[stream].on_wanted()

    # --- progress ----------------------------------------------------------------------------------------------------

    async def stats(self) -> ProjectionStats:
        """Return how far the projection is, and what this process has done for it.

        It asks the server for each stream, and the database where another process applies a stream. Raises ServerError,
        Timeout, Closed, and the database's errors.
        """
        await self._in_use()
        runners = self._runners.values()
        counts = [runner.counts for runner in runners]
        return ProjectionStats(
            name=self.name,
            version=self.version,
            streams=await self._stream_progress(),
            transactions=sum(each.transactions for each in counts),
            applied=sum(each.applied for each in counts),
            failed=sum(each.failed for each in counts),
            dead_lettered=sum(each.dead for each in counts),
            active=all(runner.reading is not None for runner in runners),
        )

    async def _stream_progress(self) -> tuple[StreamProgress, ...]:
        rows = [row for each in self._runners.values() for row in await each.rows()]
        return await self._progress.of(rows, self._server_filter)

    def _server_filter(self, info: StreamInfo) -> list[str]:
        wanted = filter_subjects(info.name, self._options.types, self._options.aggregate)
        return server_filter(info, wanted, filters_reliably=True)

    async def promote(self, *, max_lag: int | None = MAX_LAG) -> bool:
        """Let views read this version, in one transaction. Return whether they read another version before.

        Raises ConfigError while the version has more than `max_lag` events of a stream to apply (None: any number),
        with the numbers. Raises ServerError, Timeout, Closed, and the database's errors.
        """
        max_lag = max_lag_of(max_lag)
        await self._in_use()
        if max_lag is not None:
            check_lag(self.name, self.version, await self._stream_progress(), max_lag)
        return await self._sink.promote(self.name, self.version)

    def _condition(self) -> dict[str, Any]:
        """Return what a health check says about it; see `conn.health`."""
        streams = [
            {"stream": name, "state": each.state, "lag": None, "lag_s": None} for name, each in self._runners.items()
        ]
        counts = [runner.counts for runner in self._runners.values()]
        return super()._condition() | {
            "name": self.name,
            "version": self.version,
            "streams": streams,
            "applied": sum(each.applied for each in counts),
            "failed": sum(each.failed for each in counts),
        }

    async def _lags(self) -> dict[str, Any]:
        """Return the lags of the streams that this member applies. The database is not asked."""
        wire, api = self._services.wire, self._services.api
        lags = Lags(wire, api)
        streams: list[dict[str, Any]] = self._condition()["streams"]
        for each in streams:
            reading = self._runners[each["stream"]].reading
            if reading is not None:
                wanted = filter_subjects(each["stream"], self._options.types, self._options.aggregate)
                with wire.may_be_forbidden.during(asked_subjects(api.prefix, each["stream"])):
                    lag = await lags.of_position(each["stream"], reading.position.whole, wanted)
                each["lag"], each["lag_s"] = lag.events, lag.seconds
        return {"streams": streams}

    # --- opening and closing -----------------------------------------------------------------------------------------

    async def _open(self) -> None:
        self._is_sink_open = True
        await open_sink(self._sink)
        # A standby must be able to open while a frozen owner holds a lock, so nothing is written that need not be.
        if await self._sink.current(self.name) is None:
            await self._sink.promote(self.name, self.version, only_first=True)
        opening = [asyncio.ensure_future(runner.open()) for runner in self._runners.values()]
        try:
            await asyncio.gather(*opening)
        finally:
            for each in opening:
                each.cancel()
            await asyncio.gather(*opening, return_exceptions=True)

    def stop(self) -> None:
        """Begin no transaction any more. `close` does the rest."""
        for runner in self._runners.values():
            runner.stop()

    @property
    def _is_busy(self) -> bool:
        return any(runner.is_applying for runner in self._runners.values())

    async def _close(self, deadline: Deadline) -> None:
        if deadline.left_s > self._options.timeout_s:
            deadline.shorten(self._options.timeout_s + KEEPS_S)
        await asyncio.gather(*(runner.close(deadline) for runner in self._runners.values()))
        self._waiters.end(self._error or Closed(self._label))
        if self._is_sink_open:
            self._is_sink_open = False
            await deadline.run(close_sink(self._sink))
