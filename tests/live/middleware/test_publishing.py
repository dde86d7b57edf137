"""Middleware around every way to publish."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator
from typing import Any

import pytest

import eda
from helpers import LOOPS, Admin, Connect, Logged, until
from support.middleware.hooks import Base64, Notes, Zlib

WAYS = ["publish", "batch", "send", "send_and_wait", "send_many", "send_many_of_generator", "send_many_of_async"]
WITH_RECEIPT = ["publish", "batch", "send_and_wait"]
each_way = pytest.mark.parametrize("way", WAYS)


async def publish(conn: eda.Conn, stream: str, way: str, events: list[eda.Event]) -> list[Any]:
    """Publish the events; returns receipts or ids."""
    if way == "publish":
        return [await conn.publish(stream, event) for event in events]
    if way == "batch":
        return await conn.publish_batch(stream, iter(events))

    async def generate() -> AsyncIterator[eda.Event]:
        for event in events:
            yield event

    async with conn.publisher(stream) as publisher:
        if way == "send":
            return [await publisher.send(event) for event in events]
        if way == "send_and_wait":
            return [await publisher.send_and_wait(event) for event in events]
        if way == "send_many":
            return await publisher.send_many(events)
        return await publisher.send_many(generate() if way.endswith("async") else iter(events))


async def stored(connect: Connect, stream: str, n: int) -> list[eda.Event]:
    """Return the events of the stream, read without middleware."""
    conn = await connect()
    async with conn.events(stream, backfill=True) as events:
        return [await anext(events) for _ in range(n)]


@each_way
async def test_publish_when_there_is_middleware_runs_its_hooks_once_for_each_event(
    connect: Connect, stream: str, way: str
) -> None:
    one, two = Notes("one"), Notes("two")
    conn = await connect(middleware=[one, two])
    events = [eda.Event(type="t", data=eda.JSON(number)) for number in range(3)]
    results = await publish(conn, stream, way, events)
    for notes in (one, two):
        assert [event.data.decode() for event in notes.events] == [0, 1, 2]
        assert {event.stream for event in notes.events} == {stream}
        assert [event.id for event in notes.events] == [str(result) for result in results]
        assert sorted(map(str, notes.results)) == sorted(map(str, results))
        assert {type(result) for result in notes.results} == {
            str if way.startswith("send_m") or way == "send" else eda.Receipt
        }
        assert {publisher is None for publisher in notes.publishers} == {way in ("publish", "batch")}
    assert [event.id for event in events] == [""] * 3
    there = await stored(connect, stream, 3)
    assert [event.id for event in there] == [str(result) for result in results]
    assert [event.meta for event in there] == [{"way": "one two"}] * 3


@each_way
async def test_publish_when_layers_transform_they_nest(connect: Connect, stream: str, way: str) -> None:
    layers = [Zlib(), Base64()]
    conn = await connect(middleware=layers)
    values = [{"text": "x" * 1000, "number": number} for number in range(3)]
    await publish(conn, stream, way, [eda.Event(type="t", data=eda.JSON(value)) for value in values])
    for event in await stored(connect, stream, 3):
        assert event.meta == {"zlib": "json", "base64": "bytes"}
        assert event.data.encode().isascii()
        assert len(event.data.encode()) < 100
    async with conn.events(stream, backfill=True) as events:
        assert [(await anext(events)).data.decode() for _ in range(3)] == values
    async with conn.events(stream, backfill=True, batch=3) as batches:
        assert [event.data.decode() for event in await anext(batches)] == values


@each_way
async def test_publish_when_a_hook_refuses_an_event_raises_its_error(
    connect: Connect, stream: str, way: str, admin: Admin
) -> None:
    class Refuse(eda.Middleware):
        async def publish(self, event: eda.Event, call_next: eda.PublishNext) -> None:
            if event.type == "bad":
                raise PermissionError("another tenant")
            await call_next(event)

    conn = await connect(middleware=[Refuse()])
    events = [eda.Event(id=type, type=type) for type in ("good", "bad", "late")]
    with pytest.raises(PermissionError, match="another tenant") as caught:
        await publish(conn, stream, way, events)
    if way == "batch":
        assert caught.value.__notes__ == ["events[1]: nothing of the batch was published"]
    elif way.startswith("send_many"):
        assert caught.value.__notes__ == ["events[1]"]
    await conn.publish(stream, eda.Event(id="end"))
    assert await admin.ids(stream) == (["end"] if way == "batch" else ["good", "end"])


@each_way
async def test_publish_when_a_hook_forgets_call_next_says_so(connect: Connect, stream: str, way: str) -> None:
    class Forget(eda.Middleware):
        async def publish(self, event: eda.Event, call_next: eda.PublishNext) -> None:
            pass

    conn = await connect(middleware=[Forget()])
    with pytest.raises(eda.ConfigError, match=r"Forget\.publish returned without calling call_next: the event"):
        await publish(conn, stream, way, [eda.Event()])


async def test_publish_when_arguments_are_wrong_fails_before_a_hook_runs(connect: Connect, stream: str) -> None:
    notes = Notes("n")
    conn = await connect(middleware=[notes])
    publisher = await conn.publisher(stream)
    wrong: Any = "event"
    for publishing in (
        conn.publish("a b", eda.Event()),
        conn.publish(stream, wrong),
        conn.publish_batch("a b", [eda.Event()]),
        conn.publish_batch(stream, [eda.Event(), wrong]),
        conn.publish_batch(stream, 5),  # type: ignore[arg-type]
        conn.publish_batch(stream, [eda.Event()] * 1001),
        publisher.send(wrong),
        publisher.send_and_wait(wrong),
        publisher.send_many([wrong]),
        publisher.send_many(5),  # type: ignore[arg-type]
    ):
        with pytest.raises(eda.ConfigError):
            await publishing
    await publisher.close()
    with pytest.raises(eda.Closed):
        await publisher.send(eda.Event())
    await conn.close()
    for publishing in (conn.publish(stream), conn.publish_batch(stream, [])):
        with pytest.raises(eda.Closed):
            await publishing
    assert notes.events == []


async def test_publish_when_the_event_is_none_or_the_batch_empty_is_as_usual(connect: Connect, stream: str) -> None:
    notes = Notes("n")
    conn = await connect(middleware=[notes])
    receipt = await conn.publish(stream)
    assert (receipt.sequence, notes.events[0].id) == (1, receipt.id)
    assert await conn.publish_batch(stream, []) == []
    async with conn.publisher(stream) as publisher:
        assert await publisher.send_many([]) == []
    assert (await conn.publish(stream, eda.Event(id=receipt.id))).duplicate


async def test_publish_when_it_fails_gives_hook_and_caller_the_error(connect: Connect, stream: str) -> None:
    notes = Notes("n")
    conn = await connect(middleware=[notes], auto_create=False)
    with pytest.raises(eda.StreamNotFound):
        await conn.publish(stream, timeout_s=1)
    assert [type(error) for error in notes.errors] == [eda.StreamNotFound]


async def test_publisher_when_flushed_runs_the_hooks_also_at_the_end(connect: Connect, stream: str) -> None:
    class Flushes(eda.Middleware):
        async def flush(self, publisher: eda.Publisher, call_next: eda.FlushNext) -> None:
            before = publisher.stats().pending
            await call_next()
            flushes.append((publisher.stream, before, publisher.stats().pending))

    flushes: list[tuple[str, int, int]] = []
    conn = await connect(middleware=[Flushes()])
    async with conn.publisher(stream) as publisher:
        await publisher.send_many([eda.Event()] * 100)
        await publisher.flush()
        await publisher.send(eda.Event())
    left = await conn.publisher(stream)
    await left.send(eda.Event())
    await conn.close()
    assert [(name, after) for name, _, after in flushes] == [(stream, 0)] * 3


async def test_publisher_when_a_flush_hook_fails_tells_the_caller_and_still_closes(
    connect: Connect, stream: str, logged: Logged
) -> None:
    class Fail(eda.Middleware):
        async def flush(self, publisher: eda.Publisher, call_next: eda.FlushNext) -> None:
            await call_next()
            raise KeyError("mine")

    conn = await connect(middleware=[Fail()])
    with pytest.raises(KeyError) as caught:
        async with conn.publisher(stream) as publisher:
            await publisher.send(eda.Event())
    assert caught.value.__notes__ == ["the publisher was flushed before Fail.flush raised this"]
    with pytest.raises(eda.Closed):
        await publisher.send(eda.Event())
    left = await conn.publisher(stream)
    await left.send(eda.Event())
    await conn.close()
    assert conn.state == "closed"
    assert logged.find(r"flushing the publisher to .* failed: 'mine'")
    assert left.stats().acknowledged == 1


@pytest.mark.parametrize("loop", LOOPS)
def test_hooks_when_they_run_in_another_loop_work(server: eda.EmbeddedServer, stream: str, loop: str) -> None:
    async def main() -> list[int]:
        async with eda.connect(server.url, middleware=[Zlib(), Base64()]) as conn:
            await conn.publish_batch(stream, [eda.Event(data=eda.JSON(number)) for number in range(3)])
            async with conn.events(stream, backfill=True) as events:
                return [(await anext(events)).data.decode() for _ in range(3)]

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        assert runner.run(main()) == [0, 1, 2]


async def test_publisher_when_events_fail_reports_them_under_the_id_that_send_returned(
    connect: Connect, stream: str, admin: Admin
) -> None:
    await (await connect()).streams.create(stream, eda.StreamOptions(max_events=1, discard="new"))
    conn = await connect(middleware=[Zlib()])
    async with conn.publisher(stream) as publisher:
        ids = await publisher.send_many([eda.Event(data=eda.JSON(number)) for number in range(3)])
        with pytest.raises(eda.PublishFailed) as caught:
            await publisher.flush()
    assert [event.id for event, _ in caught.value.failed] == ids[1:]


async def test_publish_when_a_hook_sets_a_context_variable_the_caller_has_it_afterwards(
    connect: Connect, stream: str
) -> None:
    seen: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="")

    class Sets(eda.Middleware):
        async def publish(self, event: eda.Event, call_next: eda.PublishNext) -> None:
            seen.set(event.id)
            await call_next(event)

    conn = await connect(middleware=[Sets()])
    receipt = await conn.publish(stream)
    assert seen.get() == receipt.id


# --- all or nothing --------------------------------------------------------------------------------------------------


async def test_batch_when_a_hook_refuses_tells_the_other_hooks(connect: Connect, stream: str, admin: Admin) -> None:
    class Watch(eda.Middleware):
        async def publish(self, event: eda.Event, call_next: eda.PublishNext) -> None:
            if event.type == "bad":
                await until(lambda: waiting == 2)
                raise PermissionError("bad")
            if event.type == "late":
                await refused.wait()
            note_one_more()
            try:
                await call_next(event)
            except BaseException as error:
                told.append((event.type, error))
                refused.set()
                raise

    waiting = 0
    refused = asyncio.Event()
    told: list[tuple[str, BaseException]] = []

    def note_one_more() -> None:
        nonlocal waiting
        waiting += 1

    conn = await connect(middleware=[Watch()])
    events = [eda.Event(type=type) for type in ("a", "b", "bad", "late")]
    with pytest.raises(PermissionError, match="bad"):
        await conn.publish_batch(stream, events)
    assert sorted(type for type, _ in told) == ["a", "b", "late"]
    for _, error in told:
        assert isinstance(error, eda.PublishFailed)
        ((event, reason),) = error.failed
        assert (event.type, type(reason)) == ("bad", PermissionError)
    assert stream not in await admin.stream_names()


async def test_batch_when_the_server_refuses_it_every_hook_and_the_caller_get_the_error(
    connect: Connect, stream: str
) -> None:
    notes = Notes("n")
    conn = await connect(middleware=[notes])
    await conn.publish(stream, eda.Event(id="twice"))
    with pytest.raises(eda.ServerError) as caught:
        await conn.publish_batch(stream, [eda.Event(id="once"), eda.Event(id="twice")])
    assert notes.errors == [caught.value] * 2


async def test_batch_when_a_hook_fails_afterwards_notes_that_the_event_was_published(
    connect: Connect, stream: str, admin: Admin
) -> None:
    class Fail(eda.Middleware):
        async def publish(self, event: eda.Event, call_next: eda.PublishNext) -> None:
            await call_next(event)
            if event.id != "a":
                raise KeyError(event.id)

    conn = await connect(middleware=[Fail()])
    with pytest.raises(KeyError, match="b") as caught:
        await conn.publish_batch(stream, [eda.Event(id=id) for id in "abc"])
    assert caught.value.__notes__ == ["event b was published before Fail.publish raised this"]
    assert await admin.ids(stream) == ["a", "b", "c"]


async def test_batch_when_hooks_wait_for_each_other_times_out(
    connect: Connect, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OneByOne(eda.Middleware):
        def __init__(self) -> None:
            self.lock = asyncio.Lock()

        async def publish(self, event: eda.Event, call_next: eda.PublishNext) -> None:
            async with self.lock:
                await call_next(event)

    monkeypatch.setattr("eda.middleware.hooked_batch.HOOKS_S", 0.1)
    conn = await connect(middleware=[OneByOne()])
    with pytest.raises(eda.Timeout, match="hooks of publish_batch") as caught:
        await conn.publish_batch(stream, [eda.Event(), eda.Event()])
    assert caught.value.__notes__[0].startswith("1 of 2 events were not passed on, so nothing was published.")
    assert len(await conn.publish_batch(stream, [eda.Event()])) == 1


@pytest.mark.parametrize("when", ["in-a-hook", "waiting"])
async def test_batch_when_the_caller_is_cancelled_every_hook_is_cancelled(
    connect: Connect, stream: str, admin: Admin, when: str
) -> None:
    class Wait(eda.Middleware):
        async def publish(self, event: eda.Event, call_next: eda.PublishNext) -> None:
            try:
                if event.type == "slow":
                    await asyncio.sleep(60)
                await call_next(event)
            except asyncio.CancelledError:
                cancelled.append(event.type)
                raise

    cancelled: list[str] = []
    conn = await connect(middleware=[Wait()])
    publishing = asyncio.create_task(conn.publish_batch(stream, [eda.Event(type="a"), eda.Event(type="slow")]))
    await asyncio.sleep(0.02 if when == "waiting" else 0)
    await asyncio.sleep(0)
    publishing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publishing
    assert sorted(cancelled) == ["a", "slow"]
    assert stream not in await admin.stream_names()


async def test_batch_when_a_hook_gives_up_waiting_nothing_is_published(
    connect: Connect, stream: str, admin: Admin
) -> None:
    class GiveUp(eda.Middleware):
        async def publish(self, event: eda.Event, call_next: eda.PublishNext) -> None:
            if event.type == "slow":
                await asyncio.sleep(0.1)
                await call_next(event)
            else:
                async with asyncio.timeout(0.02):
                    await call_next(event)

    conn = await connect(middleware=[GiveUp()])
    with pytest.raises(TimeoutError) as caught:
        await conn.publish_batch(stream, [eda.Event(type="a"), eda.Event(type="slow")])
    assert caught.value.__notes__ == ["events[0]: nothing of the batch was published"]
    assert stream not in await admin.stream_names()


async def test_batch_when_it_is_large_runs_all_hooks(connect: Connect, stream: str) -> None:
    notes = Notes("n")
    conn = await connect(middleware=[notes])
    receipts = await conn.publish_batch(stream, [eda.Event(type="t")] * 1000)
    assert [receipt.sequence for receipt in receipts] == list(range(1, 1001))
    assert len(notes.results) == 1000
    assert [event.id for event in notes.events] == [receipt.id for receipt in receipts]
