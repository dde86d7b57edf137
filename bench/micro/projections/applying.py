"""From bytes to the projection's function and back, without a server, beside a handler of the same lists.

The sink does nothing but call `apply`, which does nothing: what the projection itself costs is left. Both run in an
event loop, whose turns are counted as well.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import eda
from eda.handling._dispatch import Dispatcher
from eda.projections.lane import Lane
from eda.projections.lane_host import Counts, LaneHost
from eda.projections.options import DEFAULT_RETRY, ProjectionOptions
from eda.projections.outage_log import OutageLog
from eda.projections.reading import Reading
from eda.projections.sink import PositionRow, UpTo
from eda.transport._frame import Parser
from eda.transport._outbound import Outbound
from micro import Maker, Round
from micro.handling.dispatch import frames_of, make_event

__all__ = ["CONTENDERS", "N_EVENTS"]

N_EVENTS = 2000
BATCH = 500
Receive = Callable[[list[eda.Event]], Any]

_tasks: list[asyncio.Task[None]] = []


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """Return the loop of all rounds. It is closed when the process ends."""
    loop = asyncio.new_event_loop()

    async def end() -> None:
        for task in _tasks:
            task.cancel()
        await asyncio.gather(*_tasks, return_exceptions=True)

    def close() -> None:
        loop.run_until_complete(end())
        loop.close()

    atexit.register(close)
    return loop


class _Host:
    """The host and source of a dispatcher without a server."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.make_future = loop.create_future

    def pull(self, n: int, n_bytes: int) -> None:
        """There is nobody to ask."""

    def on_progress(self) -> None:
        """There is no cursor."""


class _Nothing:
    """A sink that calls the work, and stores nothing."""

    async def move(
        self, name: str, version: int, row: PositionRow, *, sequence: int, index: int, time: int, work: Any, **_: Any
    ) -> PositionRow:
        work(None)
        return PositionRow(row.stream, row.lane, row.created, sequence, index, time, row.owner_epoch, 0.0)


def apply(events: list[eda.Event], tx: None) -> None:
    """Read nothing."""


def _round(new_receive: Callable[[Dispatcher, Callable[[int], None]], tuple[Receive, Callable[[], None]]]) -> Round:
    """Return a round of a dispatcher whose handler gets lists.

    `new_receive` is given the dispatcher, and what is to be told how far the handler has got. It returns the handler,
    and what has it begin anew.
    """
    loop = _loop()
    out = Outbound(lambda: None)
    out.set_write(lambda _: None)
    parser = Parser()
    data = frames_of([make_event(n) for n in range(N_EVENTS)])
    host: Any = _Host(loop)
    reached: asyncio.Future[int] = loop.create_future()

    async def receive(events: list[eda.Event]) -> None:
        await inner(events)

    def on_reached(sequence: int) -> None:
        if sequence == N_EVENTS:
            reached.set_result(sequence)

    dispatcher = Dispatcher(
        host, host, receive, out, stream="consume", consumer="me", inbox=b"_INBOX.me.", limit=4096,
        limit_bytes=1 << 30, batch=BATCH, timeout_s=1e9, ordered=True, serial=True,
    )  # fmt: skip
    parser.register(1, dispatcher.intake)

    async def begin() -> tuple[Receive, Callable[[], None]]:
        _tasks.append(loop.create_task(dispatcher.work(0)))
        return new_receive(dispatcher, on_reached)

    async def go() -> int:
        nonlocal reached
        reached = loop.create_future()
        again()
        dispatcher.begin_at(0)
        dispatcher.intake.use_reader("me", 0)
        parser.feed(data)
        return await reached

    inner, again = loop.run_until_complete(begin())
    return Round(lambda: loop.run_until_complete(go()), N_EVENTS)


def eda_project() -> Round:
    """Apply the lists by the lane of a projection."""
    options = ProjectionOptions(
        streams=("consume",), name="list", version=1, types=None, aggregate=None, key=None, lanes=1, batch=BATCH,
        linger_s=0.0, retry=DEFAULT_RETRY, dead_letter=None, timeout_s=30.0,
    )  # fmt: skip

    def new_receive(dispatcher: Dispatcher, on_reached: Callable[[int], None]) -> tuple[Receive, Callable[[], None]]:
        sink, unused = cast("Any", _Nothing()), cast("Any", None)
        outages = OutageLog(logging.getLogger("bench"), "list-v1", "nothing")
        host = LaneHost(
            sink, options, apply, logging.getLogger("bench"), outages, unused, unused, Counts(), None,
            lambda place: False, lambda: on_reached(lane.position.sequence), lambda sequence, index, reason: None,
        )  # fmt: skip
        lane = Lane(host, PositionRow("consume", 0, ""), BATCH)
        reading = Reading.__new__(Reading)
        reading._ledger, reading._lane_of, reading.lanes = cast("Any", dispatcher.ledger), None, [lane]
        reading._ended = _loop().create_future()
        _tasks.append(_loop().create_task(lane.run()))

        def again() -> None:
            lane.applying.moving.row = PositionRow("consume", 0, "")
            lane.reached = UpTo(0, 0, 0)

        return reading._receive, again

    return _round(new_receive)


def eda_lists() -> Round:
    """Hand the lists to a handler that only keeps how far it has got."""

    def new_receive(_: Dispatcher, on_reached: Callable[[int], None]) -> tuple[Receive, Callable[[], None]]:
        async def handle(events: list[eda.Event]) -> None:
            on_reached(events[-1].sequence)

        return handle, lambda: None

    return _round(new_receive)


CONTENDERS: dict[str, Maker] = {maker.__name__: maker for maker in (eda_project, eda_lists)}
