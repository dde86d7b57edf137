"""Reads a stream for a projection while this member owns its rows, and splits the events into lanes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import cast

from eda._event import Event
from eda.deadline import CANCELLED_WAIT_S, Deadline
from eda.errors import Closed
from eda.handling._ledger_ordered import OrderedLedger
from eda.log import with_fields
from eda.projections.lane import Lane
from eda.projections.lane_host import LaneHost
from eda.projections.lane_keys import lane_picker
from eda.projections.options import ProjectionOptions
from eda.projections.sink import WHOLE, PositionRow, UpTo, lowest_up_to
from eda.subscribing.ordered_source import OrderedSource
from eda.subscribing.services import Services
from eda.subscribing.spec import SubscriptionSpec
from eda.subscribing.subscription import Subscription

__all__ = ["PartGone", "Reading", "Rewound"]

KEEPS_S = 1.0  # of the time for closing, this is kept for what follows the transactions
SUBSCRIPTION_CLOSE_S = 2.0


class Rewound(Exception):
    """The stream has lost its end, so the position must be checked again."""


class PartGone(Exception):
    """The pack of which a part is applied was not delivered, and a later message was."""


class Reading:
    """One period in which this member reads a stream and applies it.

    `rows` are the claimed rows, one for each lane. `on_user_code()` is called in each task that runs functions of
    the user. With `skips_part`, it begins after a pack of which a part is applied: the rest is not for this projection.
    """

    def __init__(
        self,
        services: Services,
        stream: str,
        options: ProjectionOptions,
        rows: list[PositionRow],
        new_host: Callable[[Subscription], LaneHost],
        on_user_code: Callable[[], None],
        *,
        skips_part: bool = False,
    ) -> None:
        lowest = lowest_up_to(rows)
        if skips_part:
            lowest = replace(lowest, time=lowest.stored_ns)
        spec = SubscriptionSpec(
            stream,
            options.subscription_name,
            is_durable=False,
            is_ordered=True,
            options=options.subscription(lowest.whole + 1),
            # An event that was not asked for may be noticed after later ones are applied. A projection can't go back.
            asks_bare=True,
            part=(lowest.index + 1, lowest.sequence, lowest.stored_ns) if lowest.is_part else (0, 0, 0),
        )
        self._logger = with_fields(services.logger, eda_stream=stream, eda_projection=options.subscription_name)
        self._label = options.label
        self._stream = stream
        self._on_user_code = on_user_code
        self.subscription: Subscription = Subscription(services, spec, self._receive, _nothing, _nothing)
        self.subscription._life_level = logging.DEBUG  # the projection's own lines say that it begins and ends
        self.subscription.on_rewound = lambda: self._end(Rewound())
        self._source = cast("OrderedSource", self.subscription._pipeline.source)
        self._source.on_part_gone = self.part_is_gone
        self._dispatcher = self.subscription._dispatcher
        self._ledger = cast("OrderedLedger", self._dispatcher.ledger)
        host = new_host(self.subscription)
        self._key_errors = host.key_errors
        self.lanes: list[Lane] = [Lane(host, row, options.chunk) for row in sorted(rows, key=lambda row: row.lane)]
        self._lane_of = lane_picker(options.key, options.lanes) if options.lanes > 1 else None
        self._read_to = lowest
        self._tasks: list[asyncio.Task[None]] = []
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # --- positions ---------------------------------------------------------------------------------------------------

    @property
    def rows(self) -> list[PositionRow]:
        """Return the rows of the lanes as they are stored."""
        return [lane.applying.row for lane in self.lanes]

    @property
    def position(self) -> UpTo:
        """Return up to which event all are applied or passed, as far as the stream was read."""
        busy = [lane.position for lane in self.lanes if not lane.is_idle]
        if busy:
            return min(busy, key=UpTo.place_of)
        lowest = min((lane.position for lane in self.lanes), key=UpTo.place_of)
        return max(self.read_to, lowest, key=UpTo.place_of)

    @property
    def read_to(self) -> UpTo:
        """Return up to which event the lanes have got everything.

        The lanes got no event that the filter leaves out, that can't be read, or that was replayed for others.
        """
        if (self._dispatcher.position, WHOLE) > self._read_to.place and not self._ended.done():
            return UpTo(self._dispatcher.position, 0, self._dispatcher.position_ns)
        return self._read_to

    @property
    def received_to(self) -> int:
        """Return the sequence up to which this process has received the stream, applied or not."""
        return max(self._dispatcher.highest, self._read_to.whole)

    @property
    def is_idle(self) -> bool:
        """Return whether all that was read is applied."""
        return self._dispatcher.n_held == 0 and all(lane.is_idle for lane in self.lanes)

    @property
    def is_applying(self) -> bool:
        """Return whether a function of the user may run."""
        return any(lane.applying.moving.is_moving for lane in self.lanes)

    def pass_to(self, up_to: UpTo) -> None:
        """Move the rows of all lanes over messages that are not for them; everything before is applied."""
        self._read_to = max(self._read_to, up_to, key=UpTo.place_of)
        for lane in self.lanes:
            lane.pass_to(up_to)

    def pass_idle_lanes(self) -> None:
        """Move the rows of idle lanes up to what was read. The other lanes may be busy."""
        up_to = self.read_to
        for lane in self.lanes:
            if lane.is_idle:
                lane.pass_to(up_to)

    def note_commits(self) -> None:
        """Note what is committed until now. The sink may have committed more than this process has noted."""
        for lane in self.lanes:
            lane.applying.moving.note_commits()

    # --- the subscription's handler ----------------------------------------------------------------------------------

    async def _receive(self, events: list[Event]) -> None:
        if self._ended.done():
            return  # the ledger may have forgotten these events; the rows say what is read next
        times = self._ledger.stored_times(events)
        last = events[-1]
        is_part = not self._ledger.ends_message(last)
        read_to = UpTo(last.sequence, last.index, -times[-1] if is_part else times[-1])
        if self._lane_of is None:
            times[-1] = read_to.time
            await self._put(self.lanes[0], events, times)
        else:
            parts: dict[int, tuple[list[Event], list[int]]] = {}
            lane_of = self._lane_of
            for event, time in zip(events, times, strict=True):
                try:
                    lane = lane_of(event)
                except Exception as error:
                    self._key_errors[event.sequence, event.index] = error
                    lane = 0
                part = parts.setdefault(lane, ([], []))
                part[0].append(event)
                part[1].append(time)
            for number, (of_lane, its_times) in parts.items():
                if is_part and of_lane[-1].sequence == last.sequence:
                    its_times[-1] = -its_times[-1]
                await self._put(self.lanes[number], of_lane, its_times)
        self._read_to = read_to

    async def _put(self, lane: Lane, events: list[Event], times: list[int]) -> None:
        """Put events into a lane, except those that it has applied already."""
        reached = lane.reached.place
        if (events[0].sequence, events[0].index) <= reached:
            new = [number for number, event in enumerate(events) if (event.sequence, event.index) > reached]
            if not new:
                return
            events, times = events[new[0] :], times[new[0] :]
        await lane.put(events, times, self._ledger.size_of(events))

    def part_is_gone(self) -> None:
        """End, because the pack of which a part is applied does not come."""
        self.stop()  # nothing later may be applied before it is known whether the rest of the pack is lost
        self._end(PartGone())

    def _end(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)
            self._ended.exception()  # retrieved, should nobody wait any more

    # --- opening, waiting, closing -----------------------------------------------------------------------------------

    async def open(self) -> None:
        """Begin to read and to apply.

        Raises Rewound if the stream is not the one that was checked, and ConfigError, StreamNotFound, ServerError,
        Timeout, Closed.
        """
        await self.subscription.opened()
        if self._source.created != datetime.fromisoformat(self.rows[0].created):
            raise Rewound  # the stream was made again after its check
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._run(lane), name=f"eda {self._label} {self._stream} lane {number}")
            for number, lane in enumerate(self.lanes)
        ]

    async def _run(self, lane: Lane) -> None:
        self._on_user_code()
        await lane.run()

    async def wait(self) -> None:
        """Wait until it can't go on. Raises the error of a lane or of the subscription, Rewound, or PartGone."""
        ended = asyncio.ensure_future(self.subscription.wait())
        try:
            await asyncio.wait({*self._tasks, ended, self._ended}, return_when=asyncio.FIRST_COMPLETED)
            if self._ended.done():
                self._ended.result()
            for task in (*self._tasks, ended):
                if task.cancelled():
                    raise Closed(f"{self._label}: a task of it was cancelled, and it")
                if task.done():
                    task.result()
        finally:
            ended.cancel()

    def stop(self) -> None:
        """Begin nothing more."""
        self.subscription.stop()
        for lane in self.lanes:
            lane.stop()

    async def close(self, deadline: Deadline) -> None:
        """Finish the transactions under way, drop all other events, and stop reading."""
        self.stop()
        self.subscription.hurry(min(deadline.left_s, SUBSCRIPTION_CLOSE_S))
        closing = self.subscription.begin_close()
        for task, lane in zip(self._tasks, self.lanes, strict=False):
            if not lane.applying.moving.is_moving:
                task.cancel()
        keeps_s = min(KEEPS_S, deadline.left_s / 2)
        late: set[asyncio.Future[None]] = await deadline.wait(self._tasks, keeps_s=keeps_s)
        for each in late:
            each.cancel()
        if late:
            self._logger.warning(
                "%s, stream %s: %d transactions did not end in time, and are given up",
                self._label, self._stream, len(late),
            )  # fmt: skip
            await deadline.wait(late, CANCELLED_WAIT_S, keeps_s=keeps_s / 2)
        await deadline.wait({closing}, SUBSCRIPTION_CLOSE_S, keeps_s=keeps_s / 2)
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.exception()


def _nothing(subscription: Subscription) -> None:
    """Do nothing: the connection does not know this subscription, because the projection closes it."""
