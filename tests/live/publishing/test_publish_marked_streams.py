"""Streams that belong to event stores refuse all other publishes, also when they are marked later."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import eda
from eda._codec import encode_event
from helpers import Admin, Connect, Logged, Proxy, until, wire_of
from support.store.versions import on_able_servers

pytestmark = on_able_servers

MARKED = eda.StreamOptions(store=True)
EVENT = eda.Event(type="t", aggregate="a")


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let connections look at their streams again and again."""
    monkeypatch.setattr("eda.publishing.stream_looks.LOOK_EVERY_S", 0.05)


async def refused(publish: Callable[[], Awaitable[Any]], stream: str) -> bool:
    """Return whether a publish is refused because of the mark."""
    try:
        await publish()
    except eda.ConfigError as error:
        if error.argument != "stream" or f"conn.store('{stream}')" not in str(error):
            raise
        return True
    return False


async def n_events(conn: eda.Conn, stream: str) -> int:
    return (await conn.streams.info(stream)).events


async def test_publish_when_the_stream_is_marked_is_refused_in_every_way(conn: eda.Conn, stream: str) -> None:
    await conn.streams.create(stream, MARKED)
    for _ in range(2):
        assert await refused(lambda: conn.publish(stream, EVENT), stream)
        assert await refused(lambda: conn.publish(stream), stream)
        assert await refused(conn.publisher(stream).__aenter__, stream)
        if (await conn.streams.info(stream)).atomic:
            assert await refused(lambda: conn.publish_batch(stream, [EVENT]), stream)
    assert await n_events(conn, stream) == 0


async def test_publish_when_middleware_has_hooks_is_refused(connect: Connect, stream: str) -> None:
    class Audit(eda.Middleware):
        async def publish(self, event: eda.Event, call_next: Any) -> Any:
            return await call_next(event)

    conn = await connect(middleware=[Audit()])
    await conn.streams.create(stream, MARKED)
    assert await refused(lambda: conn.publish(stream, EVENT), stream)
    assert await refused(conn.publisher(stream).__aenter__, stream)


async def test_publish_when_this_connection_sets_the_mark_is_refused_at_once(conn: eda.Conn, stream: str) -> None:
    async with conn.publisher(stream) as publisher:
        await publisher.send_and_wait(EVENT)
        await conn.publish(stream, EVENT)
        await conn.streams.purge(stream)
        await conn.streams.update(stream, store=True)
        assert await refused(lambda: conn.publish(stream, EVENT), stream)
        await until(lambda: refused(lambda: publisher.send(EVENT), stream))
        await conn.streams.update(stream, store=False)
        await conn.publish(stream, EVENT)
        await until(lambda: publisher.send(EVENT) if not publisher._pump._is_refused else None)


@pytest.mark.usefixtures("quick_looks")
@pytest.mark.parametrize("mode", ["window", "auto"])
async def test_publish_when_another_connection_sets_the_mark_is_refused_soon(
    connect: Connect, conn: eda.Conn, stream: str, mode: Any
) -> None:
    other = await connect()
    await conn.publish(stream, EVENT)
    async with conn.publisher(stream, mode=mode) as publisher:
        await publisher.send_and_wait(EVENT)
        await other.streams.purge(stream)
        await other.streams.update(stream, store=True)
        await until(lambda: refused(lambda: conn.publish(stream, EVENT), stream))
        await until(lambda: refused(lambda: publisher.send(EVENT), stream))
        assert await refused(lambda: publisher.send_many([EVENT, EVENT]), stream)
        assert await refused(lambda: publisher.send_and_wait(EVENT), stream)
        failed: list[Any] = []
        try:
            await publisher.flush()
        except eda.PublishFailed as error:  # of an event that was taken, and not yet written when the mark was seen
            failed = error.failed
        assert all(f"conn.store('{stream}')" in str(reason) for _, reason in failed)
        n = await n_events(conn, stream)
        await other.streams.update(stream, store=False)
        await until(lambda: _sent(publisher, stream))
    assert await n_events(conn, stream) > n


async def _sent(publisher: eda.Publisher, stream: str) -> bool:
    return not await refused(lambda: publisher.send(EVENT), stream)


async def test_publish_when_the_mark_is_set_while_disconnected_is_refused_after_the_reconnect(
    server: eda.EmbeddedServer, connect: Connect, stream: str
) -> None:
    admin = await connect()
    await admin.streams.create(stream)
    async with Proxy(int(server.url.rpartition(":")[2])) as proxy:
        conn = await connect(proxy.url(server.url))
        await conn.publish(stream, EVENT)
        async with conn.publisher(stream) as publisher:
            await publisher.send_and_wait(EVENT)
            await admin.streams.purge(stream)
            proxy.refusing = True
            proxy.drop()
            await until(lambda: not wire_of(conn).is_up)
            await publisher.send(EVENT)  # it waits for the connection
            await admin.streams.update(stream, store=True)
            proxy.refusing = False
            with pytest.raises(eda.PublishFailed) as caught:
                await publisher.flush()
            ((event, error),) = caught.value.failed
            assert (event.type, type(error)) == ("t", eda.ConfigError)
            assert await refused(lambda: publisher.send(EVENT), stream)
            await until(lambda: refused(lambda: conn.publish(stream, EVENT), stream))
        await conn.close()
    assert await n_events(admin, stream) == 0


