"""eda.subscribing.monitor: time-outs, leases, and one warning for each stall."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import eda
import eda.subscribing.monitor
from eda.options import SubscriptionOptions
from eda.subscribing.monitor import Monitor
from eda.subscribing.spec import SubscriptionSpec
from helpers import Logged, until
from support.handling.dispatching import Rig, delivery
from support.packs import pack_of

Make = Callable[..., Rig]
STALLED = "has made no progress"


class Source:
    """Where events come from, as far as a monitor asks."""

    def __init__(self) -> None:
        self.is_up = True
        self.n_ticks = 0
        self.lease_s = 3600.0
        self.why: str | None = None
        self.n_asked = 0

    def tick(self) -> None:
        self.n_ticks += 1

    async def diagnose(self, seconds: float) -> str | None:
        self.n_asked += 1
        return self.why


class Monitored:
    """A monitor of a rig, and its source."""

    def __init__(self, rig: Rig, lease_s: float = 3600.0, **options: Any) -> None:
        self.source = Source()
        self.source.lease_s = lease_s
        self.active = True
        settings = SubscriptionOptions(concurrency=rig.concurrency, **options)
        self.monitor = Monitor(
            logging.getLogger("eda"),
            SubscriptionSpec("orders", "billing", is_durable=True, is_ordered=False, options=settings),
            rig.dispatcher,
            self.source,  # type: ignore[arg-type]
            lambda: self.active,
        )  # fmt: skip
        self.monitor.start()

    async def ticks(self, n: int) -> None:
        until_n = self.source.n_ticks + n
        await until(lambda: self.source.n_ticks >= until_n)


@pytest.fixture(autouse=True)
def stall_s(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(eda.subscribing.monitor, "STALL_S", 0.1)
    monkeypatch.setattr(eda.subscribing.monitor, "TICK_MAX_S", 0.01)
    return 0.1


@pytest.fixture
def monitor() -> Iterator[Callable[..., Monitored]]:
    """Make monitors that are stopped after the test."""
    made: list[Monitored] = []

    def monitor(rig: Rig, **options: Any) -> Monitored:
        made.append(Monitored(rig, **options))
        return made[-1]

    yield monitor
    for each in made:
        each.monitor.stop()


Start = Callable[..., Monitored]


# --- handlers that take too long -------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [None, 3])
async def test_handler_when_its_time_is_over_is_cancelled_and_the_next_one_has_its_own(
    make: Make, monitor: Start, batch: int | None
) -> None:
    async def handle(events: Any) -> None:
        began.append(time.monotonic())
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(time.monotonic())

    began: list[float] = []
    ended: list[float] = []
    rig = make(handle, batch=batch)
    monitor(rig, timeout_s=0.1, batch=batch)
    rig.deliver(1)
    await until(lambda: rig.failures)
    rig.deliver(2)
    await until(lambda: len(rig.failures) == 2)
    assert [event.sequence for event, _ in rig.failures] == [1, 2]
    assert all(end - begin >= 0.09 for begin, end in zip(began, ended, strict=True))


async def test_handlers_when_within_their_time_are_left_alone(make: Make, monitor: Start) -> None:
    async def handle(event: eda.Event) -> None:
        await asyncio.sleep(0.1)

    rig = make(handle, concurrency=2)
    monitored = monitor(rig, timeout_s=1.0)
    rig.deliver(*range(1, 31))
    await until(lambda: rig.dispatcher.outcomes.n_handled == 30)
    assert rig.failures == []
    assert monitored.source.n_ticks > 5


async def test_handler_when_it_ignores_its_cancellation_is_told_of_once(
    make: Make, monitor: Start, logged: Logged
) -> None:
    async def handle(event: eda.Event) -> None:
        while not end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await end.wait()

    logged.expect(
        "ignores its cancellation: .* event id-1 of type 't' .*subscription billing, sequence 1, attempt 1. for"
    )
    end = asyncio.Event()
    rig = make(handle)
    monitored = monitor(rig, timeout_s=0.05)
    rig.deliver(1, event=eda.Event(id="id-1", type="t"))
    await until(lambda: logged.find("ignores its cancellation"))
    await monitored.ticks(20)
    assert len(logged.find("ignores its cancellation")) == 1
    assert rig.tasks[0].cancelling() == 1
    end.set()
    await until(lambda: rig.failures)
    assert not rig.tasks[0].done()
    assert rig.tasks[0].cancelling() == 0


# --- leases, and what is gone ----------------------------------------------------------------------------------------


async def test_lease_when_a_third_of_it_is_over_is_extended(make: Make, monitor: Start) -> None:
    rig = make(hold=True)
    monitor(rig, lease_s=1.5)
    rig.deliver(1, 2)
    await until(lambda: rig.dispatcher.n_running)
    assert rig.flush() == []
    found = await until(rig.flush)
    assert sorted(found[:2]) == [(delivery(1)[1], b"+WPI"), (delivery(2)[1], b"+WPI")]


async def test_skipped_when_events_are_gone_is_told_once_for_all_of_a_tick(
    make: Make, monitor: Start, logged: Logged
) -> None:
    rig = make(ordered=True)
    monitored = monitor(rig)
    rig.deliver(1, 11, 21)
    await monitored.ticks(3)
    rig.deliver(23)
    await monitored.ticks(3)
    told = [record.getMessage() for record in logged.find("events were not delivered", logging.WARNING)]
    assert [text.partition(" events")[0] for text in told] == [
        "subscription billing to orders: 18",
        "subscription billing to orders: 1",
    ]


# --- what does not move ----------------------------------------------------------------------------------------------


async def told_once(monitored: Monitored, logged: Logged, pattern: str, level: int = logging.WARNING) -> None:
    """Wait for the word on a stall, and see that it is said once, and with this reason."""
    await until(lambda: logged.find(STALLED))
    await monitored.ticks(30)
    (record,) = logged.find(STALLED)
    assert record.levelno == level
    assert logged.find(pattern), record.getMessage()


async def test_stall_when_a_handler_is_over_its_time_names_the_one_that_began_first(
    make: Make, monitor: Start, logged: Logged
) -> None:
    """Those that began later may be within theirs."""

    async def handle(event: eda.Event) -> None:
        while event.sequence == 2 and not end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await end.wait()
        if event.sequence != 2:
            await asyncio.sleep(3600)

    end = asyncio.Event()
    rig = make(handle, concurrency=2)
    monitored = monitor(rig, timeout_s=0.1)
    rig.deliver(2, pending=9)
    await until(lambda: rig.dispatcher.n_running)
    rig.deliver(3, pending=8)
    try:
        await told_once(monitored, logged, r"a handler has had sequence 2 for .* \(\d events held, 8 pending\)")
    finally:
        end.set()  # else the test would not end


async def test_stall_when_handlers_are_within_their_time_is_none(make: Make, monitor: Start, logged: Logged) -> None:
    rig = make(hold=True)
    monitored = monitor(rig, timeout_s=3600.0)
    rig.deliver(1, 2)
    await monitored.ticks(30)
    assert logged.find(STALLED) == []


async def test_stall_when_an_event_fails_again_and_again_names_it(make: Make, monitor: Start, logged: Logged) -> None:
    def fail(event: eda.Event) -> None:
        raise ValueError

    rig = make(fail, ordered=True, serial=True)
    rig.on_failure = lambda event, error: 3600 * 10**9  # type: ignore[method-assign]
    monitored = monitor(rig)
    rig.deliver(4, 5, 6)
    await told_once(monitored, logged, "sequence 4 fails again and again, and 2 events wait behind it")


@pytest.mark.parametrize("fails", [False, True])
async def test_stall_when_an_event_of_a_pack_is_the_cause_names_its_place(
    make: Make, monitor: Start, logged: Logged, fails: bool
) -> None:
    async def handle(event: eda.Event) -> None:
        if event.index == 2:
            if fails:
                raise ValueError("x")
            while not end.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await end.wait()

    end = asyncio.Event()
    rig = make(handle, ordered=True, serial=True)
    rig.on_failure = lambda event, error: 3600 * 10**9  # type: ignore[method-assign]
    monitored = monitor(rig, timeout_s=0.1)
    rig.deliver(7, payload=pack_of([eda.Event(type="t")] * 5))
    why = r"sequence 7\.2 fails again and again, and 2 events wait" if fails else r"a handler has had sequence 7\.2 for"
    try:
        await told_once(monitored, logged, why)
    finally:
        end.set()  # else the test would not end


async def test_stall_when_no_handler_may_start_says_so(make: Make, monitor: Start, logged: Logged) -> None:
    rig = make(ordered=True)
    rig.dispatcher.lease.extend(0)
    monitored = monitor(rig)
    rig.deliver(1, 2)
    await told_once(monitored, logged, "2 events wait, and no handler is free to start")


async def test_stall_when_there_is_no_connection_says_so(make: Make, monitor: Start, logged: Logged) -> None:
    rig = make(hold=True)
    monitored = monitor(rig)
    monitored.source.is_up = False
    rig.deliver(1)
    await told_once(monitored, logged, "there is no connection", logging.DEBUG)
    assert monitored.source.n_asked == 0


@pytest.mark.parametrize("why", [None, "its consumer is paused"])
async def test_stall_when_nothing_is_delivered_is_what_the_server_says(
    make: Make, monitor: Start, logged: Logged, why: str | None
) -> None:
    rig = make()
    monitored = monitor(rig)
    monitored.source.why = why
    rig.deliver(1, pending=5)
    await until(lambda: monitored.source.n_asked == 1)
    await monitored.ticks(30)
    assert monitored.source.n_asked == 1
    assert len(logged.find(STALLED)) == (why is not None)
    if why:
        assert logged.find("its consumer is paused .0 events held, 5 pending.")


async def test_stall_when_it_comes_again_after_progress_is_told_again(
    make: Make, monitor: Start, logged: Logged
) -> None:
    rig = make()
    monitored = monitor(rig)
    monitored.source.why = "its consumer is paused"
    for n in (1, 2):
        rig.deliver(n, pending=5)
        await until(lambda: len(logged.find(STALLED)) == n)  # noqa: B023


@pytest.mark.parametrize("idle", ["nothing pending", "not active"])
async def test_stall_when_there_is_nothing_to_do_is_none(make: Make, monitor: Start, logged: Logged, idle: str) -> None:
    rig = make()
    monitored = monitor(rig)
    monitored.active = idle != "not active"
    rig.deliver(1, pending=0 if idle == "nothing pending" else 5)
    await monitored.ticks(30)
    assert logged.find(STALLED) == []
    assert monitored.source.n_asked == 0


async def test_monitor_when_stopped_ticks_no_more_and_asks_nothing(make: Make, monitor: Start, logged: Logged) -> None:
    rig = make()
    monitored = monitor(rig)
    rig.deliver(1, pending=5)
    asked = asyncio.Event()

    async def diagnose(seconds: float) -> str | None:
        asked.set()
        await asyncio.sleep(3600)
        return "never said"

    monitored.source.diagnose = diagnose  # type: ignore[method-assign]
    async with asyncio.timeout(5):
        await asked.wait()
    monitored.monitor.stop()
    n_ticks = monitored.source.n_ticks
    await asyncio.sleep(0.05)
    assert monitored.source.n_ticks == n_ticks
    assert not any(task.get_coro().__qualname__ == "Monitor._diagnose" for task in asyncio.all_tasks())  # type: ignore[union-attr]
    assert logged.find(STALLED) == []
