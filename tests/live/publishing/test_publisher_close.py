"""Closing and flushing a publisher: no call hangs, and every event gets an outcome."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

import eda
import eda.publishing.publisher
from helpers import Connect, Logged, until
from support.publishing.sent import MODES, Outcomes, numbered, stored_ids
from support.transport.faulty_proxy import FaultyProxy

both = pytest.mark.parametrize("mode", MODES)


@pytest.fixture
async def proxy(server: eda.EmbeddedServer) -> AsyncIterator[FaultyProxy]:
    async with FaultyProxy(server.port) as proxy:
        yield proxy


async def go_away(proxy: FaultyProxy, conn: eda.Conn) -> None:
    """Cut the connection, and refuse all reconnects."""
    proxy.refusing = True
    proxy.cut()
    await until(lambda: conn.state == "disconnected")


# --- flush ---------------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("when", ["before", "under-way", "frozen"])
async def test_flush_when_the_server_is_gone_for_good_fails_each_within_the_timeout(
    connect: Connect, server: eda.EmbeddedServer, proxy: FaultyProxy, stream: str, mode: str, when: str
) -> None:
    conn = await connect(proxy.url(server.url))
    outcomes = Outcomes()
    async with conn.publisher(stream, mode=mode, timeout_s=1.0, ack_timeout_s=0.2, **outcomes.callbacks) as pub:
        first = await pub.send_many(numbered(100))
        await pub.flush()
        events = numbered(1000, start=100)
        if when == "before":
            await go_away(proxy, conn)
        elif when == "frozen":
            proxy.hold()
        ids = await pub.send_many(events)
        begin = time.monotonic()
        if when == "under-way":
            await go_away(proxy, conn)
        await asyncio.wait_for(pub.flush(), 5)
        assert 0.5 < time.monotonic() - begin < 4
        failed = list(outcomes.failures)
        assert [event.id for event, _ in failed] == ids[-len(failed) :]
        for event, error in failed:
            assert isinstance(error, eda.Timeout)
            assert error.event_id == event.id
            assert error.timeout_s == 1.0
        # Later events have time-outs of their own, and are stored when the server is back.
        proxy.refusing = False
        proxy.release()
        await until(lambda: conn.state != "disconnected")
        late = await pub.send_many(numbered(10, start=5000))
        await asyncio.wait_for(pub.flush(), 10)
        outcomes.check(first + ids + late, await stored_ids(server.url, stream), pub.stats())
        assert set(late) <= outcomes.acknowledged.keys()


@both
async def test_flush_when_nothing_was_sent_returns(conn: eda.Conn, stream: str, mode: str) -> None:
    pub = conn.publisher(stream, mode=mode)
    await pub.flush()
    async with pub:
        await pub.flush()
        await pub.flush()
    await pub.flush()


@both
async def test_flush_when_called_again_tells_failures_once(conn: eda.Conn, stream: str, mode: str) -> None:
    await conn.streams.create(stream, eda.StreamOptions(max_events=1, discard="new"))
    async with conn.publisher(stream, mode=mode) as pub:
        await pub.send_many(numbered(3))
        with pytest.raises(eda.PublishFailed, match="2 events could not be published"):
            await pub.flush()
        await pub.flush()


@both
async def test_flush_when_several_wait_returns_for_each_when_its_own_are_settled(
    conn: eda.Conn, stream: str, mode: str
) -> None:
    settled: list[int] = []
    async with conn.publisher(stream, mode=mode) as pub:

        async def flush(n: int) -> None:
            await pub.flush()
            assert pub.stats().acknowledged >= n
            settled.append(n)

        tasks = []
        for n in (100, 200, 300, 1300, 1301):
            await pub.send_many(numbered(n - pub.stats().sent, start=pub.stats().sent))
            tasks.append(asyncio.create_task(flush(n)))
            await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(*tasks), 10)
    assert sorted(settled) == [100, 200, 300, 1300, 1301]


@both
async def test_flush_when_others_keep_sending_returns(conn: eda.Conn, stream: str, mode: str) -> None:
    async with conn.publisher(stream, mode=mode, max_pending=200) as pub:

        async def send() -> None:
            while True:
                await pub.send(eda.Event())
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(send()) for _ in range(3)]
        for _ in range(20):
            await asyncio.sleep(0.001)
            await asyncio.wait_for(pub.flush(), 5)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@both
async def test_flush_when_cancelled_leaves_the_events_to_be_sent(
    connect: Connect, server: eda.EmbeddedServer, proxy: FaultyProxy, stream: str, mode: str
) -> None:
    conn = await connect(proxy.url(server.url))
    async with conn.publisher(stream, mode=mode) as pub:
        await pub.send(eda.Event(id="first"))
        await pub.flush()
        proxy.hold()
        ids = await pub.send_many(numbered(1000))
        flushes = [asyncio.create_task(pub.flush()) for _ in range(3)]
        await asyncio.sleep(0.02)
        flushes[0].cancel()
        flushes[2].cancel()
        await asyncio.wait({flushes[0], flushes[2]})
        assert not flushes[1].done()
        proxy.release()
        await asyncio.wait_for(flushes[1], 10)
        assert pub.stats().acknowledged == 1001
    assert await stored_ids(server.url, stream) == ["first", *ids]


# --- the context ---------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("raised", [RuntimeError, eda.Timeout("publish", 1.0), TimeoutError], ids=repr)
async def test_context_when_left_by_an_exception_sends_what_was_accepted(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str, raised: Any
) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        async with conn.publisher(stream, mode=mode) as pub:
            ids = await pub.send_many(numbered(3000))
            raise raised
    assert isinstance(caught.value, raised if isinstance(raised, type) else type(raised))
    assert await stored_ids(server.url, stream) == ids


@both
async def test_context_when_left_by_an_exception_logs_failures_rather_than_raise_them(
    conn: eda.Conn, stream: str, mode: str, logged: Logged
) -> None:
    logged.expect("the flush after an exception failed: 2 events could not be published")
    await conn.streams.create(stream, eda.StreamOptions(max_events=1, discard="new"))
    with pytest.raises(LookupError):
        async with conn.publisher(stream, mode=mode) as pub:
            await pub.send_many(numbered(3))
            raise LookupError


async def out_of_time(pub: eda.Publisher) -> None:
    async with asyncio.timeout(0.05):
        await asyncio.sleep(5)


async def waited_too_long(pub: eda.Publisher) -> None:
    await asyncio.wait_for(asyncio.sleep(5), 0.05)


async def cancelled(pub: eda.Publisher) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(5)


async def cancelled_and_failed(pub: eda.Publisher) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await cancelled(pub)
    raise LookupError


async def interrupted(pub: eda.Publisher) -> None:
    raise GeneratorExit


@both
@pytest.mark.parametrize("leave", [out_of_time, waited_too_long, cancelled, cancelled_and_failed, interrupted])
async def test_context_when_the_block_is_cancelled_ends_now_and_fails_what_is_pending(
    connect: Connect, server: eda.EmbeddedServer, proxy: FaultyProxy, stream: str, mode: str, leave: Any, logged: Logged
) -> None:
    conn = await connect(proxy.url(server.url))
    outcomes = Outcomes()

    async def work() -> None:
        async with conn.publisher(stream, mode=mode, **outcomes.callbacks) as pub:
            await pub.send(eda.Event(id="first"))
            await pub.flush()
            proxy.hold()
            await pub.send_many(numbered(100))
            await leave(pub)

    begin = time.monotonic()
    with pytest.raises((TimeoutError, asyncio.CancelledError, LookupError, GeneratorExit)):
        await asyncio.create_task(work())
    assert time.monotonic() - begin < 4
    assert not conn._lifetime.publishers
    assert list(outcomes.failed) == [event.id for event in numbered(100)]
    assert {type(error) for error in outcomes.errors.values()} == {eda.Closed}
    assert len(logged.find("closed with 100 events pending, which fail")) == 1
    proxy.release()


@both
async def test_context_when_it_fails_with_a_silent_server_waits_for_some_seconds_only(
    connect: Connect,
    server: eda.EmbeddedServer,
    proxy: FaultyProxy,
    stream: str,
    mode: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(eda.publishing.publisher, "FLUSH_ON_ERROR_S", 0.5)
    conn = await connect(proxy.url(server.url))
    outcomes = Outcomes()
    with pytest.raises(LookupError):
        async with conn.publisher(stream, mode=mode, **outcomes.callbacks) as pub:
            proxy.hold()
            await pub.send_many(numbered(100))
            begin = time.monotonic()
            raise LookupError
    assert 0.4 < time.monotonic() - begin < 4
    assert {type(error) for error in outcomes.errors.values()} == {eda.Closed}
    proxy.release()


@both
async def test_context_when_cancelled_while_it_flushes_ends_now(
    connect: Connect, server: eda.EmbeddedServer, proxy: FaultyProxy, stream: str, mode: str
) -> None:
    conn = await connect(proxy.url(server.url))
    outcomes = Outcomes()

    async def work() -> None:
        async with conn.publisher(stream, mode=mode, **outcomes.callbacks) as pub:
            proxy.hold()
            await pub.send_many(numbered(100))

    task = asyncio.create_task(work())
    await until(lambda: conn._lifetime.publishers and next(iter(conn._lifetime.publishers)).stats().pending == 100)
    await asyncio.sleep(0.05)
    begin = time.monotonic()
    task.cancel()
    await asyncio.wait({task}, timeout=5)
    assert task.cancelled()
    assert time.monotonic() - begin < 4
    assert outcomes.failed.total() == 100
    assert not conn._lifetime.publishers
    proxy.release()


@both
async def test_context_when_left_leaves_nothing_behind(conn: eda.Conn, stream: str, mode: str) -> None:
    wire = conn._lifetime._services.wire  # type: ignore[union-attr]
    before = [len(each) for each in (wire.on_lost, wire.on_restored, wire.on_refused, wire.on_closed, wire._subs)]
    for _ in range(3):
        async with conn.publisher(stream, mode=mode) as pub:
            await pub.send_many(numbered(100))
    after = [len(each) for each in (wire.on_lost, wire.on_restored, wire.on_refused, wire.on_closed, wire._subs)]
    assert after == before
    assert not conn._lifetime.publishers
    assert pub._pump.clock.timer is None


# --- closing -------------------------------------------------------------------------------------------------------


@both
async def test_close_when_events_are_pending_fails_them_with_closed(
    connect: Connect, server: eda.EmbeddedServer, proxy: FaultyProxy, stream: str, mode: str
) -> None:
    conn = await connect(proxy.url(server.url))
    outcomes = Outcomes()
    pub = await conn.publisher(stream, mode=mode, max_pending=50, **outcomes.callbacks)
    await pub.send(eda.Event(id="first"))
    await pub.flush()
    proxy.hold()
    sending = asyncio.create_task(pub.send_many(numbered(60)))
    flushing = asyncio.create_task(pub.flush())
    await until(lambda: pub.stats().pending == 50)
    await pub.close()
    await pub.close()
    with pytest.raises(eda.Closed):
        await sending
    await flushing
    with pytest.raises(eda.Closed):
        await pub.send(eda.Event())
    proxy.release()
    assert pub.stats() == eda.PublisherStats(51, 1, 0, 50, 0, 0, mode)
    assert {type(error) for error in outcomes.errors.values()} == {eda.Closed}
    assert list(outcomes.failed) == [event.id for event in numbered(50)]


@both
async def test_close_when_the_connection_closes_flushes_first(
    connect: Connect, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    conn = await connect()
    pubs = [await conn.publisher(stream, mode=mode) for _ in range(3)]
    ids = {each for i, pub in enumerate(pubs) for each in await pub.send_many(numbered(1500, start=i * 2000))}
    await conn.close()
    assert set(await stored_ids(server.url, stream)) == ids
    for pub in pubs:
        assert pub.stats().acknowledged == 1500
        with pytest.raises(eda.Closed):
            await pub.send(eda.Event())
        await pub.close()


@both
async def test_close_when_the_connection_closes_without_a_server_ends_within_the_publish_timeout(
    connect: Connect, server: eda.EmbeddedServer, proxy: FaultyProxy, stream: str, mode: str
) -> None:
    conn = await connect(proxy.url(server.url))
    outcomes = [Outcomes() for _ in range(4)]
    pubs = [await conn.publisher(stream, mode=mode, timeout_s=1.0, **each.callbacks) for each in outcomes]
    await go_away(proxy, conn)
    for pub in pubs:
        await pub.send_many(numbered(10))
    begin = time.monotonic()
    await asyncio.wait_for(conn.close(), 10)
    assert time.monotonic() - begin < 3
    for pub, outcome in zip(pubs, outcomes, strict=True):
        assert pub.stats().failed == 10
        assert {type(error) for error in outcome.errors.values()} == {eda.Timeout}


@both
async def test_close_when_senders_wait_for_a_connection_wakes_them(
    connect: Connect, server: eda.EmbeddedServer, proxy: FaultyProxy, stream: str, mode: str
) -> None:
    """The transport is full and then lost. `close` must wake the waiting sender."""
    conn = await connect(proxy.url(server.url))
    pub = await conn.publisher(stream, mode=mode, max_pending_bytes=2**30, max_pending=65536, timeout_s=1.5)
    await pub.send(eda.Event())
    await pub.flush()
    proxy.hold()
    data = eda.Bytes(bytes(500_000))

    async def send() -> None:
        while True:
            await pub.send(eda.Event(data=data))

    sending = asyncio.create_task(send())
    await until(lambda: conn._lifetime._services.wire.out.paused)  # type: ignore[union-attr]
    n = pub.stats().sent
    await go_away(proxy, conn)
    await until(lambda: pub.stats().sent > n)
    sending.cancel()
    await asyncio.wait({sending})
    await pub.close()


@both
async def test_send_when_not_opened_raises_closed(conn: eda.Conn, stream: str, mode: str) -> None:
    pub = conn.publisher(stream, mode=mode)
    with pytest.raises(eda.Closed, match="enter it"):
        await pub.send(eda.Event())
    async with pub:
        await pub.send(eda.Event())
    with pytest.raises(eda.Closed):
        async with pub:
            pass


@both
async def test_publisher_when_awaited_and_entered_is_opened_once(
    conn: eda.Conn, server: eda.EmbeddedServer, stream: str, mode: str
) -> None:
    pub = conn.publisher(stream, mode=mode)
    assert await asyncio.gather(pub, pub) == [pub, pub]  # type: ignore[call-overload]
    assert len(conn._lifetime.publishers) == 1
    async with pub as entered:
        assert entered is pub
        ids = await pub.send_many(numbered(100))
    assert await stored_ids(server.url, stream) == ids


@both
async def test_publisher_when_opening_is_cancelled_leaves_nothing_behind(
    connect: Connect, server: eda.EmbeddedServer, proxy: FaultyProxy, stream: str, mode: str
) -> None:
    conn = await connect(proxy.url(server.url))
    proxy.hold()
    pub = conn.publisher(stream, mode=mode)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await pub
    proxy.release()
    assert not conn._lifetime.publishers
    with pytest.raises(eda.Closed):
        await pub.send(eda.Event())


# --- options -------------------------------------------------------------------------------------------------------


async def test_publisher_when_the_timeout_is_over_half_of_the_duplicate_window_raises(
    conn: eda.Conn, stream: str
) -> None:
    await conn.streams.create(stream, eda.StreamOptions(dedup_window_s=10))
    with pytest.raises(eda.ConfigError, match=r"timeout_s=30 must be at most 5: half of the duplicate window \(10 s\)"):
        async with conn.publisher(stream, timeout_s=30):
            pass
    assert not conn._lifetime.publishers
    async with conn.publisher(stream) as pub:
        assert pub._pump.clock.timeout_s == 5
    async with conn.publisher(stream, timeout_s=5):
        pass
    async with conn.publisher(stream, dedup=False):
        pass


BAD_OPTIONS: list[dict[str, Any]] = [
    {"mode": "slow"},
    {"mode": None},
    {"dedup": "no"},
    {"dedup": None},
    {"dedup": 1},
    {"max_pending": 0},
    {"max_pending": 65_537},
    {"max_pending": True},
    {"max_pending": 1.5},
    {"max_pending_bytes": 0},
    {"max_pending_bytes": "8M"},
    {"ack_timeout_s": 0},
    {"ack_timeout_s": float("nan")},
    {"ack_timeout_s": "5"},
    {"timeout_s": -1},
    {"timeout_s": float("inf")},
    {"timeout_s": True},
    {"on_ack": 5},
    {"on_error": "print"},
    {"on_ack": go_away},
    {"on_error": go_away},
]


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=lambda each: str(each).partition(" at 0x")[0])
async def test_publisher_when_an_option_cannot_be_right_raises(conn: eda.Conn, options: dict[str, Any]) -> None:
    with pytest.raises(eda.ConfigError) as caught:
        conn.publisher("stream", **options)
    assert caught.value.argument == next(iter(options))
    assert not conn._lifetime.publishers


async def test_publisher_when_the_stream_name_is_bad_raises(conn: eda.Conn) -> None:
    with pytest.raises(eda.ConfigError):
        conn.publisher("a.b")


async def test_publisher_when_the_connection_is_closed_raises(connect: Connect) -> None:
    conn = await connect()
    pub = conn.publisher("stream")
    await conn.close()
    with pytest.raises(eda.Closed):
        conn.publisher("stream")
    with pytest.raises(eda.Closed):
        await pub