@pytest.mark.usefixtures("quick_looks")
async def test_looks_when_the_connection_is_closed_end(connect: Connect, admin: Admin, stream: str) -> None:
    conn = await connect()
    await conn.publish(stream, EVENT)
    asked: list[Any] = []

    async def note(message: Any) -> None:
        asked.append(message)

    subscription = await admin.client.subscribe(f"$JS.API.STREAM.INFO.{stream}", cb=note)
    await until(lambda: len(asked) > 2)
    await conn.close()
    await admin.client.flush()
    n = len(asked)
    await asyncio.sleep(0.2)  # several times the pause between two looks
    assert len(asked) == n
    await subscription.unsubscribe()


@pytest.mark.usefixtures("quick_looks")
async def test_looks_when_the_stream_was_deleted_end_until_the_next_publish(
    connect: Connect, conn: eda.Conn, stream: str
) -> None:
    other = await connect()
    await conn.publish(stream, EVENT)
    await other.streams.delete(stream)
    services = conn._lifetime._services
    assert services is not None
    await until(lambda: stream not in services.known_streams.known)
    assert stream not in services.known_streams.looks._watched
    await conn.publish(stream, EVENT)
    assert stream in services.known_streams.looks._watched


async def test_dead_letters_when_their_stream_is_marked_are_refused_at_subscribe(conn: eda.Conn, stream: str) -> None:
    dead = f"{stream}-dead"
    await conn.streams.create(dead, MARKED)
    try:
        with pytest.raises(eda.ConfigError, match=rf"dead_letter: stream '{dead}' belongs to event stores"):
            await conn.subscribe(stream, print, name="sub", durable=True)
    finally:
        await conn.streams.delete(dead)


async def test_dead_letters_when_their_stream_is_marked_later_are_refused(
    connect: Connect, conn: eda.Conn, stream: str, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eda.dead_letters.suitable_streams.LOOK_EVERY_S", 0.0)
    dead = f"{stream}-dead"
    other = await connect()
    await other.streams.create(dead)

    def reject(event: eda.Event) -> None:
        raise eda.Reject("no")

    try:
        sub = await conn.subscribe(stream, reject, name="sub", durable=True)
        await other.streams.update(dead, store=True)
        await conn.publish(stream, EVENT)
        with pytest.raises(eda.ConfigError, match="belongs to event stores"):
            await sub.wait()
        logged.expect("rejected event", "can't store event", "subscription sub to .* ends")
        assert await n_events(other, dead) == 0
    finally:
        await other.streams.delete(dead)


async def test_replay_when_the_stream_is_marked_goes_to_the_bare_subject(
    conn: eda.Conn, admin: Admin, stream: str, logged: Logged
) -> None:
    logged.expect("rejected event")
    await conn.streams.create(stream, MARKED)
    seen: list[eda.Event] = []
    is_mended = False

    def handle(event: eda.Event) -> None:
        if not is_mended:
            raise eda.Reject("not yet")
        seen.append(event)

    options: dict[str, Any] = {"durable": True, "backfill": True, "types": ["t"]}
    dead = f"{stream}-dead"
    try:
        async with conn.subscribe(stream, handle, name="sub", **options) as sub:
            await admin.js.publish(f"{stream}.t.a", encode_event(EVENT, "a1", version=1))
            await until(lambda: sub.stats().dead_lettered == 1)
            is_mended = True
            assert await conn.replay_dead(stream, "sub") == 1
            await until(lambda: seen)
    finally:
        await conn.streams.delete(dead)
    (event,) = seen
    assert (event.type, event.aggregate, event.version) == ("t", "a", 1)
    message = await admin.js.get_msg(stream, event.sequence)
    assert message.subject == stream
    assert (message.headers or {})["Eda-Replay-For"] == "sub"


async def test_publish_when_unanswered_and_the_stream_is_marked_meanwhile_fails(
    server: eda.EmbeddedServer, connect: Connect, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eda.publishing.stream_publisher.FRESH_S", 0.0)  # the last check was before the mark
    admin = await connect()
    await admin.streams.create(stream)
    async with Proxy(int(server.url.rpartition(":")[2])) as proxy:
        conn = await connect(proxy.url(server.url))
        await conn.publish(stream, EVENT)
        await admin.streams.purge(stream)
        proxy.hold()  # what is published now does not reach the server
        publishing = asyncio.ensure_future(conn.publish(stream, EVENT.replace(id="unanswered")))
        await until(lambda: b"unanswered" in proxy.sent)
        await admin.streams.update(stream, store=True)
        proxy._flowing = asyncio.Event()  # the old connection is held for ever, and a new one is not
        proxy._flowing.set()
        proxy.drop()
        with pytest.raises(eda.ConfigError, match="belongs to event stores") as caught:
            await publishing
        assert "may be stored" in caught.value.__notes__[0]
        await conn.close()
    assert await n_events(admin, stream) == 0
