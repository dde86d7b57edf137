"""Hooks that close, publish, pause, wait and cancel: nothing waits for ever, and no event is lost."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import Any

import pytest

import eda
from helpers import Admin, Connect, Logged, until
from support.dead_letters.letters import stored
from support.middleware.hooks import HandleHook, PublishHook

KEPT: dict[str, Any] = {"name": "me", "durable": True, "backfill": True}
KINDS: dict[str, dict[str, Any]] = {"shared": KEPT, "serial": {"serial": True, **KEPT}}
QUICK = eda.Retry(initial_s=0.02, factor=1)
two_kinds = pytest.mark.parametrize("kind", KINDS)


@two_kinds
@pytest.mark.parametrize("what", ["subscription", "connection"])
@pytest.mark.parametrize("where", ["before", "after", "handler", "task"])
async def test_close_when_called_in_a_hook_or_below_ends(
    connect: Connect, stream: str, kind: str, what: str, where: str, logged: Logged
) -> None:
    logged.allow(".")
    closed = asyncio.Event()

    async def close() -> None:
        if what == "subscription":
            await sub.close()
        else:
            await conn.close()
        closed.set()

    async def hook(event: eda.Event, call_next: Any) -> None:
        if where == "before":
            await close()
        if where == "task":
            await asyncio.create_task(call_next(event))
        else:
            await call_next(event)
        if where == "after":
            await close()

    async def handle(event: eda.Event) -> None:
        handled.append(event.sequence)
        if where in ("handler", "task"):
            await close()

    handled: list[int] = []
    conn = await connect(middleware=[HandleHook(hook)])
    plain = await connect()
    for _ in range(3):
        await plain.publish(stream)
    sub = await conn.subscribe(stream, handle, timeout_s=1, **KINDS[kind])
    async with asyncio.timeout(8):
        await until(lambda: handled)
        await until(lambda: sub.is_closed)
    async with (await connect()).subscribe(stream, lambda event: handled.append(event.sequence), **KINDS[kind]):
        await until(lambda: set(handled) == {1, 2, 3})


@pytest.mark.parametrize("way", ["publish", "send", "batch"])
async def test_connection_when_closed_while_a_publish_hook_waits_refuses_the_event(
    connect: Connect, stream: str, way: str, admin: Admin
) -> None:
    async def wait(event: eda.Event, call_next: Any) -> None:
        began.set()
        await go_on.wait()
        await call_next(event)

    began, go_on = asyncio.Event(), asyncio.Event()
    conn = await connect(middleware=[PublishHook(wait)])
    await (await connect()).streams.create(stream)
    publisher = await conn.publisher(stream)
    if way == "publish":
        publishing: Any = asyncio.create_task(conn.publish(stream))
    elif way == "send":
        publishing = asyncio.create_task(publisher.send(eda.Event()))
    else:
        publishing = asyncio.create_task(conn.publish_batch(stream, [eda.Event(), eda.Event()]))
    await began.wait()
    await asyncio.wait_for(conn.close(), 5)
    go_on.set()
    with pytest.raises(eda.Closed):
        await publishing
    assert await admin.ids(stream) == []


@pytest.mark.parametrize("way", ["publish", "send", "send_and_wait", "batch"])
async def test_publish_when_cancelled_at_any_time_tells_the_truth(
    connect: Connect, stream: str, way: str, admin: Admin
) -> None:
    async def slow(event: eda.Event, call_next: Any) -> Any:
        for _ in range(3):
            await asyncio.sleep(0)
        try:
            return await call_next(event)
        finally:
            for _ in range(3):
                await asyncio.sleep(0)

    conn = await connect(middleware=[PublishHook(slow), PublishHook(slow)])
    await (await connect()).streams.create(stream)
    returned: list[str] = []
    tried: list[list[str]] = []
    async with conn.publisher(stream) as publisher:
        for turns in range(40):
            events = [eda.Event(id=f"{turns}-{number}") for number in range(3)]
            tried.append([event.id for event in events])
            if way == "publish":
                running: Any = asyncio.create_task(conn.publish(stream, events[0]))
            elif way == "batch":
                running = asyncio.create_task(conn.publish_batch(stream, events))
            else:
                running = asyncio.create_task(getattr(publisher, way)(events[0]))
            for _ in range(turns):
                await asyncio.sleep(0)
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                result = await running
                returned += map(str, result) if way == "batch" else [str(result)]
        await publisher.flush()
    gc.collect()
    await conn.publish(stream, eda.Event(id="last"))  # a batch that was cancelled last may be stored just now, in part
    ids = await admin.ids(stream)
    assert ids[-1] == "last"
    assert set(returned) <= set(ids)
    assert len(ids) == len(set(ids))
    if way == "batch":
        for batch in tried:
            assert len(set(batch) & set(ids)) in (0, 3)


async def test_flush_hook_when_it_publishes_and_the_connection_closes_loses_nothing(
    connect: Connect, stream: str, admin: Admin
) -> None:
    class Mark(eda.Middleware):
        async def flush(self, publisher: eda.Publisher, call_next: eda.FlushNext) -> None:
            await publisher.send(eda.Event(id=f"mark{len(marks)}"))
            marks.append(1)
            await call_next()

    marks: list[int] = []
    conn = await connect(middleware=[Mark()])
    async with conn.publisher(stream) as publisher:
        await publisher.send(eda.Event(id="a"))
    publisher = await conn.publisher(stream)
    await publisher.send(eda.Event(id="b"))
    await conn.close()
    assert await admin.ids(stream) == ["a", "mark0", "b", "mark1"]


@two_kinds
async def test_hook_when_it_pauses_and_resumes_the_subscription_loses_nothing(
    connect: Connect, stream: str, kind: str
) -> None:
    async def hook(event: eda.Event, call_next: Any) -> None:
        subscription = call_next.subscription
        subscription.pause()
        asyncio.get_running_loop().call_later(0.01, subscription.resume)
        await call_next(event)

    conn = await connect(middleware=[HandleHook(hook)])
    for _ in range(5):
        await conn.publish(stream)
    got: list[int] = []
    async with conn.subscribe(stream, lambda event: got.append(event.sequence), **KINDS[kind]) as sub:
        await until(lambda: sub.stats().handled == 5)
    assert got == [1, 2, 3, 4, 5]


async def test_circuit_when_hooks_fail_opens_and_closes(connect: Connect, stream: str, logged: Logged) -> None:
    logged.allow(".")
    is_down = True

    async def hook(event: eda.Event, call_next: Any) -> None:
        if is_down:
            raise OSError("down")
        await call_next(event)

    conn = await connect(middleware=[HandleHook(hook)])
    for _ in range(5):
        await conn.publish(stream)
    got: list[int] = []
    options: dict[str, Any] = {"circuit": 2, "retry": QUICK} | KEPT
    async with conn.subscribe(stream, lambda event: got.append(event.sequence), **options) as sub:
        await until(lambda: sub.stats().circuit_open)
        is_down = False
        await until(lambda: sub.stats().handled == 5)
        assert not sub.stats().circuit_open
    assert sorted(got) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("batch", [None, 3])
async def test_handle_when_it_fails_leaves_nothing_to_the_garbage_collector(
    connect: Connect, stream: str, batch: int | None, logged: Logged
) -> None:
    logged.allow(".")

    async def hook(given: Any, call_next: Any) -> None:
        await call_next(given)

    async def handle(given: Any) -> None:
        await asyncio.sleep(0)
        for event in given if batch else [given]:
            if event.attempt == 1:
                raise eda.PartialFailure({event: KeyError("x")}) if batch else KeyError("x")

    conn = await connect(middleware=[HandleHook(hook), HandleHook(hook)])
    async with conn.publisher(stream) as publisher:
        await publisher.send_many([eda.Event()] * 100)
    async with conn.subscribe(stream, handle, batch=batch, retry=QUICK, **KEPT) as sub:
        await until(lambda: sub.stats().handled >= 5)
        gc.collect()
        gc.disable()
        try:
            await until(lambda: sub.stats().handled == 100)
            assert sub.stats().failed >= 30
            assert gc.collect() < 200
        finally:
            gc.enable()


@pytest.mark.parametrize("kind", ["shared", "exclusive"])
@pytest.mark.parametrize("way", ["subscribe", "events", "batch", "events batch"])
async def test_event_when_hooks_change_its_id_and_its_payload_can_not_be_decoded_is_a_dead_letter(
    connect: Connect, stream: str, kind: str, way: str, admin: Admin, logged: Logged
) -> None:
    logged.expect("can't be decoded")

    async def rename(given: Any, call_next: Any) -> None:
        if isinstance(given, list):
            await call_next([event.replace(id=f"{event.id}x") for event in reversed(given)])
        else:
            await call_next(given.replace(id=f"{given.id}x"))

    def decode(given: Any) -> None:
        for event in given if isinstance(given, list) else [given]:
            event.payload()

    conn = await connect(middleware=[HandleHook(rename), HandleHook(rename)])
    await conn.publish(stream, eda.Event(id="i1", type="awkward-nobody", data=eda.JSON(1)))
    options: dict[str, Any] = (KEPT | ({} if kind == "shared" else {kind: True})) | {"retry": eda.Retry(initial_s=30)}
    if "batch" in way:
        options["batch"] = 10
    if "events" in way:
        with pytest.raises(eda.UnknownType):
            async with conn.events(stream, **options) as events:
                async for given in events:
                    decode(given)
        stats = events.subscription.stats()
    else:
        async with conn.subscribe(stream, decode, **options) as sub:
            await until(lambda: sub.stats().dead_lettered)
            stats = sub.stats()
    assert (stats.dead_lettered, stats.undecodable, stats.failed) == (1, 1, 0)
    (letter,) = await stored(admin, f"{stream}-dead")
    assert letter.payload == (await stored(admin, stream))[0].payload
