"""serial=True with batch=…: lists in stream order, one at a time, whatever fails, and whichever member has them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

import eda
from helpers import Admin, Connect, Logged, Proxy, until
from support.cursors.member import Keys
from support.subscribing.members import QUICK, Members

KEPT: dict[str, Any] = {"name": "me", "durable": True, "backfill": True}
KINDS: dict[str, dict[str, Any]] = {
    "durable": {"serial": True, **KEPT},
    "strict": {"serial": "strict", **KEPT},
    "private": {"serial": True, "backfill": True},
}
SOON = eda.Retry(initial_s=0.02, factor=1)

every_kind = pytest.mark.parametrize("kind", KINDS)

Fail = Callable[[list[eda.Event]], BaseException | None]


class Lists:
    """A handler that checks that its lists are in order, one at a time, and keeps them; it raises what `fail` gives.

    Each list must be what is left of the list before, or follow it. What was rejected does not come again.
    """

    def __init__(self, fail: Fail = lambda events: None) -> None:
        self.seen: list[list[int]] = []
        self.done: list[int] = []
        self.rejected: list[int] = []
        self.wrong: list[object] = []
        self.fail = fail
        self._left: list[int] = []
        self._runs = False

    async def __call__(self, events: list[eda.Event]) -> None:
        seqs = [event.sequence for event in events]
        n_ended = len(self.done) + len(self.rejected)
        if self._runs or seqs != (self._left or list(range(n_ended + 1, n_ended + 1 + len(seqs)))):
            self.wrong.append((self.seen[-3:], seqs, self._left))
        self._runs = True
        self.seen.append(seqs)
        await asyncio.sleep(0.001)
        error = self.fail(events)
        failures: dict[eda.Event, BaseException] = {} if error is None else dict.fromkeys(events, error)
        if isinstance(error, eda.PartialFailure):
            failures = error.failures
        self.done += [event.sequence for event in events if event not in failures]
        rejected = [event.sequence for event, each in failures.items() if isinstance(each, eda.Reject)]
        self.rejected += rejected
        self._left = [event.sequence for event in events if event in failures and event.sequence not in rejected]
        self._runs = False
        if error is not None:
            raise error


async def publish(conn: eda.Conn, stream: str, n: int, first: int = 1) -> None:
    async with conn.publisher(stream) as publisher:
        await publisher.send_many([eda.Event(type=str(i)) for i in range(first, first + n)])


@every_kind
@pytest.mark.old_server
async def test_lists_when_events_are_there_are_full_and_in_order(conn: eda.Conn, stream: str, kind: str) -> None:
    await publish(conn, stream, 1000)
    lists = Lists()
    async with conn.subscribe(stream, lists, batch=100, **KINDS[kind]) as subscription:
        await until(lambda: len(lists.done) == 1000)
        await until(lambda: subscription.stats().handled == 1000)
    assert lists.done == list(range(1, 1001))
    assert not lists.wrong
    assert len(lists.seen) <= 20


@every_kind
async def test_lists_when_events_fail_come_again_before_any_other(
    conn: eda.Conn, stream: str, logged: Logged, kind: str
) -> None:
    """In part, as a whole, and rejected: the dead letters are stored before the list that follows begins."""
    logged.expect("handler failed", "handler rejected")

    def fail(events: list[eda.Event]) -> BaseException | None:
        failures: dict[eda.Event, BaseException] = {}
        for event in events:
            if event.sequence % 7 == 0 and event.attempt < 3:
                failures[event] = ValueError(event.type)
            elif event.sequence % 41 == 0:
                failures[event] = eda.Reject("never")
        if events[0].sequence > 100 and events[0].attempt == 1:
            return ValueError("all of them")
        return eda.PartialFailure(failures) if failures else None

    await publish(conn, stream, 200)
    lists = Lists(fail)
    async with conn.subscribe(stream, lists, batch=25, retry=SOON, **KINDS[kind]) as subscription:
        await until(lambda: subscription.stats().handled + subscription.stats().dead_lettered == 200)
    assert not lists.wrong
    assert sorted(lists.done) == [seq for seq in range(1, 201) if seq % 41]
    dead = [event.type async for event in letters_of(conn, f"{stream}-dead")]
    assert dead == ["41", "82", "123", "164"]


async def letters_of(conn: eda.Conn, stream: str) -> Any:
    info = await conn.streams.info(stream)
    async with conn.events(stream, backfill=True) as events:
        for _ in range(info.events):
            yield await anext(events)


async def test_list_when_it_was_interrupted_begins_again_in_the_next_process(
    conn: eda.Conn, stream: str, admin: Admin, logged: Logged
) -> None:
    """What the position says is done of a list is not handled again, and the rest is, in order."""
    logged.expect("handler failed")
    await publish(conn, stream, 10)
    first = Lists(lambda events: eda.PartialFailure({event: ValueError() for event in events[2:4]}))
    later = eda.Retry(initial_s=30)
    async with conn.subscribe(stream, first, batch=6, retry=later, **KINDS["durable"]):
        await until(lambda: first.done == [1, 2, 5, 6])
    value = await Keys(admin, stream, "me").get()
    assert value is not None
    assert value["seq"] == 2
    lists = Lists()
    async with conn.subscribe(stream, lists, batch=6, **KINDS["durable"]):
        await until(lambda: len(lists.done) == 8)
    assert lists.seen == [[3, 4, 5, 6, 7, 8], [9, 10]]


async def test_lists_when_strict_begin_when_the_position_is_stored(conn: eda.Conn, stream: str, admin: Admin) -> None:
    await publish(conn, stream, 30)
    stored: list[int] = []
    keys = Keys(admin, stream, "me")

    async def handle(events: list[eda.Event]) -> None:
        value = await keys.get()
        stored.append(-1 if value is None else events[0].sequence - value["seq"])

    async with conn.subscribe(stream, handle, batch=10, **KINDS["strict"]) as subscription:
        await until(lambda: subscription.stats().handled == 30)
    assert stored == [1, 1, 1]


@pytest.mark.parametrize("serial", [True, "strict"])
async def test_lists_when_the_connection_breaks_stay_in_order(
    server: eda.EmbeddedServer, connect: Connect, stream: str, serial: Literal[True, "strict"]
) -> None:
    async with Proxy(server.port) as proxy:
        conn, publisher = await connect(proxy.url(server.url)), await connect()
        lists = Lists()
        async with conn.subscribe(stream, lists, batch=7, prefetch=50, serial=serial, **KEPT):
            for n in range(5):
                await publish(publisher, stream, 150)
                await until(lambda n=n: len(lists.done) > 150 * n)
                proxy.drop()
            await until(lambda: len(lists.done) >= 750)
        assert lists.done == list(range(1, 751))
        assert not lists.wrong
        await conn.close()


async def test_list_when_paused_is_not_followed_by_another(conn: eda.Conn, stream: str) -> None:
    await publish(conn, stream, 20)
    lists = Lists()
    async with conn.subscribe(stream, lists, batch=5, **KINDS["durable"]) as subscription:
        await until(lambda: lists.done)
        subscription.pause()
        await asyncio.sleep(0.1)
        n_seen = len(lists.seen)
        await asyncio.sleep(0.1)
        assert len(lists.seen) == n_seen
        subscription.resume()
        await until(lambda: len(lists.done) == 20)
    assert not lists.wrong


async def test_list_when_it_takes_too_long_comes_again_first(conn: eda.Conn, stream: str, logged: Logged) -> None:
    logged.expect("handler failed")
    await publish(conn, stream, 10)
    calls: list[list[int]] = []

    async def handle(events: list[eda.Event]) -> None:
        calls.append([event.sequence for event in events])
        if len(calls) == 2:
            await asyncio.sleep(60)

    options = {**KINDS["durable"], "timeout_s": 0.1, "retry": SOON}
    async with conn.subscribe(stream, handle, batch=4, **options):
        await until(lambda: len(calls) == 4)
    assert calls == [[1, 2, 3, 4], [5, 6, 7, 8], [5, 6, 7, 8], [9, 10]]


async def test_events_when_serial_and_in_batches_gives_lists_in_order(conn: eda.Conn, stream: str) -> None:
    await publish(conn, stream, 10)
    seen: list[list[int]] = []
    async with conn.events(stream, batch=4, **KINDS["durable"]) as lists:
        async for events in lists:
            seen.append([event.sequence for event in events])
            if events[-1].sequence == 10:
                break
    assert seen == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]


@eda.payload("ordered-batch-opened")
class Opened(msgspec.Struct):
    number: int


@eda.payload("ordered-batch-paid")
class Paid(msgspec.Struct):
    number: int


async def test_router_when_a_handler_fails_calls_none_for_later_events(
    conn: eda.Conn, stream: str, logged: Logged
) -> None:
    """A handler of single events and one of lists in one router: the whole order is that of the stream."""
    logged.expect("handler failed")
    seen: list[int] = []
    failed: set[int] = set()
    router = eda.Router()

    def note(numbers: list[int]) -> None:
        if bad := [number for number in numbers if number % 5 == 0 and number not in failed]:
            failed.update(bad)
            raise ValueError(bad)
        seen.extend(numbers)

    @router.on(Opened)
    async def opened(payload: Opened) -> None:
        note([payload.number])

    @router.on(Paid)
    async def paid(payloads: list[Paid]) -> None:
        note([payload.number for payload in payloads])

    for number in range(40):
        await conn.publish(stream, eda.Event(data=Paid(number) if number % 4 else Opened(number)))
    async with conn.subscribe(stream, router, batch=9, retry=SOON, **KINDS["durable"]) as subscription:
        await until(lambda: subscription.stats().handled == 40)
        assert subscription.stats().dead_lettered == 0
    assert seen == list(range(40))


async def test_middleware_when_lists_are_in_order_sees_them(connect: Connect, stream: str) -> None:
    seen: list[list[int]] = []

    class Notes(eda.Middleware):
        async def handle_batch(self, events: list[eda.Event], call_next: eda.HandleBatchNext) -> None:
            seen.append([event.sequence for event in events])
            await call_next(events)

    conn = await connect(client="me", middleware=[Notes()])
    await publish(conn, stream, 10)
    lists = Lists()
    async with conn.subscribe(stream, lists, batch=4, **KINDS["durable"]):
        await until(lambda: len(lists.done) == 10)
    assert seen == lists.seen == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]


@pytest.mark.parametrize("serial", [True, "strict"])
async def test_member_when_killed_inside_a_list_is_followed_in_order(
    server: eda.EmbeddedServer, conn: eda.Conn, stream: str, tmp_path: Path, serial: Literal[True, "strict"]
) -> None:
    """The list that the killed member had begun is handled by the other one, from the stored position on."""
    n, batch = 60, 8
    await publish(conn, stream, n)
    members = Members(tmp_path / "journal", server.url, stream)
    orders = {
        "options": {**KEPT, "name": "team", "serial": serial, "batch": batch},
        "constants": QUICK,
        "sleep_s": 0.01,
    }
    try:
        await members.start("one", **orders, kill_at=29)
        await members.start("two", **orders)
        await until(lambda: members.has_died("one"), 20)
        await members.until_handled(n, 30)
        await members.close("two")
    finally:
        members.end()
    members.assert_prefix()
    calls = members.calls()
    for before, after in itertools.pairwise(calls):
        assert before.end_ns <= after.begin_ns
    (killed,) = [call for call in calls if call.outcome == "killed"]
    assert killed.sequence == 29
    # With strict only the list that was interrupted comes again.
    again = members.again_after(members.killed_ns["one"])
    assert len(again) <= (batch if serial == "strict" else n)
    assert all(seq < 29 for seq in again)
